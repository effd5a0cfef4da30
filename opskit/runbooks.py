"""The catalogue: what each notebook in `notebooks/` says about itself.

A runbook's title block and its tables of causes are written for people; they are read here, so that nothing is said
twice.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from opskit import parameters
from opskit.errors import BadInput

SECTIONS = ("Symptoms", "Impact", "Diagnosis", "Resolution", "Prevention", "Escalation")
TEMPLATE = "runbook-template"
PICTURE = re.compile(r"\n*!\[[^\]]*\]\(\.\./docs/[^)\s]+\)")


@dataclass(frozen=True)
class Runbook:
    """One notebook, as its author wrote it."""

    name: str
    path: Path
    title: str
    facts: dict[str, str]  # the title block: Priority, Respond within, Owner, Last updated, …
    cells: list[dict[str, Any]]

    @property
    def priority(self) -> str:
        return self.facts.get("Priority", "").strip("* ").upper()

    @property
    def causes(self) -> list[str]:
        """Every cause that one of its checks may name."""
        calls = [call for tree in self._trees() for call in ast.walk(tree) if isinstance(call, ast.Call)]
        named = (
            k.value.value for c in calls for k in c.keywords if k.arg == "cause" and isinstance(k.value, ast.Constant)
        )
        return list(dict.fromkeys(map(str, named)))

    @property
    def parameters(self) -> type[BaseModel]:
        """The declared parameters. Raises BadInput where the cell is missing or holds something else."""
        found = [c for c in self.cells if "parameters" in c.get("metadata", {}).get("tags", [])]
        if len(found) != 1:
            raise BadInput(f"{self.path}: needs one cell tagged `parameters`, has {len(found)}.")
        return parameters.declared("".join(found[0]["source"]))

    def calls(self, service: str) -> set[str]:
        """The verbs of `run.<service>` that its cells use."""
        return {
            node.attr
            for tree in self._trees()
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == service
        }

    def queries(self) -> list[str]:
        """The SQL of its `run.database.read("…")` calls."""
        found = []
        for tree in self._trees():
            for node in ast.walk(tree):
                match node:
                    case ast.Call(
                        func=ast.Attribute(attr="read" | "first" | "rows"), args=[ast.Constant(value=str(sql)), *_]
                    ):
                        found.append(sql)
        return found

    def _trees(self) -> list[ast.Module]:
        return [ast.parse("".join(c["source"])) for c in self.cells if c["cell_type"] == "code"]


def without_pictures(prose: str) -> str:
    """A runbook's prose as a record has it: that shows what was found, and lies where no picture of ours is."""
    return PICTURE.sub("", prose)


def load(name: str, root: Path) -> Runbook:
    """The runbook of that name. Raises BadInput listing the ones there are."""
    path = root / "notebooks" / f"{name}.ipynb"
    if path.parent != root / "notebooks" or not path.is_file():
        known = ", ".join(p.stem for p in sorted((root / "notebooks").glob("*.ipynb")) if p.stem != TEMPLATE)
        raise BadInput(f"there is no runbook {name!r}.", f"There are: {known}.")
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{path}: is not a notebook.") from None
    head = next(("".join(c["source"]) for c in cells if c["cell_type"] == "markdown"), "")
    title = re.search(r"^# (.+)$", head, re.MULTILINE)
    facts = re.findall(r"^\|\s*\**([^|*]+?)\**\s*\|\s*(.+?)\s*\|$", head, re.MULTILINE)
    return Runbook(name, path, title[1].strip() if title else name, dict(facts), cells)


def catalogue(root: Path) -> list[Runbook]:
    """Every runbook, most urgent first."""
    order = ("CRITICAL", "HIGH", "MEDIUM", "LOW")
    found = [load(p.stem, root) for p in sorted((root / "notebooks").glob("*.ipynb")) if p.stem != TEMPLATE]
    return sorted(found, key=lambda r: (order.index(r.priority) if r.priority in order else len(order), r.name))
