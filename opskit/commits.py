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
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opskit import files as plain_files
from opskit import signatures
from opskit.environment import places
from opskit.errors import OpskitError
from opskit.provenance import operator

MAIN = "refs/heads/main"
BEGINS = "An archive begins"
EMPTY = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"  # git's tree of nothing, with which every archive begins
STALE = 60.0  # seconds for which git would never hold a lock of its own in an archive
BEGINNING = {"NAME": "opskit", "EMAIL": "opskit@localhost", "DATE": "2026-01-01T00:00:00Z"}
# Of a git directory, what is history; whatever else an archive's has (settings, hooks, alternates) is not used at all.
LINKED = ("objects", "refs", "packed-refs", "logs", "shallow")
CONFIG = "[core]\n\trepositoryformatversion = 0\n\tbare = false\n\tcommitGraph = false\n\tmultiPackIndex = false\n"
ATTRIBUTES = "* -text -filter -ident -working-tree-encoding\n"  # what is kept is kept as it is
SETTINGS = (
    "core.autocrlf=false", "core.hooksPath=/dev/null", "core.fsmonitor=false", "core.fsync=all", "gc.auto=0",
    "protocol.allow=never", "safe.directory=*", "log.showSignature=false",
)  # fmt: skip
NOBODYS = {
    "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_GRAFT_FILE": os.devnull,
}  # fmt: skip
EXCLUDED = "private/\n.locks/\n.*.part\n"


def commit(outputs: Path, places: Sequence[Path], message: str) -> str:
    """Add folders and files of the archive to its history; answers why it was not signed, or nothing.

    Raises OpskitError where git is missing or fails. Safe beside other processes that do the same.
    """
    with _alone(outputs), tempfile.TemporaryDirectory(prefix="opskit-") as scratch:
        _require_ours(outputs)
        before = head(outputs) or _begin(outputs)
        index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}  # the archive's own may be somebody's, half done
        _git(outputs, "read-tree", before, extra=index)
        for place in places:
            inside = place.relative_to(outputs).as_posix()
            _git(outputs, "add", "--force", "--", inside, f":(exclude){inside}/private", extra=index)
        tree = _git(outputs, "write-tree", extra=index)
        if tree == _git(outputs, "rev-parse", f"{before}^{{tree}}"):
            return ""
        made, unsigned = _commit_tree(outputs, tree, before, message)
        _git(outputs, "update-ref", MAIN, made, before)
        _run(outputs, "read-tree", MAIN)  # so that `git status` there tells the truth; if not now, then next time
        _remember(outputs, made)
    return unsigned


def _require_ours(outputs: Path) -> None:
    """Raise OpskitError where a folder's repository is somebody's own: no record must end up in it."""
    if not (outputs / ".git").exists():
        return
    first = _run(outputs, "log", "--max-parents=0", "--format=%s", MAIN).stdout.split("\n")
    if BEGINS not in first and _run(outputs, "for-each-ref").stdout.strip():
        raise OpskitError(f"{outputs} is a git repository that opskit did not begin; nothing was committed there.")


def is_gone(outputs: Path) -> bool:
    """Whether this machine knows of a history that the archive no longer has."""
    return not head(outputs) and _anchor(outputs).is_file()


def head(outputs: Path) -> str | None:
    """The newest commit of the archive; None where it has no history yet."""
    if not (outputs / ".git").is_dir():
        return None
    found = _run(outputs, "rev-parse", "--verify", "--quiet", MAIN)
    return found.stdout.strip() or None


def _begin(outputs: Path) -> str:
    _git(outputs, "init", "--quiet", "--initial-branch=main", "--object-format=sha1", "--template=")
    info = outputs / ".git" / "info"
    info.mkdir(exist_ok=True)
    (info / "exclude").write_text(EXCLUDED, encoding="utf-8")
    (info / "attributes").write_text(ATTRIBUTES, encoding="utf-8")
    empty = _git(outputs, "hash-object", "-t", "tree", "-w", "--stdin")
    first = _git(outputs, "commit-tree", empty, "-m", BEGINS, extra=_as(BEGINNING))
    _git(outputs, "update-ref", MAIN, first)
    return first


def _commit_tree(outputs: Path, tree: str, before: str, message: str) -> tuple[str, str]:
    who = _as({"NAME": operator(), "EMAIL": f"{operator()}@{socket.gethostname()}".replace(" ", ".")})
    made = _git(outputs, "commit-tree", tree, "-p", before, "-m", message, extra=who)
    text = _run_raw(outputs, "cat-file", "commit", made).stdout.decode()
    signature, unsigned = signatures.sign(text, signatures.COMMIT)  # as `git commit -S` does, also where git is older
    if unsigned:
        return made, unsigned
    head, _, rest = text.partition("\n\n")
    whole = head + "\ngpgsig " + signature.strip().replace("\n", "\n ") + "\n\n" + rest
    return _git(outputs, "hash-object", "-t", "commit", "-w", "--stdin", given=whole), ""


def _as(person: Mapping[str, str]) -> dict[str, str]:
    return {f"GIT_{role}_{part}": value for role in ("AUTHOR", "COMMITTER") for part, value in person.items()}


# What can be found out about it afterwards.


def files(outputs: Path) -> dict[str, str]:
    """Every file in the archive's history, and its digest there."""
    lines = [line for line in _git(outputs, "ls-tree", "-r", "-z", MAIN).split("\0") if line]
    return {name: about.split()[2] for about, _, name in (line.partition("\t") for line in lines)}


def holds(outputs: Path, path: Path) -> bool:
    """Whether the archive's history has a file as it is on disk."""
    if not head(outputs):
        return False
    found = _git(outputs, "ls-tree", MAIN, "--", path.relative_to(outputs).as_posix()).split()
    return len(found) > 2 and found[2] == digest(path)


def knows(outputs: Path, path: Path) -> bool:
    """Whether the archive's history has a file by that name, whatever is on disk."""
    return bool(head(outputs)) and bool(_git(outputs, "ls-tree", MAIN, "--", path.relative_to(outputs).as_posix()))


def digest(path: Path) -> str:
    """Of a file on disk, as the history has it; empty where there is none, or something else by that name."""
    if not stat.S_ISREG(path.lstat().st_mode if os.path.lexists(path) else 0):
        return ""
    content = _content(path)
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def trouble(outputs: Path) -> list[str]:
    """What is wrong with the history itself: gone, damaged, rewritten, or rolled back."""
    if not head(outputs):
        return ["the archive's history is gone"] if is_gone(outputs) else []
    _require_plain(*(outputs / ".git" / "objects").rglob("*"))  # of which `fsck` reads every one
    found = []
    if _content(outputs / ".git" / "HEAD") != f"ref: {MAIN}\n".encode():
        found.append("the archive is not on its branch main, so git shows something else")
    check = _run(outputs, "fsck", "--full", "--strict", "--no-dangling", "--no-progress")
    if check.returncode:
        found.append(f"the archive's history is damaged: {(check.stdout + check.stderr).strip().splitlines()[0]}")
    if _git(outputs, "rev-parse", "--is-shallow-repository") == "true":
        found.append("the archive's history is cut short: fetch all of it")
    every = (
        "--no-show-signature", "--no-ext-diff", "--diff-merges=separate", "--diff-filter=MDT", "--no-renames",
        "--name-status", "--format=", "-z",
    )  # fmt: skip
    told = _run(outputs, "log", *every, MAIN).stdout.split("\0")[:-1]  # each ends with it
    for how, name in sorted(set(zip(told[::2], told[1::2], strict=True))):
        if how != "M" or "/approvals/" not in name:  # a plan may be approved again
            found.append(f"{'removed' if how == 'D' else 'changed'} in a later commit: {name}")
    found += [f"rolled back: {what}" for what in _rolled_back(outputs)]
    return found


def _content(path: Path) -> bytes:
    """Of a plain file; of anything else by that name, nothing."""
    try:
        return plain_files.read(path)
    except OSError:
        return b""


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


def unproven(outputs: Path, allowed: Path | None) -> list[str]:
    """What nobody can know from here: who vouches for the history, and whether it was replaced by an earlier one."""
    found = _unsigned(outputs, allowed)
    pushed = [commit for _, commit in _pushed(outputs)]
    if not pushed:
        who = "only this machine" if _anchor(outputs).is_file() else "nobody"
        found.append(f"the archive was never pushed anywhere: {who} could notice that it was rolled back")
    elif not any(not _run(outputs, "merge-base", "--is-ancestor", MAIN, commit).returncode for commit in pushed):
        found.append("the newest records are not pushed yet")
    return found


def _unsigned(outputs: Path, allowed: Path | None) -> list[str]:
    """The commits for which nobody vouches, but the empty first one, which is everywhere the same."""
    doubts: dict[str, list[str]] = {}
    for commit in _git(outputs, "rev-list", MAIN).split():
        text = _run_raw(outputs, "cat-file", "commit", commit).stdout.decode(errors="replace")
        if text.startswith(f"tree {EMPTY}\nauthor "):
            continue
        if why := _unvouched(text, allowed):
            doubts.setdefault(why, []).append(f"{commit[:12]} {text.partition(chr(10) * 2)[2].splitlines()[0][:60]!r}")
    return [f"{len(those)} commits of the archive: {why}: {', '.join(those[:3])}" for why, those in doubts.items()]


def _unvouched(text: str, allowed: Path | None) -> str:
    """Why nobody vouches for a commit, of which this is the text; empty where somebody does."""
    top, _, rest = text.partition("\n\n")
    head, _, header = top.partition("\ngpgsig ")
    if not header:
        return "not signed"
    signature = header.replace("\n ", "\n") + "\n"
    at = datetime.fromtimestamp(int(head.rsplit(" ", 2)[1]), UTC)
    judged = signatures.judge(f"{head}\n\n{rest}", signature, signatures.COMMIT, allowed, at)
    if not judged.good:
        return f"not signed well: {judged.why}"
    return "" if judged.who else f"signed by key {judged.key}, and nobody says whose that is"


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
        for left in (outputs / ".git" / "index.lock", outputs / ".git" / f"{MAIN}.lock"):
            if left.exists() and time.time() - left.stat().st_mtime > STALE:  # by a git that was killed
                left.unlink(missing_ok=True)
        yield


def _run_raw(
    outputs: Path, *arguments: str, extra: dict[str, str] | None = None, given: str = ""
) -> subprocess.CompletedProcess[bytes]:
    """Run git on the archive's history, never on its settings: those may be whoever's who sent it."""
    if not shutil.which("git"):
        raise OpskitError("there is no git on this machine, and the archive's history needs it.")
    ours = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    settings = [part for setting in SETTINGS for part in ("-c", setting)]
    try:
        with tempfile.TemporaryDirectory(prefix="opskit-git-") as scratch:
            where = {} if arguments[0] == "init" else _clean(outputs, Path(scratch))
            return subprocess.run(
                ["git", *settings, *arguments], cwd=outputs, env={**ours, **NOBODYS, **where, **(extra or {})},
                input=given.encode(), capture_output=True, check=False, timeout=600,
            )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise OpskitError(f"git {arguments[0]} in {outputs} took longer than ten minutes.") from None


def _clean(outputs: Path, scratch: Path) -> dict[str, str]:
    """A git directory that has the archive's history and nothing else of it: no settings, no hooks, no attributes."""
    real = (outputs / ".git").absolute()
    named = (real / name for name in (*LINKED, "objects/pack", "objects/info"))
    _require_plain(real, *named, *(real / "refs").rglob("*"))
    for name in LINKED:
        if (real / name).exists():
            (scratch / name).symlink_to(real / name)
    (scratch / "HEAD").write_text(f"ref: {MAIN}\n", encoding="utf-8")
    (scratch / "config").write_text(CONFIG, encoding="utf-8")
    (scratch / "info").mkdir()
    (scratch / "info" / "attributes").write_text(ATTRIBUTES, encoding="utf-8")
    return {"GIT_DIR": str(scratch), "GIT_WORK_TREE": str(outputs.absolute()), "GIT_INDEX_FILE": str(real / "index")}


def _require_plain(*paths: Path) -> None:
    """Raise OpskitError where one is something that git would wait for."""
    for path in paths:
        if os.path.lexists(path) and not (path.is_dir() or stat.S_ISREG(path.lstat().st_mode)):
            raise OpskitError(f"{path} is no file and no folder, so this archive is not read.")


def _run(outputs: Path, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    done = _run_raw(outputs, *arguments, **more)
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )


def _git(outputs: Path, *arguments: str, **more: Any) -> str:
    done = _run(outputs, *arguments, **more)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["failed"]
        reason = next((line for line in said if line.startswith(("fatal:", "error:"))), said[-1])
        raise OpskitError(f"git {arguments[0]} in {outputs}: {reason}")
    return done.stdout.strip()
