"""Resending in bulk: `opskit apply` against the shell loop over the Stripe CLI that a prose runbook recommends.

The same events, the same company, the same limits of its Stripe. opskit looks at each profile before and after its
event and stops at the first that did not come right; the loop looks at nothing.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from benchmarks.measuring import Row, Skipped, in_turns
from benchmarks.stage import ROOT, RUNBOOK, journal, living, opskit, run, timed
from opskit import environment, plan
from opskit.sandbox import Sandbox

NAME = "bulk resend"
SCENARIO = Path(__file__).with_name("resend.yaml")
CLI = ROOT / "node_modules" / ".bin" / "stripe"  # ignored by git
LOOP = """
for e in "$@"; do
  "$STRIPE" events resend "$e" --webhook-endpoint="$ENDPOINT" --live --api-base "$STRIPE_API" || exit 1
done
"""


def measure(place: Path, rounds: int) -> list[Row]:
    stripe_version = run([str(_cli()), "version"], _private(place)).split("\n", 1)[0]
    with living("bench-resend") as company:
        events = _events(company)
        found = in_turns(
            rounds,
            {
                "opskit apply": lambda: _ours(company, events, None),
                "opskit apply --rate 25": lambda: _ours(company, events, "25"),
                "shell loop": lambda: _loop(company, events, place),
            },
        )
    notes = {
        "opskit apply": "a quarter of Stripe's limit; each profile read before and after its event",
        "opskit apply --rate 25": "up to Stripe's limit; each profile read before and after its event",
        "shell loop": f"{stripe_version}; verifies nothing",
    }
    return [
        Row(NAME, name, "events/s", values, rival="" if name == "shell loop" else "shell loop", note=notes[name])
        for name, values in found.items()
    ]


def _cli() -> Path:
    if not CLI.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise Skipped("npm is missing, so Stripe's command-line tool is too.")
        try:
            run([npm, "install", "--no-save", "--no-package-lock", "--prefix", str(ROOT), "@stripe/cli@1"])
        except RuntimeError as error:
            raise Skipped(f"@stripe/cli could not be installed: {error}") from None
    return CLI


def _private(place: Path) -> dict[str, str]:
    """An environment in which the CLI finds no one's configuration, and calls nobody else."""
    return {"PATH": os.environ["PATH"], "HOME": str(place), "STRIPE_CLI_TELEMETRY_OPTOUT": "1"}


def _planned(company: Sandbox) -> plan.Plan:
    """Break the company anew and plan. The seed makes the events the same each time."""
    company.break_with(SCENARIO)
    folder = opskit("run", RUNBOOK, "-p", "since", "6h", "--environment", company.name)["folder"]
    return plan.load(Path(folder) / "plan.json")


def _events(company: Sandbox) -> list[str]:
    return [action.arguments["event"] for action in _planned(company) if action.name == "stripe.resend_event"]


def _ours(company: Sandbox, events: Sequence[str], rate: str | None) -> float:
    """Events a second, from the first event's turn to the last one's verified effect."""
    proposed = _planned(company)
    if {a.arguments.get("event") for a in proposed} - {None} != set(events):
        raise RuntimeError("another plan than the first one: the contestants would not resend the same events")
    opskit("approve", "last", "--type", f"{company.name} {len(proposed)}")
    folder = opskit("apply", "last", *(["--rate", rate] if rate else []))["folder"]
    ended = [e for e in journal(folder) if e["event"] == "action.ended"]
    before, *resent = [e for e in ended if e["name"] in ("stripe.enable_endpoint", "stripe.resend_event")]
    _require_healed(company)
    return len(resent) / (_at(resent[-1]) - _at(before)).total_seconds()


def _at(event: dict[str, str]) -> datetime:
    return datetime.fromisoformat(event["at"])


def _loop(company: Sandbox, events: Sequence[str], place: Path) -> float:
    """Events a second, until the last command returns."""
    company.break_with(SCENARIO)
    target = environment.load(company.name, place)
    endpoint, address = target.services.stripe.part("webhook_endpoint"), target.services.stripe.address
    key = environment.resolve(target, "change")["stripe"]
    env = {**_private(place), "STRIPE_API_KEY": key, "STRIPE": str(CLI), "STRIPE_API": address, "ENDPOINT": endpoint}
    enable = ["webhook_endpoints", "update", endpoint, "-d", "disabled=false", "--confirm", "--live"]
    run([str(CLI), *enable, "--api-base", address], env)
    seconds = timed(["sh", "-c", LOOP, "sh", *events], env, fine=(0,))
    _require_healed(company)
    return len(events) / seconds


def _require_healed(company: Sandbox) -> None:
    """Nobody is fast who leaves profiles wrong. The last delivery may be on its way yet."""
    deadline = time.monotonic() + 20
    while wrong := company.disagreements():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(wrong)} profiles still disagree with Stripe")
        time.sleep(0.2)
