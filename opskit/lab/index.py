"""The page that JupyterLab opens on: the runbooks by urgency, and the investigations that are still open."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import url_path_join
from tornado.web import authenticated

from opskit import adopt, archive, environment, record, runbooks
from opskit.errors import OpskitError, Refused
from opskit.lab import copies

URL = "/opskit"
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
                investigations=[
                    {**archive.summary(run), "url": self.lab_url(copy), "begun": (run / record.JOURNAL).exists()}
                    for run in copies.still_open(outputs)
                    if (copy := copies.copy_of(run, outputs))
                ],
                base=self.base_url,
                xsrf=self.xsrf_token.decode(),
                said=said,
                error=error,
            )
        )

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
            copy = copies.copy_of(folder, self.lab.outputs)
            sessions = await self.session_manager.list_sessions()
            mine = [one["id"] for one in sessions if copy and self.lab.copies / one["path"] == copy]
            if mine and copy and not copies.is_saved(folder, copy):
                raise Refused(
                    f"{folder.name} was not saved since its last cell ran.",
                    f"Save it (Ctrl+S), and close it then. If its page is gone: opskit seal {folder.name}",
                )
            for one in mine:
                await self.session_manager.delete_session(one)
            _, outcome = adopt.conclude(folder, self.lab.outputs, self.lab.root)
        except OpskitError as error:
            self.show(error=error)
        else:
            self.show(f"{folder.name} is closed and sealed: {outcome}.")


PAGES = {URL: Index, f"{URL}/investigate": Investigate, f"{URL}/close": Close}
