"""Keep known secrets out of everything that is shown, sent or written.

We know the exact values, so nothing is guessed: each secret is looked for as it is and in the forms in which text
travels. Covered are quoting for URLs, HTML, JSON, Python, SQL and shells, mixed and one inside another; base64 at its
three alignments, also broken into lines; hexadecimal; a secret broken by a terminal's colours; of a secret of several
lines, such as a private key, also each longer line.

Not covered, and not claimed: a secret reversed, in other letters, spaced out, cut short by somebody, in several cells,
compressed, encrypted or hashed, drawn (PNG, or glyphs as paths), or spelled in a way that is not named above.

A secret split over several pieces of one stream is caught in the kernel. One split over several outputs, such as
stdout and a display, is caught in the kernel while its beginning is still held back; a message that was sent cannot be
recalled, so the rest is done by the runner when it saves the notebook. Plain papermill and JupyterLab write what the
kernel sent: there, two displays that each show half of a secret stay as they are.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

from opskit.spelling import Places, ways

SHORTEST = 8  # a shorter secret would blank out innocent words; validation refuses it
LINE = 16  # a line of a longer secret that is long enough to count by itself
# What may stand in the middle of a secret without hindering a reader: colours, and the line breaks of base64.
COLOUR = re.compile(r"\x1b\[[0-9;]*m|\\u001b\[[0-9;]*m|\\x1b\[[0-9;]*m")
BREAK = re.compile(r"(?<=[A-Za-z0-9+/_-]{20})(?:\r?\n|\\n)(?=[A-Za-z0-9+/_=-])")

Span = tuple[int, int, str]  # from, to, and what to say instead


def parts(secret: str) -> Iterator[str]:
    """What must not be read: the secret, and each longer line of it."""
    yield secret
    yield secret.strip()  # a variable may end in a line break that its users cut off
    for line in secret.splitlines():
        if len(line.strip()) >= LINE and not line.startswith("-----"):  # every private key begins with such a line
            yield line.strip()


class Form:
    """One way in which a secret travels."""

    def __init__(self, places: Places, label: str) -> None:
        self.places = places
        self.label = label
        self.longest = sum(len(spellings[0]) for spellings in places)
        self.needle = max(_fixed(places), key=len, default="")

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        return re.compile("".join(f"(?:{'|'.join(map(re.escape, spellings))})" for spellings in self.places))

    def begins(self, text: str, at: int) -> bool:
        """Whether `text` from `at` to its end could be the beginning of this form."""
        reached = {at}
        for spellings in self.places:
            following = set()
            for here in reached:
                for spelling in spellings:
                    if text.startswith(spelling, here):
                        following.add(here + len(spelling))
                    elif len(text) - here < len(spelling) and text.endswith(spelling[: len(text) - here]):
                        return True
            if not following:
                return False
            reached = following
        return False


def _fixed(places: Places) -> Iterator[str]:
    """Stretches that stand in every spelling of a form: text without them cannot hold it."""
    run = ""
    for spellings in places:
        if len(spellings) == 1:
            run += spellings[0]
        else:
            yield run
            run = ""
    yield run


class Redactor:
    """Replaces every form of every secret by `[secret NAME]`."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        found = {
            tuple(places): Form(places, f"[secret {name}]")
            for name, value in reversed([*secrets.items()])  # of two names for one value the first counts
            for part in parts(value)
            if len(part) >= SHORTEST
            for places in ways(part)
        }
        self._forms = sorted(found.values(), key=lambda form: form.longest, reverse=True)
        self._letters = {letter for form in self._forms for ways in form.places for way in ways for letter in way}
        self._by_first: dict[str, list[Form]] = {}
        for form in self._forms:
            for first in {way[0] for way in form.places[0]}:
                self._by_first.setdefault(first, []).append(form)

    def text(self, text: str) -> str:
        return blanked(text, self.spans(text))

    def tree(self, value: Any) -> Any:
        """The same for whatever JSON can hold, keys included."""
        return each(value, self.text)

    def across(self, texts: Sequence[str]) -> list[str]:
        """Texts that are read one after another, without a secret that begins in one and ends in another."""
        spans = self.spans("".join(texts))
        shown, begin, first = [], 0, 0
        for text in texts:
            here, end, number = [], begin + len(text), first
            while number < len(spans) and spans[number][0] < end:
                start, stop, label = spans[number]
                here.append((max(start - begin, 0), min(stop - begin, len(text)), label if start >= begin else ""))
                first = number + (stop <= end)
                number += 1
            shown.append(blanked(text, here))
            begin = end
        return shown

    def named(self, text: str) -> list[str]:
        """The names of the secrets in `text`."""
        labels = dict.fromkeys(label for _, _, label in self.spans(text))
        return [label.removeprefix("[secret ").removesuffix("]") for label in labels]

    def spans(self, text: str) -> list[Span]:
        """Where secrets stand, in order, none inside another."""
        found = self._plain_spans(text)
        for hiding in (COLOUR, BREAK):
            found += self._spans_without(hiding, text)
        return merged(found)

    def _plain_spans(self, text: str) -> list[Span]:
        forms = (form for form in self._forms if form.needle in text)
        return merged([(*match.span(), form.label) for form in forms for match in form.pattern.finditer(text)])

    def _spans_without(self, hiding: re.Pattern[str], text: str) -> list[Span]:
        """Secrets that are seen once what hides them is left out."""
        gaps = [match.span() for match in hiding.finditer(text)]
        if not gaps:
            return []
        begins = [0, *(stop for _, stop in gaps)]
        pieces = [text[one:two] for one, two in zip(begins, [*(start for start, _ in gaps), len(text)], strict=True)]
        offsets = [0, *accumulate(map(len, pieces))]

        def back(at: int) -> int:
            piece = bisect_right(offsets, at, hi=len(pieces)) - 1
            return begins[piece] + at - offsets[piece]

        return [(back(start), back(stop - 1) + 1, label) for start, stop, label in self._plain_spans("".join(pieces))]

    def beginnings(self, text: str) -> list[int]:
        """Where, towards the end of `text`, a secret may have begun that is not complete."""
        if not self._forms:
            return []
        at, most = len(text), self._forms[0].longest - 1
        while at and len(text) - at < most and text[at - 1] in self._letters:
            at -= 1
        return [
            here
            for here in range(at, len(text))
            if any(form.begins(text, here) for form in self._by_first.get(text[here], ()))
        ]


def merged(spans: list[Span]) -> list[Span]:
    """In order, and those that overlap as one."""
    found: list[Span] = []
    for start, stop, label in sorted(spans, key=lambda span: (span[0], -span[1])):
        if found and start < found[-1][1]:
            found[-1] = (found[-1][0], max(stop, found[-1][1]), found[-1][2])
        else:
            found.append((start, stop, label))
    return found


def blanked(text: str, spans: Sequence[Span]) -> str:
    """`text` with the labels of `spans` in their places."""
    shown, at = [], 0
    for start, stop, label in spans:
        shown += [text[at:start], label]
        at = stop
    return "".join([*shown, text[at:]]) if spans else text


def each(value: Any, change: Callable[[str], str]) -> Any:
    """A tree of JSON with each text in it changed, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {each(key, change): each(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(each(item, change) for item in value)
    return value


def redactor(*secrets: Mapping[str, Mapping[str, str]]) -> Redactor:
    """Of an environment's secrets: "read" and perhaps "change" -> service -> secret."""
    return Redactor({f"{s} {a}": value for some in secrets for a, found in some.items() for s, value in found.items()})


class Stream:
    """Redacts a text that arrives in pieces, so that a secret split across two writes is still seen."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self.held = ""  # what could be the beginning of a secret, and waits for more
        self.found = 0  # secrets so far

    def feed(self, piece: str) -> str:
        text = self.held + piece
        spans = self._redactor.spans(text)
        keep = next(iter(self._redactor.beginnings(text)), len(text))
        keep = next((start for start, stop, _ in spans if start < keep < stop), keep)
        self.held = text[keep:]
        return self._blanked(text[:keep], [span for span in spans if span[1] <= keep])

    def flush(self) -> str:
        """What was held back after all; it may hold a shorter secret whole."""
        text, self.held = self.held, ""
        return self._blanked(text, self._redactor.spans(text))

    def _blanked(self, text: str, spans: Sequence[Span]) -> str:
        self.found += len(spans)
        return blanked(text, spans)
