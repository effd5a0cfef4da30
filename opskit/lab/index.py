"""The page that JupyterLab opens on: the runbooks by urgency, and the investigations that are still open."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import url_path_join
from tornado.web import authenticated

from opskit import adopt, archive, environment, record, runbooks
from opskit.errors import OpskitError, Refused
from opskit.journal import read, session
from opskit.lab import copies

URL = "/opskit"
PLAN_SHOWN = " actions, sha256:"  # how a plan that is not empty begins, as text
TEMPLATES = Environment(loader=PackageLoader("opskit.lab"), autoescape=True, trim_blocks=True, lstrip_blocks=True)


class Page(JupyterHandler):
    """What all of them share. Whatever goes wrong is said on the page, with the remedy."""

    def initialize(self, lab: Any) -> None:
        self.lab = lab

    def show(self, said: str = "", error: OpskitError | None = None) -> None:
        outputs = self.lab.outputs
        self.set_status(200 if error is None else 400)
        self.finish(
            TEMPLATES.get_template("index.html.j2").render(
                books=runbooks.catalogue(self.lab.root),
                environments=environment.names(self.lab.root),
                investigations=[self.investigation(run) for run in copies.still_open(outputs)],
                base=self.base_url,
                xsrf=self.xsrf_token.decode(),
                said=said,
                error=error,
            )
        )

    def investigation(self, run: Path) -> dict[str, Any]:
        """What there is to say of an open one. Where its notebook is not found, its link leads to where that was."""
        found = {**archive.summary(run), "begun": (run / record.JOURNAL).exists()}
        copy = None
        with suppress(Refused):
            copy = copies.lying(run, self.lab.outputs)
        if copy is None:
            found["runbook"] += " (its notebook is gone, or was renamed)"
            place = self.lab.copies / run.name
            return found | {"url": self.lab_url(place) if place.exists() else url_path_join(self.base_url, "lab")}
        return found | {"url": self.lab_url(copy)}

    def lab_url(self, copy: Path) -> str:
        return url_path_join(self.base_url, "lab/tree", quote(copy.relative_to(self.lab.copies).as_posix()))


class Index(Page):
    @authenticated
    def get(self) -> None:
        self.show()


class Investigate(Page):
    """Begin an investigation, and go there."""

    @authenticated
    def post(self) -> None:
        given = {"environment": self.get_body_argument("environment"), "incident": self.get_body_argument("incident")}
        try:
            copy = self.lab.begin(self.get_body_argument("runbook"), {k: v for k, v in given.items() if v})
        except OpskitError as error:
            self.show(error=error)
        else:
            self.redirect(self.lab_url(copy))


class Close(Page):
    """End an investigation's kernel, and seal its record."""

    @authenticated
    async def post(self) -> None:
        try:
            folder = archive.Archive(self.lab.outputs).find(self.get_body_argument("run"))
            copy = copies.lying(folder, self.lab.outputs)
            sessions = await self.session_manager.list_sessions()
            mine = [one for one in sessions if copy and self.lab.copies / one["path"] == copy]
            if mine and copy:
                _require_finished(folder, copy, [one["kernel"]["execution_state"] for one in mine])
            for one in mine:
                await self.session_manager.delete_session(one["id"])
            _, outcome = adopt.conclude(folder, self.lab.outputs, self.lab.root)
        except OpskitError as error:
            self.show(error=error)
        else:
            mind = "; ".join(archive.disorder(folder))
            self.show(f"{folder.name} is closed and sealed: {outcome}.{f' Mind: {mind}.' * bool(mind)}")


def _require_finished(folder: Path, copy: Path, kernels: list[str]) -> None:
    """Raise Refused where ending an investigation's kernel would lose what its person sees, or waits for."""
    if "busy" in kernels:
        raise Refused(
            f"a cell of {folder.name} is still running, or waits for an answer.",
            "Wait until it ended, or interrupt it (Kernel menu); then save, and close.",
        )
    events = session([*read(folder / record.JOURNAL)])
    if copies.says(copy, PLAN_SHOWN) and not any(event["event"] == "plan" for event in events):
        raise Refused(
            f"{folder.name} shows a plan, and `run.apply()` was not run, so there would be none to approve.",
            "Run that cell (press Enter where it asks), save, and close. To close without a plan, shut its kernel down "
            "first (Kernel menu).",
        )
    if not copies.is_saved(folder, copy):
        raise Refused(
            f"{folder.name} was not saved since its last cell ran.",
            f"Save it (Ctrl+S), and close it then. If its page is gone: opskit seal {folder.name}",
        )


PAGES = {URL: Index, f"{URL}/investigate": Investigate, f"{URL}/close": Close}
