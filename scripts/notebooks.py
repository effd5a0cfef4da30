"""Keeps the runbooks in git clean: no outputs, no leftovers of a session, every cell with a name of its own.

python scripts/notebooks.py [FILE]…          # fail where one is not
python scripts/notebooks.py --fix [FILE]…    # strip them; names it cannot make up
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
RANDOM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){0,3}(-[0-9a-f]{12})?")  # what Jupyter gives a new cell
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def cleaned(notebook: dict[str, Any]) -> dict[str, Any]:
    """The same notebook without outputs, counters, and metadata other than tags."""
    cells = []
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags")
        bare = {**cell, "metadata": {"tags": tags} if tags else {}}
        if cell["cell_type"] == "code":
            bare |= {"outputs": [], "execution_count": None}
        cells.append(bare)
    return {**notebook, "cells": cells, "metadata": METADATA}


def problems(notebook: dict[str, Any]) -> list[str]:
    """What is not as it should be, a line each."""
    found, seen = [], set()
    if notebook != cleaned(notebook):
        found.append("holds outputs or metadata of a session: run python scripts/notebooks.py --fix")
    for number, cell in enumerate(notebook["cells"], 1):
        name = cell.get("id", "")
        if not NAME.fullmatch(name) or RANDOM.fullmatch(name):
            found.append(f"cell {number} needs a name for a person, such as diagnosis-endpoint; its id is {name!r}")
        elif name in seen:
            found.append(f"cell {number} is called {name!r}, as another is")
        seen.add(name)
    return found


def main() -> None:
    paths = [Path(word) for word in sys.argv[1:] if word != "--fix"] or sorted((ROOT / "notebooks").glob("*.ipynb"))
    trouble = []
    for path in paths:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        if "--fix" in sys.argv[1:] and notebook != cleaned(notebook):
            notebook = cleaned(notebook)
            path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        trouble += [f"{path}: {problem}" for problem in problems(notebook)]
    if trouble:
        sys.exit("\n".join(trouble))


if __name__ == "__main__":
    main()
