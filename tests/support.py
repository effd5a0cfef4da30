"""What tests say to each other about themselves: where the repository is, and how to read an answer."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from click.testing import Result

from opskit import archive, environment, journal, lock, provenance, record, sandbox, services
from opskit.journal import Journal
from opskit.sandbox import Sandbox

REPOSITORY = Path(__file__).parents[1]
RUNBOOK = "stripe-webhook-replay"
NOBODY = Path("nobody-may-sign")  # a file of allowed signers that there is not

OPSKIT = str(Path(sys.executable).with_name("opskit"))

Opskit = Callable[..., Result]


def script(name: str) -> ModuleType:
    """A module of `scripts/`, which is no package."""
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", REPOSITORY / "scripts" / f"{name}.py")
    assert spec and spec.loader
    if str(REPOSITORY / "scripts") not in sys.path:  # they know each other
        sys.path.append(str(REPOSITORY / "scripts"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def data(result: Result) -> Any:
    """What a command answered with --json."""
    return json.loads(result.stdout)["data"]


def wrong(folder: Path) -> tuple[str, ...]:
    """What is not as it was in a sealed record, whoever may sign."""
    return record.verify(folder, NOBODY).wrong


def make_key(path: Path, passphrase: str = "") -> Path:
    """A new SSH key at `path`, and its public half beside it."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", path.name, "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


def allow(path: Path, *lines: tuple[str, Path], options: str = "") -> Path:
    """A file of allowed signers: whose each key is."""
    public = ((who, key.with_name(f"{key.name}.pub").read_text()) for who, key in lines)
    with path.open("a") as file:
        file.writelines(f"{who} {options + ' ' if options else ''}{key}" for who, key in public)
    return path


def notebook(*cells: str, parameters: str | None = None) -> dict[str, Any]:
    """A small notebook of code cells, as a runbook would be kept."""
    head = "from opskit.parameters import EnvironmentName, Moment\n"
    declared = parameters if parameters is not None else 'environment: EnvironmentName = "sandbox"  # where to look'
    code = [("parameters", head + declared, ["parameters"]), *((f"cell-{n}", c, []) for n, c in enumerate(cells))]
    return {
        "cells": [
            {
                "cell_type": "code",
                "execution_count": None,
                "id": key,
                "metadata": {"tags": tags} if tags else {},
                "outputs": [],
                "source": source,
            }
            for key, source, tags in code
        ],
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


# A small runbook, for everything that does not need a large one.

PARAMETERS = """from typing import Optional
from opskit.parameters import IncidentId
incident: Optional[IncidentId] = None  # the incident's id
environment: EnvironmentName = "sandbox"  # where to look"""
BEGIN = 'from opskit import begin\nrun = begin("small")'
ENDPOINT = """endpoint = run.stripe.endpoint()
run.check("enabled", endpoint["status"] == "enabled", "Enabled?", cause="endpoint-disabled")"""
ENABLE = 'if run.found("endpoint-disabled"):\n    run.plan.add(run.stripe.enable_endpoint(endpoint["id"]))'
SMALL = (BEGIN, ENDPOINT, ENABLE, "run.apply()")
RECONCILE = """for one in [d for d in run.profiles.drift() if d.profile and d.state][:2]:
    run.plan.add(run.profiles.reconcile(one.profile, one.customer, one.state))"""
TWO = (BEGIN, ENDPOINT, ENABLE, RECONCILE, "run.apply()")  # in both services


def keep(repository: Path, *cells: str, name: str = "small") -> None:
    """Put a small runbook into a team's repository."""
    content = notebook(*cells, parameters=PARAMETERS)
    (repository / "notebooks" / f"{name}.ipynb").write_text(json.dumps(content))


def events(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    found = list(journal.read(folder / record.JOURNAL))
    return [event for event in found if kind in (None, event["event"])]


def answers(folder: Path) -> dict[str, dict[str, Any]]:
    """What a run's checks answered, by their names."""
    return {event["name"]: event for event in events(folder, "check")}


def stronger(name: str, folder: Path, **more: Any) -> Path:
    """A shipped scenario that goes on."""
    path = folder / f"{name}.yaml"
    shipped = Path(sandbox.__file__).parent / "scenarios" / path.name
    path.write_text(yaml.safe_dump(yaml.safe_load(shipped.read_text(encoding="utf-8")) | more))
    return path


def everything(name: str) -> tuple[environment.Environment, services.Services]:
    """An environment, and its services with every credential."""
    target = environment.load(name, provenance.find_root())
    secrets = {access: environment.resolve(target, access) for access in ("read", "change")}
    return target, services.connect(target, secrets, "opskit/test")


def held(firm: Sandbox, outputs: Path) -> AbstractContextManager[Mapping[str, Any]]:
    """Somebody is changing the sandbox."""
    return lock.alone(firm.name, everything(firm.name)[1].database, outputs, "test")


def sealed(outputs: Path, incident: str = "INC-1", run: str = "", by: str = "ana", **files: str) -> Path:
    """A sealed record in an archive, as small as one can be."""
    run = run or f"20260101T000000{len(list(outputs.glob('*/*'))):03}-{by[:4]:0<4}"
    head = {"incident": incident, "run": run, "runbook": "small", "environment": "sandbox", "operator": by,
            "started": "2026-01-01T00:00:00+00:00", "host": "here", "retention_days": 90, "parameters": {}}  # fmt: skip
    folder = record.prepare(outputs, head)
    Journal(folder / record.JOURNAL).write("run.ended", outcome="healthy", exit=0)
    for name, text in {"notebook.ipynb": "{}\n", **files}.items():
        path = folder / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPSKIT_OUTPUTS", str(outputs))  # only its own archive takes a record
        archive.seal(folder)
    return folder


def restore(kept: Path, outputs: Path) -> None:
    """An archive as it was, and still the same one: what it goes by is not copied."""
    shutil.copytree(kept, outputs)
    (name := outputs / ".locks" / "archive").unlink()
    name.hardlink_to(kept / ".locks" / "archive")


class Machine:
    """A person with a repository and outputs of their own: no file is shared with the other."""

    def __init__(self, who: str, key: Path, place: Path, firm: Sandbox, *cells: str) -> None:
        self.firm, self.outputs = firm, place / who / "outputs"
        for name in ("notebooks", "parameters"):
            shutil.copytree(REPOSITORY / name, place / who / "repository" / name)
        keep(place / who / "repository", *(cells or SMALL))
        self.surroundings = {
            **os.environ,
            "OPSKIT_ROOT": str(place / who / "repository"),
            "OPSKIT_OUTPUTS": str(self.outputs),
            "OPSKIT_OPERATOR": who,
            "OPSKIT_SIGNING_KEY": str(key),
        }

    def types(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [OPSKIT, *arguments], env=self.surroundings, capture_output=True, text=True, check=False, timeout=300
        )

    def begins(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen([OPSKIT, *arguments], env=self.surroundings, text=True, stdout=subprocess.DEVNULL)

    def plans(self) -> None:
        """Look, and approve: a plan of this machine's own. It is kept, to begin again with."""
        planned = self.types("run", "small", "--environment", self.firm.name, "--json")
        assert planned.returncode == 3, planned
        typed = f"{self.firm.name} {json.loads(planned.stdout)['data']['actions']}"
        assert self.types("approve", "last", "--with-removals", "--type", typed).returncode == 0
        restore(self.outputs, self.outputs.with_name("kept"))

    def begins_again(self) -> None:
        shutil.rmtree(self.outputs)
        restore(self.outputs.with_name("kept"), self.outputs)

    def applies(self) -> subprocess.CompletedProcess[str]:
        return self.types("apply", "last")

    def acted(self) -> int:
        """How often an action was begun by whatever ran here."""
        return sum(len(events(folder, "action.begun")) for folder in archive.Archive(self.outputs).runs())


def quickly(cases: Iterable[Any], *quick: Any) -> list[Any]:
    """Cases for a parameter, of which all but these are for the exhaustive tests only."""
    marked = [
        (case if isinstance(case, tuple) else (case,), [] if case in quick else [pytest.mark.deep]) for case in cases
    ]
    return [pytest.param(*case, marks=marks) for case, marks in marked]


SHELL = """
show() {{ printf '%s\\0' "$@"; }}
psql() {{ show psql "$@"; }}; stripe() {{ show stripe "$@"; }}; vercel() {{ show vercel "$@"; }}
curl() {{ show curl "$@"; }}; opskit() {{ show opskit "$@"; }}; supabase() {{ show supabase "$@"; }}
squawk() {{ show squawk "$@"; }}
DATABASE_URL=url OWNER_DATABASE_URL=url
{}
"""


def as_bash_reads(typed: str, folder: Path) -> list[str]:
    """The words that bash hands to the tools of a command; nothing is started."""
    ran = subprocess.run(
        ["bash", "-c", SHELL.format(typed)], cwd=folder, capture_output=True, text=True, check=False, timeout=20
    )
    assert (ran.returncode, ran.stderr) == (0, ""), f"{typed}: {ran.stderr}"
    return ran.stdout.split("\0")
