"""Nothing that JupyterLab saves holds a known secret: neither the copy, nor its checkpoints, nor any other file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import nbformat
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from tornado.web import HTTPError

from opskit import files
from opskit.redaction import Redactor, each
from opskit.runner import cleaned
from opskit.spelling import sound

Find = Callable[[str], Redactor]  # by the path of what is saved, below the folder of copies


class Contents(AsyncLargeFileManager):
    """Files of the folder of copies. Each is as it was or as it is: Jupyter's own way empties it first, and whoever
    closes an investigation at that moment would seal an empty notebook.
    """

    @contextmanager
    def atomic_writing(self, os_path: str, text: bool = True, **_: Any) -> Iterator[IO[Any]]:
        """Write a file that takes the old one's place when it is whole."""
        with self.perm_to_403(os_path), files.replacing(Path(os_path).resolve(), "w" if text else "wb") as file:
            yield file


def keeper(find: Find) -> Callable[..., None]:
    """What JupyterLab calls before it saves anything. A failure keeps it from saving: better lost than leaked."""

    def before_saving(model: dict[str, Any], path: str, **_: Any) -> None:
        try:
            clean(model, find(path))
        except Exception as error:
            raise HTTPError(500, f"not saved: secrets could not be taken out of it ({type(error).__name__})") from error

    return before_saving


def clean(model: dict[str, Any], redactor: Redactor) -> None:
    """Take known secrets out of what is about to be saved."""
    if model.get("content") is None:
        return
    if model["type"] == "notebook":
        model["content"] = cleaned(nbformat.from_dict(model["content"]), redactor)
    elif model["type"] == "file" and model.get("format") == "text":
        model["content"] = each(model["content"], lambda text: redactor.text(sound(text)))
