"""Supabase's Management API as the runbook reads it, served by the sandbox."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import everything, quickly

from opskit.errors import Denied, Faulty, NotFound, ServiceError
from opskit.http import Http
from opskit.sandbox import Sandbox
from opskit.services import supabase
from opskit.services.supabase import Supabase


@pytest.fixture
def service(firm: Sandbox) -> Supabase:
    return everything(firm.name)[1].supabase


def told(firm: Sandbox, place: Path, **happening: Any) -> None:
    """Something happens to the project."""
    scenario = {"name": "made", "title": "x", "runbook": "supabase-migration-procedures", "causes": ["healthy"]}
    path = place / "made.yaml"
    path.write_text(yaml.safe_dump({**scenario, "happenings": [happening]}))
    firm.break_with(path)


def test_the_project_tells_of_itself(service: Supabase) -> None:
    found = service.about()
    assert found == {"ref": service.project, "status": "ACTIVE_HEALTHY", "database": found["database"]}
    assert found["database"].startswith("18.")


def test_daily_backups_are_one_way_back(service: Supabase, firm: Sandbox, tmp_path: Path) -> None:
    told(firm, tmp_path, what="set_project", last_backup="6 h ago")
    found, now = service.restorable(), datetime.now(UTC)
    assert not found["pitr"]
    assert timedelta(hours=5) < now - found["newest"] < timedelta(hours=7)
    assert timedelta(days=6) <= found["newest"] - found["back_to"] <= timedelta(days=7)
    point = service.restore_point(now - timedelta(hours=10))
    assert point
    assert (point.any, point.at) == (False, found["newest"] - timedelta(days=1))
    assert point.loses > timedelta(hours=29)


def test_any_moment_is_the_other(service: Supabase, firm: Sandbox, tmp_path: Path) -> None:
    told(firm, tmp_path, what="set_project", pitr_days=7)
    found, now = service.restorable(), datetime.now(UTC)
    assert found["pitr"]
    assert now - found["newest"] < timedelta(minutes=5)
    wanted = now - timedelta(hours=3)
    point = service.restore_point(wanted)
    assert point
    assert (point.any, point.at) == (True, wanted)
    assert timedelta(hours=3) <= point.loses < timedelta(hours=3, minutes=1)
    late = service.restore_point(now)  # the last minutes are not there yet
    assert late
    assert late.at < now
    assert service.restore_point(now - timedelta(days=8)) is None


def test_without_a_backup_there_is_no_way_back(service: Supabase, firm: Sandbox, tmp_path: Path) -> None:
    told(firm, tmp_path, what="set_project", last_backup=None)
    assert service.restorable() == {"pitr": False, "newest": None, "back_to": None}
    assert service.restore_point(datetime.now(UTC)) is None


def test_what_migrations_ran_into_is_found_in_the_log_newest_first(service: Supabase, firm: Sandbox) -> None:
    assert service.failures(datetime.now(UTC) - timedelta(hours=12)).empty
    firm.break_with("migrations-lock-timeout")
    found = service.failures(datetime.now(UTC) - timedelta(days=30))  # a day at most, and no error for asking more
    assert set(found.sqlstate) == {"55P03"}
    assert set(found.kind) == {"lock-timeout"}
    assert found["at"].is_monotonic_decreasing
    assert found["at"].iloc[0].tzinfo is not None


def test_a_project_that_is_not_ours_is_not_found_and_a_wrong_token_denied(service: Supabase) -> None:
    with pytest.raises(NotFound):
        Supabase(service.http, "a" * 20).about()
    wrong = Http("supabase", service.http.address, supabase.READS, {"Authorization": "Bearer sbp_" + "0" * 40}, None)
    with pytest.raises(Denied):
        Supabase(wrong, service.project).about()


@pytest.mark.parametrize(
    "fault",
    quickly([{"status": 503}, {"status": 200, "body": "{}"}, {"status": 200, "body": "<html>"}], {"status": 503}),
)
def test_a_bad_night_there_is_no_answer(service: Supabase, firm: Sandbox, fault: dict[str, Any]) -> None:
    firm.misbehave(service="supabase", **fault)
    for ask in (service.about, service.restorable, lambda: service.failures(datetime.now(UTC) - timedelta(hours=1))):
        with pytest.raises(ServiceError) as caught:
            ask()
        assert isinstance(caught.value, Faulty)
