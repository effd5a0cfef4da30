"""Keeps the runbooks in git clean: no outputs, no leftovers of a session, every cell with a name of its own.

python scripts/notebooks.py [FILE]…          # fail where one is not
python scripts/notebooks.py --fix [FILE]…    # strip them; names it cannot make up

`opskit lint` looks at this too, and at everything else.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from opskit.linting.cells import FIX, cleaned, unclean

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    paths = [Path(word) for word in sys.argv[1:] if word != "--fix"] or sorted((ROOT / "notebooks").glob("*.ipynb"))
    trouble = []
    for path in paths:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        if "--fix" in sys.argv[1:] and notebook != cleaned(notebook):
            notebook = cleaned(notebook)
            path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        trouble += [f"{path}: {wrong}{f' {FIX}' if rule == 'outputs' else ''}" for _, rule, wrong in unclean(notebook)]
    if trouble:
        sys.exit("\n".join(trouble))


if __name__ == "__main__":
    main()
