"""Bad nights: a service that is down, refuses or babbles is a finding. The rest is looked at, the record sealed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import quickly, wrong

from opskit import journal, record
from opskit.sandbox import Sandbox

NIGHTS: dict[str, dict[str, Any]] = {
    "401": {"status": 401, "body": {"error": {"type": "invalid_request_error", "message": "Invalid API Key"}}},
    "403": {"status": 403, "body": {"error": {"type": "invalid_request_error", "message": "Not permitted"}}},
    "429": {"status": 429, "body": {"error": {"type": "invalid_request_error", "message": "Too many requests"}}},
    "429 with a long Retry-After": {"status": 429, "headers": {"Retry-After": "3600"}, "body": "{}"},
    "500": {"status": 500, "body": {"error": {"type": "api_error", "message": "An error occurred"}}},
    "garbage": {"status": 200, "body": "<html>It works!</html>"},
    "another shape": {"status": 200, "body": {"hello": "world"}},
    "a list": {"status": 200, "body": [1, 2, 3]},
    "nothing": {"reset": True},
}


def scenario(folder: Path, fault: dict[str, Any]) -> Path:
    path = folder / "night.yaml"
    written = {
        "name": "night",
        "title": "A service has a bad night",
        "runbook": "stripe-webhook-replay",
        "causes": ["unknown"],
        "faults": [fault],
    }
    path.write_text(yaml.safe_dump(written))
    return path


def run(opskit: Any, firm: Sandbox, folder: Path, fault: dict[str, Any]) -> tuple[Any, list[journal.Event], Path]:
    """Exit code and outcome, the journal, and the record's folder."""
    firm.break_with(scenario(folder, fault))
    result = opskit("run", "stripe-webhook-replay", "-p", "environment", firm.name, "--json")
    found = json.loads(result.stdout)["data"]
    kept = Path(found["folder"])
    return (result.exit_code, found["outcome"]), list(journal.read(kept / record.JOURNAL)), kept


@pytest.mark.parametrize("night", quickly(NIGHTS, "429", "another shape", "nothing"))
def test_stripe(night: str, opskit: Any, firm: Sandbox, tmp_path: Path) -> None:
    answer, events, kept = run(opskit, firm, tmp_path, {"service": "stripe", **NIGHTS[night]})
    assert answer == (6, "unknown")
    assert wrong(kept) == ()
    answers = {e["name"]: e["answer"] for e in events if e["event"] == "check"}
    assert answers["endpoint-enabled"] == "unknown"
    assert answers["drift-explained"] == "unknown"
    assert "no" not in {answers[name] for name in answers if not name.startswith("prevention")}
    assert any("stripe" in e["problem"] for e in events if e["event"] == "finding")


@pytest.mark.parametrize(
    "fault",
    [{"service": "database", "down": True}, {"service": "vercel", "reset": True}, {"service": "vercel", "status": 403}],
    ids=["database down", "vercel gone", "vercel refuses"],
)
def test_another_service(fault: dict[str, Any], opskit: Any, firm: Sandbox, tmp_path: Path) -> None:
    answer, events, kept = run(opskit, firm, tmp_path, fault)
    assert answer == (6, "unknown")
    assert wrong(kept) == ()
    answers = {e["name"]: e["answer"] for e in events if e["event"] == "check"}
    assert answers["endpoint-enabled"] == "yes"  # the others are still asked


@pytest.mark.parametrize("service", quickly(["sentry", "status"], "sentry"))
def test_an_optional_service_degrades(service: str, opskit: Any, firm: Sandbox, tmp_path: Path) -> None:
    answer, _, _ = run(opskit, firm, tmp_path, {"service": service, "reset": True})
    assert answer == (0, "healthy")
