"""Makes the pictures of JupyterLab in docs/: somebody investigates a broken sandbox, and is photographed at it.

    .venv/bin/python scripts/screenshots.py    # needs Chromium: scripts/browser installs it

Nothing of it touches your own sandboxes or records.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from browsing import HEIGHT, OPSKIT, WIDTH, Person, browser, serving, until
from PIL import Image
from shown import DOCS, ROOT, SCENARIO, save

SANDBOX = "sandbox"


def keep(page: Any, name: str, top: int = 0, bottom: int = HEIGHT) -> None:
    """Photograph what is in sight from here to there."""
    clip = {"x": 0, "y": top, "width": WIDTH, "height": bottom - top}
    with tempfile.TemporaryDirectory(prefix="opskit-picture-") as folder:
        page.screenshot(path=(raw := Path(folder) / "raw.png"), clip=clip)
        with Image.open(raw) as image:
            save(image, DOCS / name)


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
        keep(page, "lab-index.png", bottom=620)
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
        typed = round(page.locator(".jp-Stdin-input").bounding_box()["y"])
        keep(page, "lab-apply.png", typed - 200, typed + 30)
        ana.answers("")
        ana.waits()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="opskit-") as name, browser() as page:
        folder = Path(name)
        with company(folder) as surroundings:
            take(folder, surroundings, page)


if __name__ == "__main__":
    main()
