"""Status pages that tell nothing: unreadable, never fine and never down."""

from __future__ import annotations

from pathlib import Path

import yaml
from support import everything

from opskit.sandbox import Sandbox

EMPTY = {"page": {}, "status": {"indicator": "none", "description": "All Systems Operational"}, "components": []}


def test_a_page_that_has_moved_or_was_left_empty_is_unreadable(firm: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "moved.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "moved",
                "title": "Status pages move",
                "runbook": "ai-worker-failures",
                "status_pages": {
                    "deepseek": {"html": True},
                    "anthropic": {"components": {"Claude API": "major_outage"}},
                },
                "faults": [
                    {"service": "status", "route": "/openai/api/v2/summary.json", "status": 200, "body": EMPTY},
                ],
                "causes": ["unknown"],
            }
        )
    )
    firm.break_with(tmp_path / "moved.yaml")
    _, services = everything(firm.name)
    pages = services.status.all().set_index("vendor")
    said = pages.loc[["openai", "anthropic", "deepseek", "vercel"]]
    assert list(said.indicator) == ["unreadable", "critical", "unreadable", "none"]
    assert list(said.troubled) == ["", "Claude API", "", ""]
    assert services.status.incidents("deepseek").incident.to_list() == ["unreadable"]
