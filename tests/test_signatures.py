"""Signatures: with the keys that engineers have, checked by ssh-keygen; where there is none, that is said."""

from __future__ import annotations

import base64
import os
import pty
import shutil
import string
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support import allow, make_key

from opskit import signatures
from opskit.signatures import APPROVAL, RECORD, judge, sign

NOW = datetime.now(UTC)


def signed(text: str = "text", purpose: str = RECORD) -> str:
    signature, why = sign(text, purpose)
    assert why == ""
    return signature


@pytest.fixture
def nothing_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


# Signing.


def test_what_ssh_keygen_signs_anybody_can_check_with_ssh_keygen(ana: Path, tmp_path: Path) -> None:
    (tmp_path / "sig").write_text(signed("text"))
    allowed = allow(tmp_path / "allowed", ("ana", ana))
    command = ["ssh-keygen", "-Y", "verify", "-n", RECORD, "-f", allowed, "-I", "ana", "-s", tmp_path / "sig"]
    done = subprocess.run([str(part) for part in command], input="text", text=True, check=False, capture_output=True)
    assert done.returncode == 0
    assert 'Good "opskit-record" signature for ana' in done.stdout


@pytest.mark.usefixtures("unsigned")
def test_without_a_key_nothing_is_signed_and_that_is_said() -> None:
    assert sign("text", RECORD) == ("", "there is no SSH key to sign with; OPSKIT_SIGNING_KEY may name one")


def test_a_named_key_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSKIT_SIGNING_KEY", str(tmp_path / "gone"))
    signature, why = sign("text", RECORD)
    assert signature == ""
    assert str(tmp_path / "gone") in why
    assert "No such file" in why


def test_what_is_no_key_cannot_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("a poem")
    monkeypatch.setenv("OPSKIT_SIGNING_KEY", str(tmp_path / "key"))
    signature, why = sign("text", RECORD)
    assert (signature, why.startswith(f"{tmp_path / 'key'} could not sign: ")) == ("", True)


@pytest.mark.usefixtures("nothing_on_path")
def test_without_ssh_keygen_nothing_is_signed_and_nothing_is_judged(tmp_path: Path) -> None:
    assert sign("text", RECORD) == ("", "there is no ssh-keygen on this machine")
    found = judge("text", "signature", RECORD, tmp_path / "none", NOW)
    assert (found.good, found.why) == (False, "there is no ssh-keygen on this machine to check it with")


@pytest.mark.usefixtures("unsigned")
def test_without_git_the_usual_keys_are_still_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh-keygen").symlink_to(shutil.which("ssh-keygen") or "")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert signatures.key() is None
    ssh = Path(os.environ["HOME"]) / ".ssh"
    ssh.mkdir()
    assert signatures.key() is None
    made = make_key(ssh / "id_ed25519")
    assert signatures.key() == made
    signed()


@pytest.mark.usefixtures("unsigned")
def test_the_key_that_git_signs_with_comes_before_the_usual_ones(tmp_path: Path) -> None:
    home = Path(os.environ["HOME"])
    (home / ".ssh").mkdir()
    usual, gits = make_key(home / ".ssh" / "id_ed25519"), make_key(home / "work")
    assert signatures.key() == usual
    for named in ("~/work", "~/work.pub"):
        (home / ".gitconfig").write_text(f"[user]\n\tsigningkey = {named}\n")
        assert str(signatures.key()).startswith(str(gits))
        signed()
    (home / ".gitconfig").write_text("[user]\n\tsigningkey = 0A46826A\n")  # of GPG
    assert signatures.key() == usual


def test_a_key_with_a_passphrase_and_nobody_to_ask_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = make_key(tmp_path / "locked", "correct horse")
    monkeypatch.setenv("OPSKIT_SIGNING_KEY", str(locked))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    begun = time.monotonic()
    done = subprocess.run(  # without a terminal, as under a scheduler
        [sys.executable, "-c", "from opskit import signatures; print(signatures.sign('text', 'opskit-record'))"],
        start_new_session=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert time.monotonic() - begun < 20
    assert done.stdout.startswith(f"('', '{locked} could not sign: "), done.stderr
    assert "passphrase" in done.stdout


def test_a_passphrase_that_nobody_types_is_not_waited_for_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = make_key(tmp_path / "locked", "correct horse")
    monkeypatch.setenv("OPSKIT_SIGNING_KEY", str(locked))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    script = "from opskit import signatures as s; s.PATIENCE = 1; print(s.sign('text', 'opskit-record'))"
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", script])  # noqa: S606
    said = b""
    while b"nobody gave" not in said:
        try:
            said += os.read(terminal, 1000)
        except OSError:
            break
    os.waitpid(child, 0)
    assert b"Enter passphrase" in said
    assert b"wants a passphrase that nobody gave" in said


def test_an_agent_signs_for_a_key_with_a_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (shutil.which("ssh-agent") and shutil.which("ssh-add")):
        pytest.skip("there is no ssh-agent on this machine")
    locked, answer = make_key(tmp_path / "locked", "correct horse"), tmp_path / "answer"
    answer.write_text("#!/bin/sh\necho correct horse\n")
    answer.chmod(0o700)
    socket = Path(f"/tmp/opskit-agent-{os.getpid()}")  # noqa: S108  # a short name; the agent makes it 0600
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL) as agent:
        try:
            while not socket.exists():
                time.sleep(0.01)
            monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
            asked = {**os.environ, "SSH_ASKPASS": str(answer), "SSH_ASKPASS_REQUIRE": "force"}
            subprocess.run(["ssh-add", "-q", str(locked)], env=asked, check=True, stdin=subprocess.DEVNULL)
            monkeypatch.setenv("OPSKIT_SIGNING_KEY", f"{locked}.pub")
            assert judge("text", signed(), RECORD, tmp_path / "none", NOW).good
        finally:
            agent.terminate()
    socket.unlink(missing_ok=True)


# Judging.


def test_a_signature_names_its_person_where_somebody_vouches(ana: Path, bo: Path, tmp_path: Path) -> None:
    signature = signed()
    allowed = allow(tmp_path / "allowed", ("bo", bo), ("ana", ana))
    found = judge("text", signature, RECORD, allowed, NOW)
    assert (found.good, found.who) == (True, "ana")
    assert found.key.startswith("SHA256:")
    alone = judge("text", signature, RECORD, allow(tmp_path / "others", ("bo", bo)), NOW)
    assert (alone.good, alone.who, alone.key) == (True, "", found.key)
    assert judge("text", signature, RECORD, tmp_path / "none", NOW) == alone


@pytest.mark.parametrize("other", ["", "Text", "text\n", "text "])
def test_another_text_is_not_what_was_signed(tmp_path: Path, other: str) -> None:
    found = judge(other, signed("text"), RECORD, tmp_path / "none", NOW)
    assert not found.good
    assert found.why


def test_a_signature_for_one_purpose_is_worth_nothing_for_another(ana: Path, tmp_path: Path) -> None:
    allowed = allow(tmp_path / "allowed", ("ana", ana))
    assert not judge("text", signed(purpose=APPROVAL), RECORD, allowed, NOW).good
    only = allow(tmp_path / "only", ("ana", ana), options=f'namespaces="{APPROVAL}"')
    assert judge("text", signed(purpose=APPROVAL), APPROVAL, only, NOW).who == "ana"
    assert judge("text", signed(purpose=RECORD), RECORD, only, NOW).who == ""


def test_a_key_is_its_persons_only_while_it_is_valid(ana: Path, bo: Path, tmp_path: Path) -> None:
    """Ana's key was replaced in March: what it signed before stays hers, what it signs after is nobody's."""
    allowed = allow(tmp_path / "allowed", ("ana", ana), options='valid-before="20260301000000Z"')
    allow(allowed, ("ana", bo), options='valid-after="20260301000000Z"')
    signature, turn = signed(), datetime(2026, 3, 1, tzinfo=UTC)
    assert judge("text", signature, RECORD, allowed, turn - timedelta(seconds=1)).who == "ana"
    after = judge("text", signature, RECORD, allowed, turn + timedelta(seconds=1))
    assert (after.good, after.who) == (True, "")


def test_times_are_those_of_utc_wherever_one_is(ana: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")  # 14 hours ahead
    allowed = allow(tmp_path / "allowed", ("ana", ana), options='valid-before="20260301000000Z"')
    elsewhere = datetime(2026, 3, 1, 1, tzinfo=UTC).astimezone(datetime.strptime("-0500", "%z").tzinfo)
    assert judge("text", signed(), RECORD, allowed, elsewhere).who == ""


@pytest.mark.parametrize("others", ["A\n", pytest.param(string.hexdigits, marks=pytest.mark.deep)])
def test_no_byte_of_a_signature_can_be_another(tmp_path: Path, others: str) -> None:
    signature = signed()
    assert judge("text", signature, RECORD, tmp_path / "none", NOW).good
    for place, character in enumerate(signature):
        for other in {chr(ord(character) ^ 1), *others} - {character}:
            altered = signature[:place] + other + signature[place + 1 :]
            assert not judge("text", altered, RECORD, tmp_path / "none", NOW).good, (place, other)


@pytest.mark.parametrize(
    "noise", ["", "text", signatures.BEGIN, "\n".join([signatures.BEGIN, signatures.END, ""]),
              "\n".join([signatures.BEGIN, base64.b64encode(b"x" * 200).decode(), signatures.END, ""])],
)  # fmt: skip
def test_noise_is_no_signature(tmp_path: Path, noise: str) -> None:
    assert not judge("text", noise, RECORD, tmp_path / "none", NOW).good


def test_a_file_of_allowed_signers_that_is_noise_vouches_for_nobody(tmp_path: Path) -> None:
    (tmp_path / "allowed").write_bytes(b"\xff\x00 nonsense\n# a remark\n\n")
    found = judge("text", signed(), RECORD, tmp_path / "allowed", NOW)
    assert (found.good, found.who) == (True, "")
