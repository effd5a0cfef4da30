"""What is tried once in a rehearsal is not tried again."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rehearsing import rehearse
from support import everything

from opskit.database import Database
from opskit.sandbox import Sandbox
from opskit.services import checkpoints, scratch
from opskit.services.rehearsal import Rehearsal

# What is tried once is not tried again.

GOOD = tuple(f"create table made{n} (id int);\nalter table documents add column made{n} int;" for n in range(4))


@pytest.fixture
def kept(state: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A place of its own for what is kept."""
    place = tmp_path_factory.mktemp("s")
    monkeypatch.setenv("OPSKIT_STATE", str(place))
    yield place / scratch.KEPT
    scratch.purge()


def told(found: Rehearsal) -> list[object]:
    rows = [found.tried.drop(columns="seconds"), found.locks, found.before, found.after]
    return [sorted(map(repr, frame.itertuples(index=False, name=None))) for frame in rows]


def test_what_has_not_changed_is_not_tried_again(target: Database, tmp_path: Path, kept: Path) -> None:
    first = rehearse(target, tmp_path, *GOOD)
    again = rehearse(target, tmp_path, *GOOD)
    assert (first.earlier, again.earlier) == (0, 4)
    assert told(again) == told(first)
    more = rehearse(target, tmp_path, *GOOD, "alter table made3 add column more int;", "select made;")
    assert more.earlier == 4
    assert list(more.tried.verdict) == ["passes"] * 5 + ["fails"]
    assert rehearse(target, tmp_path, "select 1;", *GOOD[1:]).earlier == 0


def test_a_file_that_was_mended_is_begun_with(target: Database, tmp_path: Path, kept: Path) -> None:
    broken = rehearse(target, tmp_path, *GOOD[:3], "create table made3 (id int); select 1 / 0;", "select * from made3;")
    assert (broken.earlier, list(broken.tried.verdict)) == (0, ["passes"] * 3 + ["fails", "passes"])
    mended = rehearse(target, tmp_path, *GOOD, "select * from made3;")
    assert (mended.earlier, list(mended.tried.verdict)) == (3, ["passes"] * 5)
    fresh = rehearse(target, tmp_path, *GOOD, "select * from made3;", base="empty")
    assert fresh.earlier == 0


@pytest.mark.deep
def test_a_target_that_has_changed_is_copied_anew(
    target: Database, standing: Sandbox, tmp_path: Path, kept: Path, state: Path
) -> None:
    assert rehearse(target, tmp_path, *GOOD).earlier == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPSKIT_STATE", str(state))
        changing = everything(standing.name)[1].database
    with changing.session() as session:
        session.execute("set role postgres")
        session.execute("create table on_the_target (id int)")
        try:
            assert rehearse(target, tmp_path, *GOOD).earlier == 0
        finally:
            session.execute("drop table on_the_target")


@pytest.mark.deep
def test_what_all_databases_share_is_never_begun_with(target: Database, tmp_path: Path, kept: Path) -> None:
    texts = ("create role made_by_a_file;", *GOOD)
    for _ in range(2):
        found = rehearse(target, tmp_path, *texts)
        assert (found.earlier, set(found.tried.verdict)) == (0, {"passes"})


@pytest.mark.deep
def test_only_a_few_copies_are_kept_and_they_can_be_purged(target: Database, tmp_path: Path, kept: Path) -> None:
    for n in range(checkpoints.MOST + 2):
        assert rehearse(target, tmp_path, f"create table other{n} (id int);").earlier == 0
    (home,) = [one for one in kept.iterdir() if one.is_dir()]
    assert len(list(home.glob("behind_*.json"))) == checkpoints.MOST
    assert len([one for one in (home / "data" / "base").iterdir() if one.is_dir()]) <= checkpoints.MOST + 4
    assert rehearse(target, tmp_path, f"create table other{checkpoints.MOST + 1} (id int);").earlier == 1
    assert scratch.purge()
    assert not home.exists()
    assert not scratch.purge()


@pytest.mark.deep
def test_what_was_not_stopped_in_order_is_not_begun_with(target: Database, tmp_path: Path, kept: Path) -> None:
    rehearse(target, tmp_path, *GOOD)
    (home,) = [one for one in kept.iterdir() if one.is_dir()]
    (home / scratch.WHOLE).write_text("another start of the machine")
    assert rehearse(target, tmp_path, *GOOD).earlier == 0


@pytest.mark.deep
def test_two_at_once_do_not_get_in_each_others_way(target: Database, tmp_path: Path, kept: Path) -> None:
    rehearse(target, tmp_path, *GOOD)
    with scratch.lasting(scratch.choose(18), "other") as mine:
        assert mine.keep
        assert rehearse(target, tmp_path, *GOOD).earlier == 0


@pytest.mark.deep
def test_with_its_process_goes_a_server_and_what_it_held(target: Database, tmp_path: Path, kept: Path) -> None:
    script = """if True:
        import os, signal
        from opskit.services import scratch
        with scratch.lasting(scratch.choose(18), "killed") as server:
            print(server.home, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    home = Path(done.stdout.strip())
    assert (done.returncode, home.parent) == (-9, kept)
    deadline = time.monotonic() + 20
    while home.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not home.exists()


@pytest.mark.deep
def test_where_nothing_can_be_kept_it_is_rehearsed_all_the_same(
    target: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").write_text("no folder")
    monkeypatch.setenv("OPSKIT_STATE", str(tmp_path / "state"))
    for _ in range(2):
        found = rehearse(target, tmp_path, "select 1;")
        assert (found.earlier, list(found.tried.verdict)) == (0, ["passes"])
    assert not scratch.purge()
