"""A notebook that does not stop talking ends in a truthful record of a sensible size."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
from support import Opskit, data, notebook

from opskit import journal, record
from opskit.guard import CUT, MOST
from opskit.sandbox import Sandbox

FLOOD = """import time
ends = time.monotonic() + 3
while time.monotonic() < ends:
    print("x" * 1000)
    display({"text/plain": "y" * 1000}, raw=True)"""


def test_a_flood_is_cut_and_the_run_goes_on(opskit: Opskit, standing: Sandbox, repository: Path) -> None:
    begin = 'from opskit import begin\nrun = begin("flood")'
    after = 'run.check("well", True, "Still well?")\nprint("after the flood")\nrun.apply()'
    (repository / "notebooks" / "flood.ipynb").write_text(json.dumps(notebook(begin, FLOOD, after)))
    result = opskit("run", "flood", "-p", "environment", standing.name, "--json")
    assert (result.exit_code, data(result)["outcome"]) == (0, "healthy")
    folder = Path(data(result)["folder"])
    kept = folder / record.NOTEBOOK
    assert kept.stat().st_size < 2 * MOST
    nb = nbformat.read(kept, as_version=4)
    nbformat.validate(nb)
    said = {cell.id: json.dumps(cell.get("outputs"), ensure_ascii=False) for cell in nb.cells}
    assert said["cell-1"].count(CUT) == 1
    assert "after the flood" in said["cell-2"]
    events = [(e["event"], e.get("cell"), e.get("status")) for e in journal.read(folder / record.JOURNAL)]
    assert ("cell.ended", "cell-1", "ok") in events
    assert record.verify(folder).wrong == ()
