"""What statements that are typed together mean for each other: a transaction that is rolled back, tables that are gone
with the session, and whom the database takes one for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

BEGUN = re.compile(r"\s*(begin|start\s+transaction)\b", re.IGNORECASE)
KEPT = re.compile(r"\s*(commit|end|prepare\s+transaction)\b(?!\s+prepared)", re.IGNORECASE)
TAKEN_BACK = re.compile(r"\s*(rollback|abort)\b(?!\s+(prepared|(work\s+|transaction\s+)?to)\b)", re.IGNORECASE)
TEMPORARY = re.compile(
    r"\b(?:create\s+(?:or\s+replace\s+)?(?:local\s+|global\s+)?|into\s+)temp(?:orary)?\s+"
    r"(?:(?:recursive\s+)?(?:table|view|sequence)\s+)?(?:if\s+not\s+exists\s+)?\"?(?:pg_temp\.)?(\w+)",
    re.IGNORECASE,
)
CLAIMS = re.compile(
    r"\bset\s+(?:local\s+|session\s+)?\"?request\.jwt\.claims?|\bset_config\s*\(\s*'request\.jwt\.claims?",
    re.IGNORECASE,
)
ROLE = re.compile(
    r"\s*set\s+(?P<local>local\s+|session\s+)?(?:role|session\s+authorization)\s*(?:\bto\b|=|\s)\s*['\"]?(?P<role>[^\s'\";]+)",
    re.IGNORECASE,
)
CONFIGURED = re.compile(r"set_config\s*\(\s*'role'\s*,\s*'?(?P<role>[^\s',]+)'?\s*,\s*(?P<local>true)?", re.IGNORECASE)
RESET = re.compile(r"\s*(reset\s+(role|all|session\s+authorization)|discard\s+all)\b", re.IGNORECASE)
NOT_ASKING = re.compile(r"\s*(set|reset|show|begin|start|savepoint|release|select\s+set_config)\b", re.IGNORECASE)
UNBOUND = {"none", "default", "postgres", "supabase_admin", "service_role"}  # no policy applies to whom they are


def taken_back(block: Sequence[str], number: int) -> bool:
    """Whether what this one does is rolled back."""
    ends = [n for n, text in enumerate(block) if KEPT.match(text) or TAKEN_BACK.match(text)]
    last = max((n for n in ends if n < number), default=-1)
    following = next((n for n in ends if n > number), None)
    begun = any(BEGUN.match(text) for text in block[last + 1 : number])
    return begun and following is not None and TAKEN_BACK.match(block[following]) is not None


def temporary(block: Sequence[str]) -> set[str]:
    return {name.lower() for text in block for name in TEMPORARY.findall(text)}


def impostor(block: Sequence[str], number: int) -> bool:
    """Whether this one takes on a user's claims, and what is asked then is asked by the tables' owner."""
    return bool(CLAIMS.search(block[number])) and _role(block[: _asked(block, number)]) in UNBOUND


def _asked(block: Sequence[str], number: int) -> int:
    """The first one that asks something under the claims that this one sets."""
    asking = (n for n in range(number + 1, len(block)) if not NOT_ASKING.match(block[n]))
    return next(asking, len(block))


def _role(block: Sequence[str]) -> str:
    """Whom the database takes one for after these."""
    role, local = "none", False
    for text in block:
        if found := ROLE.match(text) or CONFIGURED.search(text):
            role, local = found["role"].lower(), (found["local"] or "").strip().lower() in ("local", "true")
        elif RESET.match(text) or TAKEN_BACK.match(text) or (local and KEPT.match(text)):
            role, local = "none", False
    return role
