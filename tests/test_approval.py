"""Approvals: exactly one plan, by name, for an hour; given here or elsewhere, signed, by the one it says."""

from __future__ import annotations

import base64
import json
import textwrap
import zlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support import allow
from test_actions import Burn, Put
from test_plan import DIFFERENT, MADE_FOR, action, plan

from opskit import approval as approvals
from opskit.approval import Approval, approve, from_anywhere, require, require_signer
from opskit.errors import BadInput, Refused
from opskit.plan import Plan

NOW_FOR = {"notebook": "sha256:n", "opskit": "0.1", "target": "sha256:t"}


def approved(proposed: Plan, typed: str | None = None, **more: Any) -> Approval:
    return approve(proposed, "bo", typed or f"production {len(proposed)}", **{"max_actions": 25, **more})


# Giving one.


@pytest.mark.parametrize("typed", ["production 2", "  production   2 "])
def test_the_environment_and_the_number_approve_it(typed: str) -> None:
    before = datetime.now(UTC)
    found = approved(plan(), typed)
    assert (found.plan, found.environment, found.actions, found.approver) == (plan().digest, "production", 2, "bo")
    assert timedelta(minutes=59) < datetime.fromisoformat(found.expires) - before < timedelta(minutes=61)
    require(found, plan(), NOW_FOR, "run")


@pytest.mark.parametrize(
    "typed", ["", "yes", "production", "2", "production 3", "Production 2", "sandbox 2", "production 2 x"]
)
def test_anything_else_does_not(typed: str) -> None:
    with pytest.raises(Refused, match="not approved"):
        approve(plan(), "bo", typed, max_actions=25)


def test_an_empty_plan_cannot_be_approved() -> None:
    with pytest.raises(Refused, match="empty"):
        approve(Plan(dict(MADE_FOR)), "bo", "production 0", max_actions=25)


def test_removals_are_approved_by_name_only() -> None:
    one = plan(action(removes_access=True), action("b.do"))
    with pytest.raises(Refused, match=r"(?s)1 of 2 actions take access away .*Do <it>.*--with-removals"):
        approved(one)
    assert approved(one, with_removals=True).removals == 1


@pytest.mark.parametrize(("count", "more"), [(5, False), (6, True)])
def test_removals_that_are_not_named_are_not_hidden(count: int, more: bool) -> None:
    removals = [action(f"a{number}", removes_access=True) for number in range(count)]
    with pytest.raises(Refused) as caught:
        approved(plan(*removals))
    assert caught.value.message.endswith("\n  …") is more


def test_more_than_the_limit_needs_that_number() -> None:
    one = plan(*(action(f"a{n}") for n in range(30)))
    with pytest.raises(Refused, match="above this environment's max_actions of 25"):
        approved(one, "production 25")
    assert approved(one, "production 30").actions == 30


def test_nobody_approves_alone_what_cannot_be_undone() -> None:
    final, other = Burn().plan({"file": "a", "text": "x"}, None), Put().plan({"file": "a", "text": "x"}, None)
    with pytest.raises(Refused, match=r"1 of 2 actions cannot be undone.*Put x into a"):
        approved(plan(other, final), break_glass="nobody answers")
    assert approved(plan(other, final)).break_glass == ""
    assert approved(plan(other), break_glass="nobody answers").break_glass == "nobody answers"
    with pytest.raises(Refused, match="cannot be undone"):  # as far as anybody knows
        approved(plan(action("from.another.version")), break_glass="nobody answers")


# Keeping it, and carrying it elsewhere.


def test_an_approval_survives_its_file(tmp_path: Path) -> None:
    found = approved(plan())
    found.save(tmp_path / "approvals" / "run.json")
    assert approvals.load(tmp_path / "approvals" / "run.json") == found
    assert approvals.load(tmp_path / "none.json") is None


def test_an_approval_can_be_pasted_however_it_was_broken_into_lines(tmp_path: Path) -> None:
    found = replace(approved(plan()), break_glass="ü 'quoted'")
    assert found.signature
    assert from_anywhere(found.token) == found
    assert from_anywhere("\n".join(textwrap.wrap(found.token, 60))) == found
    assert from_anywhere(f"  {found.token}\r\n\r\n") == found
    (tmp_path / "mailed.txt").write_text(found.token + "\n")
    assert from_anywhere(str(tmp_path / "mailed.txt")) == found
    found.save(tmp_path / "saved.json")
    assert from_anywhere(str(tmp_path / "saved.json")) == found


def test_a_damaged_token_is_said_to_be_damaged() -> None:
    token = approved(plan()).token
    for damaged in (token[:-1], token[: len(token) // 2], approvals.TOKEN, token.replace(token[40:60], "")):
        with pytest.raises(BadInput, match="damaged"):
            from_anywhere(damaged)


def test_no_character_of_a_token_can_be_another_unnoticed(ana: Path, tmp_path: Path) -> None:
    found = approved(plan())
    allowed = allow(tmp_path / "allowed", ("bo", ana))
    body = len(approvals.TOKEN)
    for place in range(body, len(found.token), 7):
        other = "A" if found.token[place] != "A" else "B"
        try:
            pasted = from_anywhere(found.token[:place] + other + found.token[place + 1 :])
        except BadInput:
            continue
        if pasted != found:  # base64 has bits that mean nothing
            with pytest.raises(Refused):
                require_signer(pasted, allowed, "ana", production=True)


@pytest.mark.parametrize("text", ["", "no-such-file", "opskit-approval", "/proc/self/mem"])
def test_what_is_neither_file_nor_token_is_said_to_be_neither(text: str) -> None:
    with pytest.raises(BadInput, match=r"neither a file nor an approval|is not an approval"):
        from_anywhere(text)


def test_a_token_that_unpacks_to_very_much_is_not_unpacked() -> None:
    bomb = base64.urlsafe_b64encode(zlib.compress(b" " * 50_000_000)).decode()
    with pytest.raises(BadInput):
        from_anywhere(approvals.TOKEN + bomb)


GOOD: dict[str, Any] = {
    "plan": "sha256:p", "environment": "e", "actions": 1, "removals": 0, "approver": "bo",
    "at": "2026-01-01T00:00:00+00:00", "expires": "2026-01-01T01:00:00+00:00",
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"expires": "2026-01-01T02:00:00+00:00"},  # no approval lasts that long
        {"expires": "2026-01-01T01:00:00"},
        {"at": "2026-01-01T00:00:00"},
        {"at": "2026-01-01T00:00:00", "expires": "2026-01-01T01:00:00"},
        {"expires": "tomorrow"},
        {"at": None},
        {"approver": 5},
        {"environment": None},
        {"signature": 5},
        {"break_glass": True},
        {"further": "x"},
    ],
)
def test_what_is_not_quite_an_approval_is_none(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(GOOD))
    assert approvals.load(path) == Approval(**GOOD)
    path.write_text(json.dumps(GOOD | changes))
    with pytest.raises(BadInput, match="is not an approval"):
        approvals.load(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"plan": "x"}', b"5", b"\xff\xfe"])
def test_what_is_no_approval_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(BadInput, match="is not an approval"):
        approvals.load(tmp_path / "a.json")


# Requiring one.


def test_without_approval_nothing_goes() -> None:
    with pytest.raises(Refused, match=r"not approved\. Next: opskit approve run-1"):
        require(None, plan(), NOW_FOR, "run-1")


@pytest.mark.parametrize("other", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_another_plan_is_refused(other: Plan) -> None:
    with pytest.raises(Refused, match="the approval is for another plan"):
        require(approved(plan()), other, NOW_FOR, "run")


def test_another_environment_is_refused() -> None:
    with pytest.raises(Refused, match="the approval is for another plan"):
        require(replace(approved(plan()), environment="sandbox"), plan(), NOW_FOR, "run")


def moved(by: timedelta) -> Approval:
    found = approved(plan())
    at, expires = (datetime.fromisoformat(text) + by for text in (found.at, found.expires))
    return replace(found, at=at.isoformat(), expires=expires.isoformat())


def test_an_approval_expires() -> None:
    require(moved(timedelta(minutes=-59)), plan(), NOW_FOR, "run")
    with pytest.raises(Refused, match="expired"):
        require(moved(timedelta(minutes=-61)), plan(), NOW_FOR, "run")


def test_an_approval_from_the_future_is_refused_unless_clocks_only_differ() -> None:
    require(moved(timedelta(minutes=4)), plan(), NOW_FOR, "run")
    with pytest.raises(Refused, match="still to come"):
        require(moved(timedelta(minutes=6)), plan(), NOW_FOR, "run")


@pytest.mark.parametrize(
    ("key", "name"),
    [("notebook", "the runbook"), ("opskit", "opskit itself"), ("target", "the environment's file")],
)
def test_whatever_changed_since_is_named(key: str, name: str) -> None:
    with pytest.raises(Refused, match=f"stale: {name} changed"):
        require(approved(plan()), plan(), {**NOW_FOR, key: "sha256:new"}, "run")


# Whose it is. Here Bo's approvals are signed with the key of whoever runs the tests: Ana's.


def test_a_signature_names_its_person(bo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSKIT_SIGNING_KEY", str(bo))
    allowed = allow(tmp_path / "allowed", ("bo", bo))
    assert require_signer(approved(plan()), allowed, "ana", production=True).who == "bo"


@pytest.mark.parametrize("production", [True, False])
def test_an_approval_in_anothers_name_is_refused(ana: Path, bo: Path, tmp_path: Path, production: bool) -> None:
    allowed = allow(tmp_path / "allowed", ("ana", ana), ("bo", bo))
    with pytest.raises(Refused, match="in the name of bo is signed by ana"):
        require_signer(approved(plan()), allowed, "cy", production=production)


def test_a_key_that_nobody_vouches_for_is_refused_in_production(bo: Path, tmp_path: Path) -> None:
    allowed = allow(tmp_path / "allowed", ("bo", bo))
    with pytest.raises(Refused, match="in the name of bo is signed by SHA256:"):
        require_signer(approved(plan()), allowed, "ana", production=True)
    assert require_signer(approved(plan()), allowed, "ana", production=False).who == ""


@pytest.mark.usefixtures("unsigned")
def test_production_wants_a_signature_once_signers_are_listed(bo: Path, tmp_path: Path) -> None:
    word = approved(plan())
    assert word.signature == ""
    assert not require_signer(word, tmp_path / "none", "ana", production=True).good
    allowed = allow(tmp_path / "allowed", ("bo", bo))
    assert not require_signer(word, allowed, "ana", production=False).good
    with pytest.raises(Refused, match="in the name of bo is signed not at all"):
        require_signer(word, allowed, "ana", production=True)


@pytest.mark.parametrize(
    "changes", [{"plan": "sha256:other"}, {"environment": "other"}, {"actions": 3}, {"removals": 1},
                {"approver": "cy"}, {"break_glass": "why"}, {"expires": "2026-01-01T01:00:00+00:00"}],
)  # fmt: skip
def test_nothing_that_was_signed_can_be_changed(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="signature is not good"):
        require_signer(replace(approved(plan()), **changes), tmp_path / "none", "ana", production=False)


def test_a_signature_for_another_purpose_is_worth_nothing(tmp_path: Path) -> None:
    word = approved(plan())
    signature, _ = approvals.signatures.sign(word.text, approvals.signatures.RECORD)
    with pytest.raises(Refused, match="signature is not good"):
        require_signer(replace(word, signature=signature), tmp_path / "none", "ana", production=False)


def test_in_production_another_person_approves_or_breaks_glass(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="another person approves"):
        require_signer(approved(plan()), tmp_path / "none", "bo", production=True)
    undoable = plan(Put().plan({"file": "a", "text": "x"}, None))
    require_signer(approved(undoable, break_glass="nobody answers"), tmp_path / "none", "bo", production=True)
