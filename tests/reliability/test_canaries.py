"""Secrets planted in every channel of a run, and looked for in everything that it leaves behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from disguises import leaks, readings
from support import notebook

from opskit.sandbox import Sandbox

PARAMETERS = """from typing import Optional
from opskit.parameters import Flag, IncidentId, Text
incident: Optional[IncidentId] = None  # the incident's id
environment: EnvironmentName = "canary"  # where to look
note: Text = ""  # anything
unmask: Flag = False  # show e-mail addresses in full"""

# Two services answer to nobody here: their secrets may look like the worst that vendors and people think of.
ODD = {
    "vercel": "p%40ss'w\"o/rd&<é>+=\\n$x{y} `z`",
    "sentry": "-----BEGIN PRIVATE KEY-----\n"
    + "\n".join(letter * 20 + "bC3/+" + letter * 39 for letter in "QRS")
    + "\nAbCdEfGh==\n-----END PRIVATE KEY-----\n",
}

BEFORE = """import json, os
_S = [value for found in json.loads(os.environ["OPSKIT_SECRETS"]).values() for value in found.values()]
print(os.environ, open("/proc/self/environ").read(), _S)
for _s in _S: print(_s, open(f"/proc/{os.getppid()}/environ").read())"""
BEGIN = """from opskit import begin
run = begin("canary")
S = _S"""
IMPORTS = """import base64, html, io, logging, multiprocessing, subprocess, sys, threading, time, warnings
from dataclasses import replace
from urllib.parse import quote
import httpx, psycopg, pandas as pd
import matplotlib.pyplot as plt
from comm import create_comm
from IPython.display import HTML, JSON, SVG, Image, Latex, Markdown, display
from matplotlib.figure import Figure
token = S[0]"""

# Every way that we know of in which a notebook can let slip a secret `s` of all its secrets `S`.
WRITTEN = Path(__file__).with_name("channels.txt").read_text()
CHANNELS = dict(re.findall(r"^# %% (.+)\n((?:(?!# %%).*\n)+)", WRITTEN, re.MULTILINE))
MEANT = {None, "ValueError", "KeyError", "RuntimeError", "OSError", "ExceptionGroup", "OperationalError"}
MEANT |= {"ConnectError", "ProgrammingError", "HTTPStatusError", "InvalidURL"}
SILENT = {  # channels whose libraries leave the secret out, that lead elsewhere, or whose order or moment is chance
    "psycopg's exception", "psycopg's objection", "httpx's exception", "both streams in turn", "the journal",
    "an event's name", "a cell of shell", "a comm", "drafts", "the next cell", "a pager", "the process's own streams",
    "file descriptors", "a child's own stdout",
}  # fmt: skip
PLAN = """endpoint = run.stripe.endpoint()
change = run.stripe.enable_endpoint(endpoint["id"])
run.plan.add(replace(change, title=f"Enable {token}", by_hand=f"curl -H {token}"))
run.plan.add(replace(change, arguments={**change.arguments, "more": [token, {token: token}]}, title=S[-1]))
run.plan"""
FILES = """(run.folder / "mine.txt").write_text("\\n".join(S))
(run.folder / "raw.bin").write_bytes(b"\\0\\xff" + token.encode())
(run.folder / f"{token}.txt").write_text("x")
(run.folder / token).mkdir()
(run.folder / token / "deep.json").write_text(json.dumps(S))
pd.Series(S).to_pickle(run.folder / "table.pickle")"""

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def canary(firm: Sandbox, repository: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment like the sandbox, with secrets of every kind; they are answered by name."""
    target = yaml.safe_load(firm.environment.read_text())
    for service, secret in ODD.items():
        monkeypatch.setenv(f"CANARY_{service.upper()}", secret)
        target["services"][service]["read"] = {"secret": {"env": f"CANARY_{service.upper()}"}}
    target |= {"name": "canary", "pins": {}}
    (repository / "parameters" / "environments" / "canary.yaml").write_text(yaml.safe_dump(target))
    own = {path.name: path.read_text().strip() for path in (firm.folder / "secrets").iterdir()}
    return own | {service: secret.strip() for service, secret in ODD.items()}


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Path]:
    """Where a command's temporary files lie, and what it said."""
    short = Path(tempfile.mkdtemp(prefix="o-"))  # sockets need a short path
    yield short
    shutil.rmtree(short)


@pytest.fixture
def command(left: Path, tmp_path: Path) -> Command:
    """The command line in a process of its own; what it says is kept beside its temporary files."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        surroundings = {**os.environ, "TMPDIR": str(left), "HOME": str(left), "IPYTHONDIR": str(left / "ipython")}
        surroundings.pop("PYTEST_CURRENT_TEST", None)  # or the kernel would not listen to its child processes
        opskit = str(Path(sys.executable).with_name("opskit"))
        done = subprocess.run(
            [opskit, *arguments], env=surroundings, capture_output=True, text=True, check=False, timeout=300
        )
        with (left / "said").open("a") as file:
            file.write(f"{arguments}\n{done.stdout}\n{done.stderr}\n")
        return done

    return call


def plant(repository: Path, *cells: str, parameters: str = PARAMETERS) -> None:
    """Put a notebook into the repository; cells that fail do not end it."""
    content: dict[str, Any] = notebook(*cells, parameters=parameters)
    for cell in content["cells"]:
        if cell["source"] not in (BEGIN, IMPORTS, PLAN, "run.apply()"):
            cell["metadata"].setdefault("tags", []).append("raises-exception")
    (repository / "notebooks" / "canary.ipynb").write_text(json.dumps(content))


def judge(folder: Path, secrets: dict[str, str]) -> None:
    """Every channel was spoken into, failed only as was meant, and shows nothing to a reader who joins its pieces."""
    cells = [c for c in json.loads((folder / "notebook.ipynb").read_text())["cells"] if c["cell_type"] == "code"]
    names = dict(zip((f"cell-{n}" for n in range(3, 99)), CHANNELS, strict=False))
    for cell in cells:
        name, outputs = names.get(cell["id"], cell["id"]), cell["outputs"]
        assert {o.get("ename") for o in outputs} - MEANT == set(), f"{name}: {outputs}"
        assert name in SILENT or cell["id"] not in names or "[secret " in json.dumps(outputs), name
        for text in readings([{k: "".join(v) if k == "text" else v for k, v in o.items()} for o in outputs]):
            assert not [key for key, secret in secrets.items() if secret in text], name


def test_canaries_in_every_channel_are_found_nowhere(
    firm: Sandbox, canary: dict[str, str], repository: Path, outputs: Path, left: Path, command: Command
) -> None:
    firm.break_with("endpoint-disabled")
    channels = [code.replace("{typed}", canary["stripe_read"]) for code in CHANNELS.values()]
    plant(repository, BEFORE, BEGIN, IMPORTS, *channels, PLAN, "run.apply()")
    looked = command("run", "canary", "--json")
    folder = Path(json.loads(looked.stdout)["data"]["folder"])
    judge(folder, canary)
    record = (folder / "notebook.ipynb").read_text()
    for service in ("database", "stripe", "vercel", "sentry"):
        assert f"[secret {service} read]" in record
    assert looked.returncode == 3, looked.stdout
    assert leaks(canary, outputs, left) == []

    command("plan", "last")
    assert command("approve", "last", "--type", "canary 2").returncode == 0
    applied = command("apply", "last", "--json")
    folder = Path(json.loads(applied.stdout)["data"]["folder"])
    judge(folder, canary)
    record = (folder / "notebook.ipynb").read_text()
    for service in ("database", "stripe"):
        assert f"[secret {service} change]" in record
    assert applied.returncode == 0, applied.stdout
    for more in (("show", "last"), ("history",), ("verify",), ("undo", "last", "--type", "canary 1")):
        assert command(*more).returncode == 0
    assert leaks(canary, outputs, left) == []


# Spelled apart, for the source of a cell is part of its record.
PEOPLE = """from types import SimpleNamespace
import pandas as pd
from opskit.services import ai_errors
from opskit.services.sessions import without_values
marta, ana = "Mar" + "ta confessed", "ana" + ".bell@example.com"
errors = pd.DataFrame({"requests": [3], "error": [f'400 Invalid prompt for user {ana}: "{marta}"']})
query = without_values(f"update documents set content = '{marta}, {ana}' -- {marta}")
run.show(errors, "Errors")
run.show(errors.set_index("error"), "Errors again")
run.show(pd.DataFrame({"title": [f"of {ana}"] * 20, "query": query}), "Long")
run.show(pd.Series([ana], name="what").value_counts(), "Counted")
run.check("errors", False, "Requests succeed", cause="bad", because=ai_errors.told(errors))
run.check("people", None, "Is it well?", because=f"asked by {ana}")
session = SimpleNamespace(pid=1, backend_start="", open_for=None, role="app", application=f"for {ana}", query=query)
run.plan.add(run.sessions.terminate(session))
run.draft(f"message {ana}", f"Dear {marta}, {ana}")
run.plan"""


def test_peoples_words_and_addresses_stand_nowhere_but_in_private(
    canary: dict[str, str], repository: Path, outputs: Path, command: Command
) -> None:
    plant(repository, BEGIN.replace("\nS = _S", ""), PEOPLE, "run.apply()")
    done = command("run", "canary", "--json")
    folder = Path(json.loads(done.stdout)["data"]["folder"])
    assert '"ename"' not in (folder / "notebook.ipynb").read_text()
    command("report", folder.parent.name)
    files = [path for path in outputs.rglob("*") if path.is_file() and not {"private", ".git"} & set(path.parts)]
    assert {path.name for path in files} >= {"notebook.ipynb", "journal.jsonl", "plan.json", "long.csv"}
    for path in files:
        assert b"Marta" not in path.read_bytes(), path
        assert b"ana.bell" not in path.read_bytes(), path
    assert "ana.bell" not in done.stdout
    assert "Marta" in "".join(path.read_text() for path in (folder / "private").iterdir())
    for name in ("notebook.ipynb", "journal.jsonl", "plan.json", "evidence/long.csv"):
        assert "a…@example.com" in (folder / name).read_text()


def test_what_ends_a_run_is_told_without_secrets(
    canary: dict[str, str], repository: Path, outputs: Path, left: Path, command: Command
) -> None:
    plant(repository, BEFORE, BEGIN, "import sys\nprint(S[0][:9], end='')\nraise SystemExit(f'{S}' * 1000)")
    content = json.loads((repository / "notebooks" / "canary.ipynb").read_text())
    content["cells"][-1]["metadata"]["tags"] = []
    (repository / "notebooks" / "canary.ipynb").write_text(json.dumps(content))
    done = command("run", "canary")
    assert done.returncode == 1
    assert "[secret database read]" in done.stdout
    command("show", "last")
    assert leaks(canary, outputs, left) == []


def test_canaries_in_files_that_a_notebook_writes(
    canary: dict[str, str], repository: Path, outputs: Path, left: Path, command: Command
) -> None:
    plant(repository, BEFORE, BEGIN, IMPORTS, FILES)
    done = command("run", "canary", "--json")
    folder = Path(json.loads(done.stdout)["data"]["folder"])
    assert '"ename"' not in (folder / "notebook.ipynb").read_text()
    assert len([path for path in folder.rglob("*") if "[secret" in path.name]) == 2
    assert command("verify").returncode == 0
    assert leaks(canary, outputs, left) == []


@pytest.mark.parametrize("how", ["-p note {}", "--incident {}", "-p since {}", "-f {file}", "-p unmask {}"])
def test_canaries_as_parameters_are_refused_before_anything_is_written(
    canary: dict[str, str], repository: Path, outputs: Path, left: Path, tmp_path: Path, command: Command, how: str
) -> None:
    plant(repository, BEGIN)
    file = tmp_path / "given.yaml"
    file.write_text(json.dumps({"note": f"use {canary['stripe_read']}, please"}))
    done = command("run", "canary", *how.format(canary["stripe_read"], file=file).split())
    assert done.returncode == 2
    assert "holds the secret 'stripe read'" in done.stderr
    assert not outputs.exists()
    assert canary["stripe_read"] not in done.stdout + done.stderr
