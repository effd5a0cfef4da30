"""Approvals: a named person's word for exactly one plan, in one environment, for an hour; signed where there is a key.

An approval travels as one line of text, so that it can be given on another machine and pasted.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from opskit import files, signatures
from opskit.actions import Action, Change
from opskit.errors import BadInput, Refused
from opskit.plan import Plan
from opskit.provenance import find_root

VALID = timedelta(minutes=60)
AHEAD = timedelta(minutes=5)  # by which the approver's clock may differ from ours
TOKEN = "opskit-approval:"  # noqa: S105  # what a pasted approval begins with
NUMBERS = ("actions", "removals")
WORDS = {"notebook": "the runbook", "opskit": "opskit itself", "target": "the environment's file"}


@dataclass(frozen=True)
class Approval:
    """A person's word that exactly this plan may be carried out, until it expires."""

    plan: str  # the plan's digest
    environment: str
    actions: int
    removals: int
    approver: str
    at: str
    expires: str
    break_glass: str = ""  # why one person approved alone what takes two
    signature: str = ""

    @property
    def text(self) -> str:
        """What is signed: everything but the signature."""
        return json.dumps(asdict(replace(self, signature="")), sort_keys=True, separators=(",", ":"))

    @property
    def token(self) -> str:
        """The same as one line, to be pasted on another machine."""
        packed = base64.urlsafe_b64encode(zlib.compress(json.dumps(asdict(self)).encode()))
        return TOKEN + packed.decode()

    @property
    def given(self) -> datetime:
        return datetime.fromisoformat(self.at)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, json.dumps(asdict(self), indent=1))  # half of one would spoil every listing of runs


def approve(
    plan: Plan, approver: str, typed: str, *, with_removals: bool = False, max_actions: int, break_glass: str = ""
) -> Approval:
    """Approve `plan`, and sign that. `typed` repeats its environment and number of actions, such as `production 37`.

    Raises Refused where the plan is empty, removes access and that was not agreed to, cannot be undone and is
    approved by one person alone, or `typed` differs.
    """
    environment = plan.made_for["environment"]
    if not plan.actions:
        raise Refused("the plan is empty: there is nothing to approve.")
    expected = f"{environment} {len(plan)}"
    if " ".join(typed.split()) != expected:
        above = f" It is above this environment's max_actions of {max_actions}." if len(plan) > max_actions else ""
        raise Refused(f"not approved: {typed!r} is not {expected!r}.{above}", f"Type {expected!r} to approve.")
    if plan.removals and not with_removals:
        raise Refused(
            f"{len(plan.removals)} of {len(plan)} actions take access away from users:\n"
            + "\n".join([f"  {action.title}" for action in plan.removals[:5]] + ["  …"] * (len(plan.removals) > 5)),
            "Look at them, then approve with --with-removals.",
        )
    if break_glass and (final := [action.title for action in plan if _is_final(action)]):
        raise Refused(
            f"{len(final)} of {len(plan)} actions cannot be undone, so nobody approves them alone: {final[0]} …",
            "A second person has to approve.",
        )
    now = datetime.now(UTC)
    at, expires = now.isoformat(timespec="seconds"), (now + VALID).isoformat(timespec="seconds")
    return signed(Approval(plan.digest, environment, len(plan), len(plan.removals), approver, at, expires, break_glass))


def _is_final(action: Action) -> bool:
    """Whether it cannot be undone, as far as we know."""
    change = Change.known.get(action.name)
    return not action.manual and (change is None or bool(change.final))


def signed(approval: Approval) -> Approval:
    """The same with the operator's signature, where there is a key to sign with."""
    signature, _ = signatures.sign(approval.text, signatures.APPROVAL)
    return replace(approval, signature=signature)


def load(path: Path) -> Approval | None:
    """The approval saved at `path`, or None. Raises BadInput where the file is not one."""
    try:
        return _checked(files.read(path), str(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}.") from None


def from_anywhere(text: str) -> Approval:
    """An approval from a file's path, or pasted as a token; line breaks in it do not matter."""
    pasted = "".join(text.split())
    if not pasted.startswith(TOKEN):
        path = Path(text).expanduser()
        try:
            pasted = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise BadInput(f"{text[:60]}: is neither a file nor an approval ({TOKEN}…).") from None
        if not "".join(pasted.split()).startswith(TOKEN):
            return _checked(pasted, text)
        pasted = "".join(pasted.split())
    try:
        unpacking = zlib.decompressobj()
        unpacked = unpacking.decompress(base64.urlsafe_b64decode(pasted.removeprefix(TOKEN)), 100_000)
    except (ValueError, zlib.error):
        unpacked = b""
    if not unpacked or not unpacking.eof:
        raise BadInput("the pasted approval is damaged.", "Copy the whole of it again.")
    return _checked(unpacked, "the pasted approval")


def _checked(text: str | bytes, source: str) -> Approval:
    try:
        found = Approval(**json.loads(text))
        if any(type(value) is not (int if name in NUMBERS else str) for name, value in asdict(found).items()):
            raise ValueError("something in it is of another kind")
        begins, ends = datetime.fromisoformat(found.at), datetime.fromisoformat(found.expires)
        if ends - begins > VALID + timedelta(seconds=1) or ends.tzinfo is None:
            raise ValueError("no approval lasts that long")
        return found
    except (ValueError, TypeError, RecursionError):
        raise BadInput(f"{source}: is not an approval.") from None


def require(approval: Approval | None, plan: Plan, now_for: dict[str, Any], run: str) -> Approval:
    """The approval, if it covers exactly `plan`, has not expired, and nothing it rests on has changed; else Refused."""
    if approval is None:
        raise Refused("this plan is not approved.", f"Next: opskit approve {run}")
    if approval.plan != plan.digest or approval.environment != plan.made_for["environment"]:
        raise Refused("the approval is for another plan; this one was changed after it.", f"Next: opskit approve {run}")
    if (approval.actions, approval.removals) != (len(plan), len(plan.removals)):
        raise Refused("the approval counts other actions than the plan has.", f"Next: opskit approve {run}")
    now = datetime.now(UTC)
    if datetime.fromisoformat(approval.expires) < now:
        raise Refused(f"the approval expired at {approval.expires}.", "Run the runbook again and approve its new plan.")
    if approval.given > now + AHEAD:
        raise Refused(f"it was approved at {approval.at}, which is still to come.", "Set the clocks right.")
    stale = [WORDS.get(key, key) for key, value in now_for.items() if plan.made_for.get(key) != value]
    if stale:
        raise Refused(f"the plan is stale: {', '.join(stale)} changed since it was made.", "Run the runbook again.")
    return approval


def is_signed(approval: Approval) -> bool:
    """Whether whoever it names has signed it, where the repository lists who may sign; elsewhere nobody can tell."""
    try:
        allowed = find_root() / signatures.ALLOWED
    except BadInput:
        return True
    if not signatures.are_named(allowed):
        return True
    judged = signatures.judge(approval.text, approval.signature, signatures.APPROVAL, allowed, approval.given)
    return judged.good and judged.who == approval.approver


def require_signer(approval: Approval, allowed: Path, operator: str, *, production: bool) -> signatures.Judgement:
    """Who signed. Raises Refused where the signature is bad, or is not whose production wants it to be."""
    judged = signatures.Judgement(False, why="it is not signed")
    if approval.signature:
        judged = signatures.judge(approval.text, approval.signature, signatures.APPROVAL, allowed, approval.given)
        if not judged.good:
            raise Refused(f"the approval's signature is not good: {judged.why}.", "Approve it again.")
    if judged.who != approval.approver and (judged.who or (production and signatures.are_named(allowed))):
        whose = f"by {judged.who or judged.key}" if judged.good else "not at all"
        raise Refused(
            f"the approval in the name of {approval.approver} is signed {whose}.",
            f"{approval.approver} must approve with a key that {allowed} lists.",
        )
    if production and approval.approver == operator and not approval.break_glass:
        raise Refused(f"{operator} ran this runbook; in production another person approves.")
    return judged
