"""JupyterLab on the working copies: an index to start from, kernels that can change nothing, saves without secrets."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from jupyter_server.utils import url_path_join
from jupyterlab.labapp import LabApp

from opskit import approval, archive, environment, plan, record
from opskit.errors import OpskitError, Refused
from opskit.lab import copies, index, saving
from opskit.lab.hand import DOOR
from opskit.redaction import Redactor, redactor

GRACE = 5.0  # seconds
SHOWN = 19  # characters of its digest that a plan shows of itself
SETTINGS = Path(__file__).with_name("settings")  # of JupyterLab: it asks nobody for news, and saves more often
GOOD_ENDINGS = {"approve": (0,), "seal": (3,), "apply": ()}  # after which the next command may follow
OPSKIT = (sys.executable, "-c", "from opskit.cli import main; main()")


@dataclass(frozen=True)
class Lab:
    """What the server must know of the repository that it serves."""

    root: Path
    outputs: Path
    runtime: Path  # a private folder with a short path, gone afterwards
    held: Mapping[str, str] = field(repr=False)  # variables that can change things: no kernel inherits them
    known: tuple[Mapping[str, Mapping[str, str]], ...] = field(repr=False)  # every secret that was in a variable
    begin: Callable[[str, dict[str, Any]], Path]  # an investigation, with these parameters; answers its copy
    _redactors: dict[str, Redactor] = field(default_factory=dict, repr=False)  # by the environment's digest

    @property
    def copies(self) -> Path:
        return self.outputs / copies.FOLDER

    @property
    def door(self) -> Path:
        return self.runtime / "door"

    @property
    def surroundings(self) -> dict[str, str]:
        """What JupyterLab and its kernels find in their environment, beside what this process has."""
        settings = [str(SETTINGS), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
        return {
            "OPSKIT_ROOT": str(self.root),
            "OPSKIT_OUTPUTS": str(self.outputs),
            DOOR: str(self.door),
            "JUPYTER_RUNTIME_DIR": str(self.runtime / "jupyter"),
            "JUPYTER_CONFIG_PATH": os.pathsep.join(settings),
        }

    def redactor(self, path: str = "") -> Redactor:
        """Of every secret that may show in what is saved at `path`, below the folder of copies."""
        folder = copies.record_beside(self.copies / path, self.outputs)
        target = environment.load(archive.about(folder)["environment"], self.root) if folder else None
        key = target.digest if target else ""
        if key not in self._redactors:
            # A secret may come from a command that asks a person: that is not to happen at every save.
            own = (environment.standing(target), {"read": environment.resolve(target, "read")}) if target else ()
            self._redactors[key] = redactor(*self.known, *own)
        return self._redactors[key]


class Kernels(AsyncMappingKernelManager):
    """Kernels that know the record of the notebook that they are started for, and remember nothing outside it."""

    async def start_kernel(self, **how: Any) -> str:  # type: ignore[override]  # theirs has the same, spelled out
        surroundings = dict(how.get("env") or os.environ)
        outputs = Path(surroundings["OPSKIT_OUTPUTS"])
        if folder := copies.record_of(Path(surroundings.get("JPY_SESSION_NAME", "")), outputs):
            surroundings["OPSKIT_RUN"] = str(folder)
        how |= {"env": surroundings, "extra_arguments": ["--HistoryManager.enabled=False"]}
        return str(await super().start_kernel(**how))


def serve(lab: Lab, copy: Path | None, port: int, browser: bool) -> None:
    """Serve JupyterLab until somebody ends it: on a copy, or on the index."""
    lab.copies.mkdir(parents=True, exist_ok=True)
    _bring_documents(lab)
    start = f"/lab/tree/{quote(copy.relative_to(lab.copies).as_posix())}" if copy else index.URL
    ours = {"kernel_manager_class": Kernels, "contents_manager_class": saving.Contents}
    app = LabApp.initialize_server(argv=list(_settings(lab, start, port, browser)), **ours)
    app.contents_manager.register_pre_save_hook(saving.keeper(lab.redactor))
    pages = [(url_path_join(app.base_url, place), page, {"lab": lab}) for place, page in index.PAGES.items()]
    app.web_app.add_handlers(".*$", pages)
    app.io_loop.add_callback(partial(_open_door, lab))
    app.start()
    _end(app.io_loop.asyncio_loop)


def _bring_documents(lab: Lab) -> None:
    """Put what the runbooks link to where the links of their copies lead."""
    for page in lab.root.glob("*.md"):
        shutil.copy(page, lab.copies)
    if (lab.root / "docs").is_dir():
        shutil.copytree(lab.root / "docs", lab.copies / "docs", dirs_exist_ok=True)


def _end(loop: asyncio.AbstractEventLoop) -> None:
    """Let nothing of the server outlive it: a thread that waits for a task's end would keep this process for ever."""
    if left := asyncio.all_tasks(loop):
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.wait(left, timeout=GRACE))
        loop.run_until_complete(asyncio.sleep(0))  # those who were waiting hear of it


def _settings(lab: Lab, start: str, port: int, browser: bool) -> Iterator[str]:
    """JupyterLab's own settings: on this machine only, asking nobody on the network, nothing to configure."""
    yield f"--ServerApp.root_dir={lab.copies}"
    yield f"--ServerApp.default_url={start}"
    yield f"--LabApp.default_url={start}"
    yield f"--ServerApp.port={port}"
    yield f"--ServerApp.open_browser={browser}"
    yield "--ServerApp.ip=127.0.0.1"
    yield "--ServerApp.allow_root=True"  # it listens to this machine only, and asks for its token
    yield "--ServerApp.answer_yes=True"  # Ctrl-C ends it
    yield "--ServerApp.log_level=ERROR"
    yield "--LabApp.log_level=ERROR"
    yield f"--LabApp.workspaces_dir={lab.runtime}/workspaces"  # no tabs of other days and other folders
    yield "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"
    yield "--LabApp.extension_manager=readonly"
    yield "--KernelManager.transport=ipc"


async def _open_door(lab: Lab) -> None:
    """Listen to kernels whose person has approved a plan."""
    server = await asyncio.start_unix_server(partial(_carry_out, lab), lab.door)
    lab.door.chmod(0o600)
    _standing.append(server)


_standing: list[Any] = []  # or the server would be collected


async def _carry_out(lab: Lab, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Approve, close and apply, as the same person would in a terminal; what is said goes back as it is said."""
    with suppress(ConnectionError):
        try:
            asked = json.loads(await reader.readline())
            for command in _commands(lab, asked):
                if await _run(lab, command, writer) not in GOOD_ENDINGS[command[0]]:
                    break
        except OpskitError as error:
            writer.write(f"Nothing was done: {error.message} {error.remedy}\n".encode())
        finally:
            await writer.drain()
            writer.close()


def _commands(lab: Lab, asked: Mapping[str, Any]) -> Iterator[list[str]]:
    """What is to be run for the plan that the person was shown. Raises Refused where it is not the run's plan now, or
    the saved copy does not show it; what was sealed is looked at once more, for somebody may have saved meanwhile.
    """
    run, digest = str(asked["run"]), str(asked["plan"])
    folder = archive.Archive(lab.outputs).find(run)
    if plan.load(folder / "plan.json").digest != digest:  # another kernel, or another `opskit lab`
        raise Refused("this run has another plan by now than the one shown here.", "Run this notebook again.")
    copy = copies.lying(folder, lab.outputs)
    if copy is None:
        raise Refused("its notebook is not here.")
    if copy.stat().st_mtime < asked["since"]:
        raise Refused("the notebook was not saved.", "Run this cell again, press Ctrl+S, and then type.")
    if not copies.says(copy, digest[:SHOWN]):
        again = "Run the cell `run.plan` and this one again, look, save, and then type."
        raise Refused("the notebook as it was saved does not show this plan.", again)
    if not _is_approved(lab, folder, digest):  # or a colleague has given their word
        removals = ["--with-removals"] if asked["removals"] else []
        yield ["approve", run, "--plan", digest, "--type", str(asked["typed"]), *removals]
    yield ["seal", run]
    if not copies.says(folder / record.NOTEBOOK, digest[:SHOWN]):
        raise Refused("the notebook as it was sealed does not show this plan.", f"Look at it: opskit plan {run}")
    yield ["apply", run]


def _is_approved(lab: Lab, folder: Path, digest: str) -> bool:
    """Whether somebody's word covers exactly this plan, and still holds."""
    with suppress(OpskitError):
        word = approval.load(archive.Archive(lab.outputs).approval(folder))
        return approval.require(word, plan.load(folder / "plan.json"), {}, folder.name).plan == digest
    return False


async def _run(lab: Lab, command: list[str], writer: asyncio.StreamWriter) -> int:
    surroundings = {**os.environ, **lab.held}
    process = await asyncio.create_subprocess_exec(
        *OPSKIT, *command, env=surroundings, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None  # noqa: S101  # we asked for it
    async for line in process.stdout:
        with suppress(ConnectionError):  # whoever listened has left; the work goes on
            writer.write(line)
            await writer.drain()
    return await process.wait()
