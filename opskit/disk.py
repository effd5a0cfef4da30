"""When the disk does not take what must be written: what to say, so that nobody wonders what was done."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opskit import archive, journal, record
from opskit.actions import Past
from opskit.errors import OpskitError

REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


@contextmanager
def telling(folder: Path) -> Iterator[None]:
    """Work on a run: where its record cannot be kept any more, that is said, what was done by then, and the remedy."""
    try:
        yield
    except OSError as error:
        raise OpskitError(f"{refusal(error, folder)} {_so_far(folder)}", _remedy(folder)) from None


def refusal(error: OSError, folder: Path) -> str:
    return f"cannot write to {folder}: {error.strerror or error}."


def _so_far(folder: Path) -> str:
    if (planned := archive.approved(folder)) is None:
        return "Nothing was changed."
    past = Past(list(journal.read(folder / record.JOURNAL)))
    return f"By its journal, {len(past.begun)} of {planned} actions were begun, and {len(past.ended)} have ended."


def _remedy(folder: Path) -> str:
    ended = any(event["event"] == "run.ended" for event in journal.read(folder / record.JOURNAL))
    if ended:
        return f"Make room there, then: opskit seal {folder.name}"
    if archive.approved(folder) is None:
        return "Make room there, then run it again."
    undone = archive.about(folder).get("undoes")
    return f"Make room there, then: opskit {f'undo {undone}' if undone else f'resume {folder.name}'}"
