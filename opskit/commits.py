"""The archive's history: a git repository of its own, each sealed record a commit, signed where there is a key.

Order, merging, anchoring (`git push`), access and handover come with git. Every archive begins with the same empty
commit, so that those of two machines are related and `git pull` merges them. What is in `private/` is never committed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from opskit import signatures
from opskit.environment import places
from opskit.errors import OpskitError
from opskit.provenance import operator

MAIN = "refs/heads/main"
BEGINNING = {"NAME": "opskit", "EMAIL": "opskit@localhost", "DATE": "2026-01-01T00:00:00Z"}
# Somebody's own settings must not change what is kept: no line endings converted, no filters, no hooks.
SETTINGS = ("core.autocrlf=false", "core.hooksPath=/dev/null", "gc.auto=0", "safe.directory=*", "core.fsync=all")
EXCLUDED = "private/\n.locks/\n.*.part\n"


def commit(outputs: Path, folders: Sequence[Path], message: str) -> str:
    """Add folders of the archive to its history; answers why it was not signed, or nothing.

    Raises OpskitError where git is missing or fails. Safe beside other processes that do the same.
    """
    if not shutil.which("git"):
        raise OpskitError("there is no git on this machine, so the record is not in the archive's history.")
    with _alone(outputs), tempfile.TemporaryDirectory(prefix="opskit-") as scratch:
        before = head(outputs) or _begin(outputs)
        index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}  # the archive's own may be somebody's, half done
        _git(outputs, "read-tree", before, extra=index)
        for folder in folders:
            inside = folder.relative_to(outputs).as_posix()
            _git(outputs, "add", "--force", "--", inside, f":(exclude){inside}/private", extra=index)
        tree = _git(outputs, "write-tree", extra=index)
        if tree == _git(outputs, "rev-parse", f"{before}^{{tree}}"):
            return ""
        made, unsigned = _commit_tree(outputs, tree, before, message)
        _git(outputs, "update-ref", MAIN, made, before)
        _git(outputs, "read-tree", MAIN)  # so that `git status` there tells the truth
        _remember(outputs, made)
    return unsigned


def head(outputs: Path) -> str | None:
    """The newest commit of the archive; None where it has no history yet."""
    if not (outputs / ".git").is_dir():
        return None
    found = _run(outputs, "rev-parse", "--verify", "--quiet", MAIN)
    return found.stdout.strip() or None


def _begin(outputs: Path) -> str:
    _git(outputs, "init", "--quiet", "--initial-branch=main", "--template=")
    info = outputs / ".git" / "info"
    info.mkdir(exist_ok=True)
    (info / "exclude").write_text(EXCLUDED, encoding="utf-8")
    (info / "attributes").write_text("* -text -filter -ident -working-tree-encoding\n", encoding="utf-8")
    empty = _git(outputs, "hash-object", "-t", "tree", "-w", "--stdin")
    first = _git(outputs, "commit-tree", empty, "-m", "An archive begins", extra=_as(BEGINNING))
    _git(outputs, "update-ref", MAIN, first)
    return first


def _commit_tree(outputs: Path, tree: str, before: str, message: str) -> tuple[str, str]:
    email = f"{operator()}@{socket.gethostname()}".replace(" ", ".")
    who = _as({"NAME": operator(), "EMAIL": email})
    plain = ("commit-tree", tree, "-p", before, "-m", message)
    if (key := signatures.key()) is None:
        return _git(outputs, *plain, extra=who), "there is no SSH key to sign with"
    signing = ("-c", "gpg.format=ssh", "-c", f"user.signingkey={key}")
    made = _run(outputs, *signing, *plain, "-S", extra=who)
    if made.returncode == 0:
        return made.stdout.strip(), ""
    return _git(outputs, *plain, extra=who), f"{key} could not sign"


def _as(person: Mapping[str, str]) -> dict[str, str]:
    return {f"GIT_{role}_{part}": value for role in ("AUTHOR", "COMMITTER") for part, value in person.items()}


# What can be found out about it afterwards.


def committed(outputs: Path, path: str) -> bytes | None:
    """A file as the archive's history has it; None where it has none."""
    found = _run_raw(outputs, "cat-file", "blob", f"{MAIN}:{path}")
    return found.stdout if found.returncode == 0 else None


def records(outputs: Path) -> list[str]:
    """Every record in the archive's history, as `incident/run`."""
    names = _git(outputs, "-c", "core.quotePath=false", "ls-tree", "-r", "-z", "--name-only", MAIN).split("\0")
    return sorted(name.removesuffix("/manifest.json") for name in names if name.endswith("/manifest.json"))


def trouble(outputs: Path) -> list[str]:
    """What is wrong with the history itself: damaged, rewritten, or rolled back."""
    found = []
    check = _run(outputs, "fsck", "--full", "--strict", "--no-dangling", "--no-progress")
    if check.returncode:
        found.append(f"the archive's history is damaged: {(check.stdout + check.stderr).strip().splitlines()[0]}")
    rewritten = _run(outputs, "log", "-m", "-z", "--diff-filter=MDT", "--no-renames", "--name-only", "--format=", MAIN)
    for name in sorted({n.strip() for n in rewritten.stdout.split("\0") if n.strip()}):
        if "/approvals/" not in name:
            found.append(f"changed in a later commit: {name}")
    found += [f"rolled back: {what}" for what in _rolled_back(outputs)]
    return found


def _rolled_back(outputs: Path) -> Iterator[str]:
    anchors = {f"{ref} (perhaps `git pull` there first)": commit for ref, commit in _pushed(outputs)}
    note = _anchor(outputs)
    if note.is_file():
        anchors[f"this machine (delete {note} if that was meant)"] = note.read_text(encoding="utf-8").strip()
    for where, known in anchors.items():
        if _run(outputs, "merge-base", "--is-ancestor", known, MAIN).returncode:
            yield f"commit {known[:12]}, known to {where}, is not in the archive's history"


def _pushed(outputs: Path) -> list[tuple[str, str]]:
    lines = _git(outputs, "for-each-ref", "--format=%(refname:short) %(objectname)", "refs/remotes").splitlines()
    return [(ref, commit) for ref, _, commit in (line.partition(" ") for line in lines)]


def unproven(outputs: Path) -> list[str]:
    """What nobody can know from here: whether the whole archive was replaced by an earlier one."""
    pushed = [commit for _, commit in _pushed(outputs)]
    if not pushed:
        return ["the archive was never pushed anywhere: only this machine could notice that it was rolled back"]
    if not any(not _run(outputs, "merge-base", "--is-ancestor", MAIN, commit).returncode for commit in pushed):
        return ["the newest records are not pushed yet"]
    return []


def _remember(outputs: Path, commit: str) -> None:
    """Note the newest commit outside the archive: whoever rolls that back must find this too."""
    note = _anchor(outputs)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(commit + "\n", encoding="utf-8")


def _anchor(outputs: Path) -> Path:
    name = hashlib.sha256(str(outputs.resolve()).encode()).hexdigest()[:16]
    return places(outputs)[1] / "archives" / name


@contextmanager
def _alone(outputs: Path) -> Iterator[None]:
    folder = outputs / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "history").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run_raw(outputs: Path, *arguments: str, extra: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    ours = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    settings = [part for setting in SETTINGS for part in ("-c", setting)]
    where = {} if arguments[0] == "init" else {"GIT_DIR": ".git"}  # never the repository around it
    return subprocess.run(
        ["git", *settings, *arguments],
        cwd=outputs,
        env={**ours, **where, **(extra or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=600,
    )


def _run(outputs: Path, *arguments: str, extra: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = _run_raw(outputs, *arguments, extra=extra)
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )


def _git(outputs: Path, *arguments: str, extra: dict[str, str] | None = None) -> str:
    done = _run(outputs, *arguments, extra=extra)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise OpskitError(f"git {arguments[0]} in {outputs}: {said[-1] if said else 'failed'}")
    return done.stdout.strip()
