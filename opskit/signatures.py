"""Signatures with the SSH keys that engineers have already: `ssh-keygen -Y sign`, checked by `ssh-keygen -Y verify`.

Whose a key is, the repository says in `parameters/allowed_signers` (see ssh-keygen(1), ALLOWED SIGNERS): one line for
each person and key, `ana ssh-ed25519 AAAA…`. Without that file a signature proves that nothing was altered since, and
by which key; not by whom.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

APPROVAL, RECORD = "opskit-approval", "opskit-record"  # a signature for one purpose is worth nothing for another
COMMIT = "git"  # as git names it
BEGIN, END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
MAGIC = b"SSHSIG\0\0\0\1"  # with the format's version: ssh-keygen takes an older one for the same
DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
ALLOWED = Path("parameters", "allowed_signers")
PATIENCE = 60  # seconds for a person to type a passphrase


@dataclass(frozen=True)
class Judgement:
    """What can be said of a signature."""

    good: bool
    who: str = ""  # as the allowed signers name them; empty: nobody vouches for the key
    key: str = ""  # its fingerprint
    why: str = ""  # it is not good


def are_named(allowed: Path) -> bool:
    """Whether anybody is listed there."""
    lines = allowed.read_text(encoding="utf-8").splitlines() if allowed.is_file() else []
    return any(line.strip() and not line.startswith("#") for line in lines)


def key() -> Path | None:
    """The operator's key: OPSKIT_SIGNING_KEY, else git's `user.signingkey`, else the first of the usual ones."""
    if named := os.environ.get("OPSKIT_SIGNING_KEY"):
        return Path(named).expanduser()
    usual = [Path("~/.ssh") / name for name in DEFAULT_KEYS]
    return next((path for path in map(Path.expanduser, [*_gits_key(), *usual]) if path.is_file()), None)


def _gits_key() -> list[Path]:
    if not shutil.which("git"):
        return []
    found = subprocess.run(["git", "config", "--get", "user.signingkey"], capture_output=True, text=True, check=False)
    return [Path(line) for line in found.stdout.splitlines() if line]


def sign(text: str, purpose: str) -> tuple[str, str]:
    """(the signature of `text`, "") with the operator's key; ("", why there is none) otherwise."""
    if not shutil.which("ssh-keygen"):
        return "", "there is no ssh-keygen on this machine"
    own = key()
    if own is None:
        return "", "there is no SSH key to sign with; OPSKIT_SIGNING_KEY may name one"
    try:
        done = _ssh(["sign", "-q", "-f", str(own), "-n", purpose], text)
    except subprocess.TimeoutExpired:
        return "", f"{own} wants a passphrase that nobody gave"
    if done.returncode:
        return "", f"{own} could not sign: {_last_line(done.stderr)}"
    return done.stdout, ""


def judge(text: str, signature: str, purpose: str, allowed: Path | None, at: datetime) -> Judgement:
    """What `signature` says of `text`: by whom, if `allowed` tells, and good at the moment `at`."""
    if not shutil.which("ssh-keygen"):
        return Judgement(False, why="there is no ssh-keygen on this machine to check it with")
    if not _is_canonical(signature):  # or some of its bytes could be others and mean the same
        return Judgement(False, why="the signature itself was altered")
    with _file(signature) as path:
        sound = _ssh(["check-novalidate", "-n", purpose, "-s", path], text)
        if sound.returncode:
            return Judgement(False, why=_last_line(sound.stdout + sound.stderr))
        fingerprint = next((word for word in sound.stdout.split() if word.startswith("SHA256:")), "")
        when = f"-Overify-time={at.astimezone(UTC):%Y%m%d%H%M%SZ}"
        people = _ssh(["find-principals", "-s", path, "-f", str(allowed), when], "").stdout.splitlines()
        for who in people if allowed else []:
            if not _ssh(["verify", "-n", purpose, "-s", path, "-f", str(allowed), "-I", who, when], text).returncode:
                return Judgement(True, who, fingerprint)
    return Judgement(True, "", fingerprint)


def _ssh(arguments: list[str], text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ssh-keygen", "-Y", *arguments], input=text, capture_output=True, check=False, timeout=PATIENCE,
        encoding="utf-8", errors="replace",
    )  # fmt: skip


def public_key(signature: str) -> bytes:
    """The key that made a signature, as it stands in it; empty where it is none."""
    try:
        raw = base64.b64decode("".join(signature.splitlines()[1:-1]))
        begins = len(MAGIC) + 4
        return raw[begins : begins + int.from_bytes(raw[len(MAGIC) : begins])]
    except (ValueError, IndexError):
        return b""


def _is_canonical(signature: str) -> bool:
    lines = signature.splitlines()
    try:
        raw = base64.b64decode("".join(lines[1:-1]), validate=True)
    except ValueError:
        return False
    text = base64.b64encode(raw).decode()
    body = [text[n : n + 70] for n in range(0, len(text), 70)]
    return raw.startswith(MAGIC) and signature == "\n".join([BEGIN, *body, END]) + "\n"


@contextmanager
def _file(text: str) -> Iterator[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".sig", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        yield file.name


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "it gave no reason"
