"""People's addresses and words in the middle of a text, found by their shape and hidden.

For what no name of a column announces: errors that quote a prompt, a reason, a title.
"""

from __future__ import annotations

import json
import re

# Read once from each beginning of a word, however long the text. In a URL, the sign is `%40`.
ADDRESS = re.compile(r"(?:(?<![\w.+%-])|(?<=%40))((?:[\w.+-]|%(?!40))++)(@|%40)((?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,})")
QUOTED = re.compile(
    r""""(?:[^"\\]|\\.?)*+(?:"|\Z)|“[^”]*(?:”|\Z)|«[^»]*(?:»|\Z)|`[^`]*(?:`|\Z)"""
    r"""|(?<!\w)['‘](?:[^'’]|['’](?=\w))*+(?:['’]|\Z)""",  # noqa: RUF001  # as people write
    re.DOTALL,
)
CLOSING = {'"': '"', "“": "”", "«": "»", "`": "`", "'": "'", "‘": "’"}  # noqa: RUF001  # as people write
BODY = re.compile(r"\s*(?:\d{3} )?\{")  # a vendor's answer in JSON, which quotes everything
STRING = re.compile(r'("message"\s*:\s*)?"((?:[^"\\]|\\.?)*+)(?:"|\Z)', re.DOTALL)
# What protocols quote: `rate_limit_error`, `gpt-5`, `o3`, and the keys of an error's body.
TERM = re.compile(
    r"[a-z][a-z0-9]*(?:[_-][a-z0-9]+|\.\d+)+|[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|[a-z]{1,3}\d"
    r"|error|type|message|code|param|status|details"
)


def addresses(text: str) -> str:
    """`text` with each `ana@example.com` in it as `a…@example.com`."""
    if "@" not in text and "%40" not in text:
        return text
    return ADDRESS.sub(lambda found: f"{found[1][:1]}…{found[2]}{found[3]}", text)


def words(text: str) -> str:
    """`text` without what it quotes, and without addresses: an error tells what went wrong, not what somebody wrote."""
    return addresses(STRING.sub(_string, text) if BODY.match(text) else _unquoted(text))


def _unquoted(text: str) -> str:
    """Blank from a quotation's beginning to the last mark that may end it, for it may hold such marks itself."""
    for found in QUOTED.finditer(text):
        if not TERM.fullmatch(found[0][1:-1]):
            start, end = found.start(), text.rfind(CLOSING[found[0][0]])
            return f"{text[:start]}…{_unquoted(text[end + 1 :]) if end > start else ''}"
    return text


def _string(found: re.Match[str]) -> str:
    key, text = found[1] or "", found[2]
    if key:  # the vendor's own sentence
        return key + json.dumps(_unquoted(text.replace('\\"', '"')), ensure_ascii=False)
    return f'"{text}"' if TERM.fullmatch(text) else '"…"'
