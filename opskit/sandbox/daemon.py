"""The sandbox's process: founds the company, serves it, and lives until it is told to end."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

from opskit.sandbox import (
    SandboxError,
    app,
    company,
    control,
    providers,
    providers_api,
    sentry,
    statuspages,
    stripe,
    supabase,
    vercel,
)
from opskit.sandbox.company import Company
from opskit.sandbox.environment import write, write_secrets
from opskit.sandbox.serving import Serving, faulty
from opskit.sandbox.world import Fault

SERVICES = {
    "app": app.application,
    "stripe": stripe.application,
    "vercel": vercel.application,
    "sentry": sentry.application,
    "supabase": supabase.application,
    "status": statuspages.application,
    **{name: providers_api.application(name) for name in providers.NAMES},
}


def main(folder: Path, seed: int) -> None:
    started = datetime.now(UTC)
    facts = {"pid": os.getpid(), "seed": seed, "started": started.isoformat(timespec="seconds")}
    write(folder / "sandbox.json", json.dumps({**facts, "ready": False}))
    ended = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: ended.set())
    serving = Serving([*SERVICES, "control"])
    addresses = serving.addresses
    control_address = addresses.pop("control")
    firm = company.create(folder, seed, addresses)
    try:
        write_secrets(firm.world, folder)
        serve(firm, serving)
        facts |= {"ready": True, "control": control_address, "addresses": addresses}
        write(folder / "sandbox.json", json.dumps(facts, indent=2))
        ended.wait()
    finally:
        serving.stop()
        firm.present.stop()
        firm.world.locks.release()
        firm.world.database.stop()


def serve(firm: Company, serving: Serving) -> None:
    """Every service behind its faults; the control behind none."""

    def at_the_edge(fault: Fault, method: str, path: str) -> None:
        firm.world.vercel.log_request(method, path, fault.status or 0)

    for service, application in SERVICES.items():
        hit = at_the_edge if service == "app" else None  # the hosting logs what its edge answered
        serving.serve(service, faulty(firm.world, service, application(firm.world), hit))
    serving.serve("control", control.application(firm))
    serving.await_ready()
    firm.present.start()


if __name__ == "__main__":
    if os.fork():
        os._exit(0)  # whoever started us waits for this process only
    os.setsid()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]))
    except SandboxError as error:
        sys.exit(str(error))
