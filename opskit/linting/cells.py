"""How a notebook lies in git: no outputs, no leftovers of a session, every cell with a name of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
RANDOM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){0,3}(-[0-9a-f]{12})?")  # what Jupyter gives a new cell
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
FIX = "Run: python scripts/notebooks.py --fix"


def cleaned(notebook: dict[str, Any]) -> dict[str, Any]:
    """The same notebook without outputs, counters, and metadata other than tags."""
    return {**notebook, "cells": [_bare(cell) for cell in notebook["cells"]], "metadata": METADATA}


def _bare(cell: dict[str, Any]) -> dict[str, Any]:
    tags = cell["metadata"].get("tags")
    bare = {**cell, "metadata": {"tags": tags} if tags else {}}
    return bare | {"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else bare


def unclean(notebook: dict[str, Any]) -> Iterator[tuple[int, str, str]]:
    """(number of the cell, rule, what is wrong), for everything that is not as it should be."""
    seen: set[str] = set()
    if notebook["metadata"] != METADATA:
        yield 1, "outputs", "the notebook holds metadata of a session."
    for number, cell in enumerate(notebook["cells"], 1):
        name = cell.get("id", "")
        if cell != _bare(cell):
            yield number, "outputs", f"cell {number} holds outputs or metadata of a session."
        if not NAME.fullmatch(name) or RANDOM.fullmatch(name):
            wrong = f"cell {number} needs a name for a person, such as diagnosis-endpoint; its id is {name!r}."
            yield number, "cell-name", wrong
        elif name in seen:
            yield number, "cell-name", f"cell {number} is called {name!r}, as another is."
        seen.add(name)
