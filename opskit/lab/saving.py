"""Nothing that JupyterLab saves holds a known secret: neither the copy, nor its checkpoints, nor any other file."""

from __future__ import annotations

import base64
import codecs
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import nbformat
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from tornado.web import HTTPError

from opskit import files
from opskit.redaction import Redactor
from opskit.runner import cleaned
from opskit.spelling import sound

LAST = -1  # the number of an upload's last piece
LARGEST = 50 << 20  # bytes of an upload that comes in pieces

Find = Callable[[str], Redactor]  # by the path of what is saved, below the folder of copies


class Contents(AsyncLargeFileManager):
    """Files of the folder of copies. Each is as it was or as it is: Jupyter's own way empties it first, and whoever
    closes an investigation at that moment would seal an empty notebook.
    """

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self._uploads: dict[str, list[bytes]] = {}

    @contextmanager
    def atomic_writing(self, os_path: str, text: bool = True, **_: Any) -> Iterator[IO[Any]]:
        """Write a file that takes the old one's place when it is whole."""
        with self.perm_to_403(os_path), files.replacing(Path(os_path).resolve(), "w" if text else "wb") as file:
            yield file

    async def save(self, model: dict[str, Any], path: str = "") -> Any:
        """Save a file whole: the pieces in which a large one comes wait in memory for the last of them.

        Jupyter's own way appends each to the file, and has only the first looked at.
        """
        chunk, path = model.get("chunk"), path.strip("/")
        if chunk is None:
            return await super().save(model, path)
        pieces = [] if chunk == 1 else self._uploads.pop(path, [])
        if chunk != (LAST if chunk == LAST and pieces else len(pieces) + 1):
            raise HTTPError(400, f"not saved: a piece of {path} is missing. Upload it again.")
        pieces.append(_bytes(model))
        if sum(map(len, pieces)) > LARGEST:
            raise HTTPError(413, f"not saved: {path} is larger than {LARGEST >> 20} MB.")
        if chunk == LAST:
            return await super().save({"type": "file", **_content(b"".join(pieces))}, path)
        self._uploads[path] = pieces
        now = datetime.now(UTC)
        told = {"name": path.rpartition("/")[2], "path": path, "type": "file", "writable": True}
        return told | {"created": now, "last_modified": now} | dict.fromkeys(("mimetype", "content", "format"))


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
        model["content"] = redactor.text(sound(_without_seams(model["content"], redactor)))
    elif model["type"] == "file":  # whatever is uploaded comes so
        model |= _content(_clean(_bytes(model), redactor))


def _bytes(model: Mapping[str, Any]) -> bytes:
    content = str(model["content"]).encode()
    return content if model.get("format") == "text" else base64.b64decode(content)


def _content(raw: bytes) -> dict[str, Any]:
    return {"format": "base64", "content": base64.b64encode(raw).decode()}


def _clean(raw: bytes, redactor: Redactor) -> bytes:
    """A file without known secrets. What is compressed or encrypted cannot be seen into."""
    wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and len(raw) % 2 == 0
    for encoding, errors in [*[(_wide(raw), "surrogatepass")] * wide, ("utf-8", "surrogateescape")]:
        text = raw.decode(encoding, errors)
        clean = redactor.text(_without_seams(text, redactor))
        raw = raw if clean == text else clean.encode(encoding, errors)
    return raw


def _wide(raw: bytes) -> str:
    return "utf-16-le" if raw.startswith(codecs.BOM_UTF16_LE) else "utf-16-be"


def _without_seams(text: str, redactor: Redactor) -> str:
    """A text that is a notebook, without secrets that begin in one output and end in the next."""
    try:
        if json.loads(text)["nbformat"] != 4:  # an older one has its cells elsewhere
            return text
        nb = nbformat.reads(text, as_version=4)
        clean, plain = cleaned(nb, redactor), cleaned(nb, Redactor({}))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # it is none
        return text
    return text if clean == plain else str(nbformat.writes(clean))
