"""A person at JupyterLab, played in Chromium: what the tests of `opskit lab` do, and the pictures of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OPSKIT = str(Path(sys.executable).with_name("opskit"))
CHROMIUM = shutil.which("chromium")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--no-first-run",
         "--disable-component-update", "--disable-sync", "--hide-scrollbars")  # fmt: skip
PATIENCE = 60.0  # seconds
WIDTH, HEIGHT = 1280, 900


@contextmanager
def serving(log: Path, surroundings: Mapping[str, str], *words: str) -> Iterator[str]:
    """`opskit lab`, for as long as it is needed; its address. Its end is awaited."""
    command = [OPSKIT, "lab", *words, "--no-browser", "--port", "0"]
    with log.open("w") as out:
        process = subprocess.Popen(command, env=dict(surroundings), stdout=out, stderr=out)
    try:
        yield until(lambda: _address(log, process), "JupyterLab to start")
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()  # one that does not heed that is a failure, and is not left behind


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    text = log.read_text()
    if process.poll() is not None:
        raise RuntimeError(f"opskit lab has ended: {text}")
    found = re.search(r"http://127\.0\.0\.1:\S+token=\w+\n", text)
    return found[0].strip() if found else ""


def until(happens: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Wait for something; what it is, then."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := happens():
            return found
        time.sleep(0.1)
    raise TimeoutError(f"waited {seconds:g} s for {what}")


@contextmanager
def browser() -> Iterator[Any]:
    """A page of the system's Chromium, as wide as a small screen."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  # only who looks needs it

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        try:
            yield chromium.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        finally:
            chromium.close()


class Person:
    """Somebody who works on one notebook, with the keyboard."""

    def __init__(self, page: Any, copy: Path) -> None:
        self.page = page
        self.copy = copy
        self.cells = [cell["id"] for cell in json.loads(copy.read_text(encoding="utf-8"))["cells"]]

    def arrives(self) -> None:
        """Wait until the notebook is there, and its kernel too."""
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=PATIENCE * 1000)
        self.waits()

    def waits(self, seconds: float = PATIENCE) -> None:
        """Until nothing is executed any more."""
        until(lambda: self._state() == "Idle" and not self._busy(), f"the kernel, which is {self._state()}", seconds)

    def _state(self) -> str:
        found = re.search(r"\| (\w+)", self.page.locator("#jp-main-statusbar").inner_text())
        return found[1] if found else "starting"

    def _busy(self) -> bool:
        return bool(self.page.locator(".jp-InputPrompt", has_text="[*]").count())

    @property
    def active(self) -> Any:
        return self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook .jp-Cell.jp-mod-active")

    def goes_to(self, cell: str) -> None:
        """With the arrow keys: the notebook only draws what is near."""
        wanted = self.cells.index(cell)
        self.page.keyboard.press("Escape")
        self.active.focus()  # where a cell has asked, nothing has the focus afterwards
        for _ in range(3 * len(self.cells)):
            here = int(self.active.get_attribute("data-windowed-list-index"))
            if here == wanted:
                return
            self.page.keyboard.press("ArrowDown" if here < wanted else "ArrowUp")
        raise LookupError(f"no way to {cell}")

    def writes(self, cell: str, source: str) -> None:
        """Replace a cell's source."""
        self.goes_to(cell)
        self.page.keyboard.press("Enter")
        self.active.locator(".cm-editor.cm-focused").wait_for()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.insert_text(source)
        first = source.splitlines()[0]
        until(lambda: self.active.locator(".cm-line").first.inner_text() == first, f"{cell} to be written")
        self.page.keyboard.press("Escape")

    def starts(self, cell: str) -> None:
        """Begin to run a cell, and go on without waiting."""
        self.goes_to(cell)
        before = self._number()
        self.page.keyboard.press("Control+Enter")
        until(lambda: self._number() != before, f"{cell} to start")

    def runs(self, cell: str) -> str:
        """Run a cell; what it says."""
        self.starts(cell)
        self.waits()
        return self.reads()

    def _number(self) -> str:
        return str(self.active.locator(".jp-InputPrompt").first.inner_text())

    def reads(self) -> str:
        return str(self.active.locator(".jp-Cell-outputArea").inner_text())

    def reads_of(self, cell: str) -> str:
        self.goes_to(cell)
        return self.reads()

    def runs_all_above(self, cell: str) -> None:
        self.goes_to(cell)
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_text("Run All Above Selected Cell").click()
        self.page.wait_for_timeout(500)
        self.waits(3 * PATIENCE)

    def saves(self) -> None:
        """Until the file is there: an edit is not lost, nor an output."""
        before = self.copy.stat().st_mtime_ns
        self.page.keyboard.press("Control+S")
        until(lambda: self.copy.stat().st_mtime_ns != before, "the notebook to be saved")

    def answers(self, text: str) -> None:
        """Type into the field that a cell asks with."""
        self.page.locator(".jp-Stdin-input").fill(text)
        self.page.locator(".jp-Stdin-input").press("Enter")
