"""What each picture in docs/ shows. It holds a digest of that, so that a stale one is found without taking it again.

python scripts/shown.py    # fail where one shows what is no longer so
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from opskit import plan, runbooks
from opskit.lab import hand

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
RUNBOOK, SCENARIO = "stripe-webhook-replay", "endpoint-disabled"
DIGEST = "opskit-shows"

# Cells by their pinned ids, in their own order. Of a section, the record's picture shows only the heading.
STEPS = ("impact-size", "diagnosis-endpoint-about", "diagnosis-endpoint", "resolution-apply", "resolution-after")
SECTIONS = ("impact", "diagnosis", "resolution")
PLAN = ("resolution-pending", "resolution-plan", "resolution-apply")


def index() -> Iterator[str]:
    yield (ROOT / "opskit" / "lab" / "templates" / "index.html.j2").read_text(encoding="utf-8")
    for book in runbooks.catalogue(ROOT):
        yield f"{book.title} {book.priority} {book.facts['Respond within']} {book.facts['Owner']}"


def proposal() -> Iterator[str]:
    yield from _cells(*PLAN)
    yield inspect.getsource(plan.Plan._repr_html_)
    yield inspect.getsource(hand._ask)


def record() -> Iterator[str]:
    yield from _cells(*STEPS)
    yield from (cell.split("\n", 1)[0] for cell in _cells(*SECTIONS))
    yield inspect.getsource(plan.Plan._repr_html_)


def _cells(*names: str) -> Iterator[str]:
    cells = {cell["id"]: "".join(cell["source"]) for cell in runbooks.load(RUNBOOK, ROOT).cells}
    yield from (cells[name] for name in names)


PICTURES = {"lab-index.png": index, "lab-plan.png": proposal, "lab-apply.png": proposal, "record.png": record}


def digest(picture: str) -> str:
    return hashlib.sha256("\n".join(PICTURES[picture]()).encode()).hexdigest()


def stale() -> list[str]:
    """The pictures that show what is no longer so."""
    return [name for name in PICTURES if _held(DOCS / name) != digest(name)]


def _held(path: Path) -> str:
    """The digest in a picture; empty where there is none."""
    if not path.exists():
        return ""
    with Image.open(path) as image:
        return str(image.info.get(DIGEST, ""))


def save(image: Image.Image, to: Path) -> None:
    """With few colours, which keeps the file small, and with the digest of what it shows."""
    told = PngInfo()
    if to.name in PICTURES:
        told.add_text(DIGEST, digest(to.name))
    image.convert("RGB").quantize(128).save(to, optimize=True, pnginfo=told)


if __name__ == "__main__":
    if found := stale():
        sys.exit(
            f"docs/{', docs/'.join(found)}: no longer so. Run: python scripts/screenshots.py, or scripts/picture.py"
        )
