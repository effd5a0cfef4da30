"""The postmortem of an incident, from all its records, as notebook, Markdown and HTML.

It says what was seen and done, and leaves blanks for what no record can know. What a person wrote into an earlier one
is never overwritten.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opskit import record
from opskit.reports import incident as incidents
from opskit.reports import page, postmortem, timeline
from opskit.reports.incident import Incident

REMEMBERED = ".generated.json"  # digests of what was generated, to tell what a person has edited
BLANK = re.compile(r"_(blank(?::[^_]*)?)_")


@dataclass(frozen=True)
class Postmortem:
    """The files of a postmortem, and the earlier ones that somebody has edited and that were left alone."""

    notebook: Path
    markdown: Path
    page: Path
    chart: Path
    kept: list[Path]


def write(incident: Incident) -> Postmortem:
    """Write the postmortem beside the records, and a page for each record that it links to."""
    folder = incident.folder / "report"
    folder.mkdir(exist_ok=True)
    remembered = incidents.load(folder / REMEMBERED) or {}
    number, kept = _free(folder, remembered)
    suffix = f"-{number}" if number > 1 else ""
    chart, svg = folder / f"timeline{suffix}.svg", timeline.chart(incident)
    stem = folder / f"postmortem{suffix}"
    prose = postmortem.render(incident, chart.name, "../{}/notebook.ipynb", list(postmortem.alarms(incident)))
    written = Postmortem(stem.with_suffix(".ipynb"), stem.with_suffix(".md"), stem.with_suffix(".html"), chart, kept)
    texts = {
        written.notebook: json.dumps(notebook(prose, chart.name, svg), indent=1, ensure_ascii=False) + "\n",
        written.markdown: prose,
        written.page: _page(incident, chart.name, svg),
        chart: svg,
    }
    for path, text in texts.items():
        record.write(path, text)
    digests = remembered | {path.name: _digest(text) for path, text in texts.items()}
    record.write(folder / REMEMBERED, json.dumps(digests, indent=1))
    return written


def _free(folder: Path, remembered: Mapping[str, str]) -> tuple[int, list[Path]]:
    """The number of the first postmortem that no person has edited, and those that one has."""
    number, kept = 1, list[Path]()
    while True:
        stem = f"postmortem-{number}" if number > 1 else "postmortem"
        found = [path for path in (folder / f"{stem}{end}" for end in (".md", ".ipynb", ".html")) if path.exists()]
        edited = [p for p in found if _digest(p.read_text(encoding="utf-8")) != remembered.get(p.name)]
        if not edited:
            return number, kept
        kept += edited
        number += 1


def _digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def notebook(prose: str, chart: str, svg: str) -> dict[str, Any]:
    """The same as a notebook, a cell for each section; the one code cell shows the chart again."""
    cells: list[dict[str, Any]] = []
    for part in re.split(r"\n(?=## )", prose):
        title = re.match(r"## (.+)", part)
        name = title[1].lower().replace(" ", "-") if title else "title"
        before, drawn, after = part.partition(f"![When what happened]({chart})\n")
        cells.append(_markdown(name, before if drawn else part))
        if drawn:
            source = f'from IPython.display import SVG\n\nSVG("{chart}")'
            data = {"image/svg+xml": svg, "text/plain": "[chart] When what happened"}
            output = {"output_type": "execute_result", "execution_count": 1, "data": data, "metadata": {}}
            hidden = {"jupyter": {"source_hidden": True}}
            code = {"cell_type": "code", "id": f"{name}-chart", "metadata": hidden, "source": source}
            cells.append({**code, "execution_count": 1, "outputs": [output]})
            cells.append(_markdown(f"{name}-table", after))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _markdown(name: str, source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": source.strip()}


def _page(incident: Incident, chart: str, svg: str) -> str:
    prose = postmortem.render(incident, chart, "../pages/{}.html")
    marked = BLANK.sub(r"<mark>\1</mark>", prose).replace("\n- [ ] ", "\n- ☐ ").replace("\n- [x] ", "\n- ☑ ")
    title, alarms = f"Postmortem: {incident.name}", list(postmortem.alarms(incident))
    return page.render(notebook(marked, chart, svg), title, warnings=alarms, beside=True)
