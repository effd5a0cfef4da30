"""Processes that die at a given moment of the command they run, and the changes that only these tests know.

Nothing of this is known to opskit: a victim wraps, in its own process, what the command is about to call, and there
kills itself or the runner whose kernel it is.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opskit import actions, archive, commits, environment, followup, plan, record
from opskit.actions import Change
from opskit.database import Database
from opskit.http import Http
from opskit.journal import Journal
from opskit.permit import permit
from opskit.services import connect

# An action's moments, in order. "Half" is a line that was torn: what a dying machine leaves.
INTENT = ("before the intent", "in the intent", "after the intent")
RESULT = ("before the result", "in the result", "after the result")
MOMENTS = (*INTENT, "in the action", *RESULT)
DOUBTFUL = (
    "after the intent",
    "in the action",
    "before the result",
    "in the result",
)  # begun, and no result to be read
# A record's moments. A resume has each of those of sealing twice: first it seals the run that was lost.
SEALING = ("before the end", "before the seal", "before the history", "after the seal")
OPENING = ("before the carrying over", "before the approval")

INTENTS, RESULTS = ("action.begun", "undo.begun"), ("action.ended", "undo.ended")
ACCIDENT, RUNNER = "OPSKIT_TEST_ACCIDENT", "OPSKIT_TEST_RUNNER"  # environment variables: a kernel inherits them


@dataclass
class Accident:
    """At the `nth` time that this moment comes (of this action, if one is named), this befalls these victims.

    A process is killed: itself, the runner or its kernel. A disk becomes full or read-only.
    """

    moment: str
    action: str = ""
    victims: tuple[str, ...] = ("itself",)  # or the runner, or the kernel
    nth: int = 1

    def comes(self, moment: str, action: str) -> bool:
        return self.moment == moment and self.action in ("", action)

    def strike(self, moment: str, action: str = "") -> None:
        if not self.comes(moment, action):
            return
        self.nth -= 1
        if self.nth == 0:
            runner = int(os.environ[RUNNER])
            for victim in self.victims:
                if victim in DISKS:
                    DISKS[victim](Path(os.environ["OPSKIT_OUTPUTS"]))
                    continue
                number = runner if victim == "runner" else os.getpid()
                os.kill(number, SIGNS.get(victim, signal.SIGKILL))


SIGNS = {"kernel asleep": signal.SIGSTOP, "asked to stop": signal.SIGTERM}


def fill(disk: Path) -> None:
    """Leave no room on a disk."""
    with suppress(OSError), (disk / "filler").open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass


def seize(disk: Path) -> None:
    """Let nobody write to a disk any more, not even root: it is covered by itself, read-only."""
    subprocess.run(["mount", "--bind", str(disk), str(disk)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True)


def refuse(call: str, error: int) -> None:
    """From now on Linux answers a system call of this process with an error; what it says is heard."""
    library, number = ctypes.CDLL(None, use_errno=True), CALLS[platform.machine()][call]
    load, equal, greater, answer = 0x20, 0x15, 0x25, 0x06
    code = [
        (load, 0, 0, 0), (equal, 0, 3, number),  # is it this call?
        (load, 0, 0, 16), (greater, 0, 1, 2),  # to a file, and not to the terminal?
        (answer, 0, 0, 0x50000 | error), (answer, 0, 0, 0x7FFF0000),
    ]  # fmt: skip
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in code))
    described = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(program)))
    for words in ((38, 1, 0, 0, 0), (22, 2, described, 0, 0)):  # no new privileges, then the filter
        if library.prctl(*words):
            raise OSError(ctypes.get_errno(), "the kernel takes no filter for system calls")


CALLS = {"x86_64": {"write": 1, "fsync": 74}, "aarch64": {"write": 64, "fsync": 82}}  # as Linux numbers them
DISKS: dict[str, Callable[[Path], None]] = {
    "full": fill,
    "read-only": seize,
    "broken": lambda _: refuse("fsync", errno.EIO),
    "beyond its quota": lambda _: refuse("write", errno.EDQUOT),
}


def arm(accident: Accident | None = None) -> None:
    """Let an accident happen to this process; by default the one that its environment names."""
    if accident is None:
        found = json.loads(os.environ[ACCIDENT])
        if not found:
            return
        accident = Accident(**found)
    in_flight = [""]  # the action
    _around_journal(accident, in_flight)
    _around_changes(accident, in_flight)
    _around_records(accident)


def _around_journal(accident: Accident, in_flight: list[str]) -> None:
    write = Journal.write

    def deadly(self: Journal, event: str, **data: Any) -> None:
        action = data.get("action", "")
        before, within, after = INTENT if event in INTENTS else RESULT if event in RESULTS else ("", "", "")
        if event in INTENTS:
            in_flight[0] = action
        if event == "run.ended":
            accident.strike("before the end")
        accident.strike(before, action)
        if accident.comes(within, action):
            _tear(lambda: accident.strike(within, action))
        write(self, event, **data)
        accident.strike(after, action)

    Journal.write = deadly  # type: ignore[method-assign]


def _tear(then: Callable[[], None]) -> None:
    """The next line that is written is only half written."""
    whole = os.write

    def half(handle: int, raw: Any) -> int:
        whole(handle, raw[: len(raw) // 2])
        then()
        return len(raw)

    os.write = half


def _around_changes(accident: Accident, in_flight: list[str]) -> None:
    """In the action: a request was sent and not yet answered; a statement was made and not yet committed."""
    change, transaction, patiently = Http.change, Database.transaction, actions._patiently

    def on_the_way(self: Http, *given: Any, **named: Any) -> Any:
        client, request = self._client, type(self._client).request

        def trace(what: str, _: Any) -> None:
            if what.endswith("receive_response_headers.started"):
                accident.strike("in the action", in_flight[0])

        client.request = lambda *a, **k: request(client, *a, **k, extensions={"trace": trace})  # type: ignore
        try:
            return change(self, *given, **named)
        finally:
            del client.request

    @contextmanager
    def uncommitted(self: Database) -> Iterator[Any]:
        with transaction(self) as cursor:
            yield cursor
            accident.strike("in the action", in_flight[0])

    def in_action(do: Callable[[], None]) -> None:
        patiently(do)
        accident.strike("in the action", in_flight[0])  # one that needed neither

    Http.change, Database.transaction, actions._patiently = on_the_way, uncommitted, in_action  # type: ignore


def _around_records(accident: Accident) -> None:
    def wrapped(
        owner: Any, name: str, before: str = "", after: str = "", only: Callable[..., bool] | None = None
    ) -> None:
        original = getattr(owner, name)

        def deadly(*given: Any, **named: Any) -> Any:
            ours = only is None or only(*given)
            if ours:
                accident.strike(before)
            answer = original(*given, **named)
            if ours:
                accident.strike(after)
            return answer

        setattr(owner, name, deadly)

    wrapped(record, "seal", before="before the seal")
    wrapped(commits, "commit", before="before the history", only=lambda _, places, *__: places[0].is_dir())
    wrapped(archive, "seal", after="after the seal")
    wrapped(followup, "_carry_over", before="before the carrying over")
    wrapped(record, "write", before="before the approval", only=lambda path, *_: path.name == "approval.json")


def command(
    arguments: Sequence[str], surroundings: Mapping[str, str], said: Path, accident: Accident | None, kernel: bool
) -> None:
    """The command line in this process, which is a victim. Without `kernel` it does itself what a kernel would do."""
    os.environ.clear()
    os.environ.update(surroundings)
    os.environ |= {RUNNER: str(os.getpid()), ACCIDENT: json.dumps(asdict(accident) if accident else None)}
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(said / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), stream)
    from opskit import cli, runner  # noqa: PLC0415  # what starts these processes has loaded them already

    if not kernel:
        runner._papermill = _carry_out
    arm()
    cli.main(list(arguments), prog_name="opskit")


def _carry_out(notebook: Path, given: Any, session: Any) -> None:
    """What `run.apply` does in a kernel."""
    about = archive.about(session.folder)
    target = environment.load(about["environment"], session.root)
    services = connect(target, json.loads(session.variables["OPSKIT_SECRETS"]), f"opskit/{about['run']}")
    approved = plan.load(session.folder / "plan.json")
    session.journal.write("plan", digest=approved.digest, actions=len(approved), removals=0, manual=1, causes=[])
    with permit(about["lock"], services.database) as may_begin:
        for action, result, why in actions.carry_out(approved.actions, services, session.journal, may_begin):
            print(f"{result}: {action.title} {why}")


# Changes of these tests' own.


class Put(Change):
    """A file, and a line in a log whenever it is written."""

    name = "test.put"
    title = "Put {text} into {file}"

    def look(self, services: Any, of: dict[str, Any]) -> Any:
        path = Path(of["file"])
        return {"has": path.read_text() if path.exists() else None, "due": of["text"]}

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["has"] == now["due"])

    def do(self, services: Any, of: dict[str, Any], before: Any, key: str) -> None:
        with Path(of["file"] + ".log").open("a") as log:
            log.write("put\n")
        Path(of["file"]).write_text(of["text"])

    def undo(self, services: Any, of: dict[str, Any], before: Any, after: Any, key: str) -> None:
        with Path(of["file"] + ".log").open("a") as log:
            log.write("undone\n")
        Path(of["file"]).unlink()


class Sign(Put):
    """A person does it."""

    name = "test.sign"
    title = "By hand: sign {file} with {text}"
    manual = True


class Linger(Put):
    """It takes until somebody asks to stop."""

    name = "test.linger"

    def do(self, services: Any, of: dict[str, Any], before: Any, key: str) -> None:
        self._linger(of)
        super().do(services, of, before, key)

    def undo(self, services: Any, of: dict[str, Any], before: Any, after: Any, key: str) -> None:
        self._linger(of)
        super().undo(services, of, before, after, key)

    def _linger(self, of: dict[str, Any]) -> None:
        Path(of["file"] + ".lingers").write_text("now")
        deadline = time.monotonic() + float(os.environ.get("OPSKIT_TEST_LINGER", "60"))
        while time.monotonic() < deadline and not asked_to_stop():
            time.sleep(0.02)


def asked_to_stop() -> bool:
    permit = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
    return bool(getattr(permit, "_asked_to_stop", False))


class Ring(Change):
    """A bell somewhere: only its answer tells that it was rung. Whoever never got that cannot find out."""

    name = "test.ring"
    title = "Ring {bell}"
    final = "it was heard"

    def __init__(self) -> None:
        self.answered: set[str] = set()

    def look(self, services: Any, of: dict[str, Any]) -> Any:
        return {}

    def look_after(self, services: Any, of: dict[str, Any], before: Any) -> Any:
        return {"answered": of["way"] in self.answered}

    def done(self, now: Any, before: Any) -> bool | None:
        return True if now.get("answered") else None

    def do(self, services: Any, of: dict[str, Any], before: Any, key: str) -> None:
        Http("bell", of["bell"], (), change_headers={}).change("POST", of["way"], key=key)
        self.answered.add(of["way"])
