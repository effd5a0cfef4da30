"""Makes the pictures of JupyterLab in docs/: somebody investigates a broken sandbox, and is photographed at it.

    .venv/bin/python scripts/screenshots.py            # needs Chromium: scripts/browser installs it
    .venv/bin/python scripts/screenshots.py --check    # fail where one shows what is no longer so

Each picture holds a digest of what it shows, so that a stale one is found without taking it again. Nothing of it
touches your own sandboxes or records.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from browsing import HEIGHT, OPSKIT, WIDTH, Person, browser, serving, until
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from opskit import plan, runbooks
from opskit.lab import hand

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
RUNBOOK, SCENARIO, SANDBOX = "stripe-webhook-replay", "endpoint-disabled", "sandbox"
SHOWN = ("resolution-pending", "resolution-plan", "resolution-apply")  # cells in the picture of a plan
DIGEST = "opskit-shows"


def index() -> Iterator[str]:
    """What the picture of the index shows."""
    yield (ROOT / "opskit" / "lab" / "templates" / "index.html.j2").read_text(encoding="utf-8")
    for book in runbooks.catalogue(ROOT):
        yield f"{book.title} {book.priority} {book.facts['Respond within']} {book.facts['Owner']}"


def proposal() -> Iterator[str]:
    """What the picture of a plan shows."""
    cells = {cell["id"]: "".join(cell["source"]) for cell in runbooks.load(RUNBOOK, ROOT).cells}
    yield from (cells[name] for name in SHOWN)
    yield inspect.getsource(plan.Plan._repr_html_)
    yield inspect.getsource(hand._ask)


PICTURES = {"lab-index.png": index, "lab-plan.png": proposal}


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


def keep(page: Any, name: str, height: int = HEIGHT) -> None:
    """Photograph what is in sight, with few colours, which keeps the file small."""
    with tempfile.TemporaryDirectory(prefix="opskit-picture-") as folder:
        page.screenshot(path=(raw := Path(folder) / "raw.png"), clip={"x": 0, "y": 0, "width": WIDTH, "height": height})
        told = PngInfo()
        told.add_text(DIGEST, digest(name))
        with Image.open(raw) as image:
            image.convert("RGB").quantize(128).save(DOCS / name, optimize=True, pnginfo=told)


@contextmanager
def company(folder: Path) -> Iterator[dict[str, str]]:
    """A broken sandbox, as somebody's own would be; the variables that lead there."""
    places = {"OPSKIT_STATE": f"{folder}/state", "OPSKIT_OUTPUTS": f"{folder}/outputs", "HOME": f"{folder}/home"}
    surroundings = {**os.environ, **places, "OPSKIT_ROOT": str(ROOT), "OPSKIT_OPERATOR": "ana", "TZ": "UTC"}

    def opskit(*words: str) -> None:
        subprocess.run([OPSKIT, *words], env=surroundings, check=True, capture_output=True)

    opskit("sandbox", "start", "--name", SANDBOX)
    try:
        opskit("sandbox", "break", SCENARIO, "--name", SANDBOX)
        yield surroundings
    finally:
        opskit("sandbox", "stop", "--name", SANDBOX)


def take(folder: Path, surroundings: dict[str, str], page: Any) -> None:
    with serving(folder / "log", surroundings) as address:
        page.goto(address)
        page.get_by_role("button", name="Investigate with Stripe").wait_for()
        keep(page, "lab-index.png", 620)
        page.get_by_label("Environment").select_option(SANDBOX)
        page.get_by_role("button", name="Investigate with Stripe").click()
        (copy,) = until(lambda: list(Path(surroundings["OPSKIT_OUTPUTS"]).glob("lab/*/*.ipynb")), "the copy")
        ana = Person(page, copy)
        ana.arrives()
        page.keyboard.press("Control+B")  # no file browser: the notebook has the room
        ana.runs_all_above("resolution-apply")
        ana.starts("resolution-apply")
        page.locator(".jp-Stdin-input").wait_for()
        page.locator(".jp-Stdin-input").scroll_into_view_if_needed()
        page.wait_for_timeout(1000)
        keep(page, "lab-plan.png")
        ana.answers("")
        ana.waits()


def main() -> None:
    if "--check" in sys.argv[1:]:
        if found := stale():
            sys.exit(f"docs/{', docs/'.join(found)}: no longer so. Run: python scripts/screenshots.py")
        return
    with tempfile.TemporaryDirectory(prefix="opskit-") as name, browser() as page:
        folder = Path(name)
        with company(folder) as surroundings:
            take(folder, surroundings, page)
    for name in PICTURES:
        print(f"docs/{name}: {(DOCS / name).stat().st_size // 1024} KB")  # noqa: T201


if __name__ == "__main__":
    main()
