"""Invalid indexes: dropped before another attempt, built again, never taken for another's."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from applying import apply, carried, do, file, ledger, owned
from support import as_bash_reads, everything

from opskit.actions import Result
from opskit.errors import Faulty
from opskit.sandbox import Sandbox
from opskit.services import Services, catalog, migrating


def test_an_invalid_index_is_dropped_before_it_is_built_again(
    services: Services, firm: Sandbox, tmp_path: Path
) -> None:
    with services.database.session() as session:
        session.execute("set role postgres")
        with pytest.raises(Faulty):
            session.execute("create unique index concurrently made_i on documents (status)")
    assert list(services.migrations.invalid_indexes()["index"]) == ["public.made_i"]
    made = file(tmp_path, "create index concurrently made_i on documents (status);")
    do(services, apply(services, made))
    assert services.migrations.invalid_indexes().empty
    assert len(ledger(services)) == 1


def test_an_invalid_index_is_not_kept_silently(services: Services, tmp_path: Path) -> None:
    with services.database.session() as session:
        session.execute("set role postgres")
        with pytest.raises(Faulty):
            session.execute("create unique index concurrently made_i on documents (status)")
    made = file(tmp_path, "create index if not exists made_i on documents (status);")
    with pytest.raises(Faulty, match=r"made_i was there and is invalid.* Nothing of it stays"):
        do(services, apply(services, made))
    assert ledger(services) == []


def half_built(services: Services, table: str, *indexes: str) -> None:
    """A table of the owner's, and unique indexes of it that were refused for its rows, which were mended since."""
    with services.database.session() as session:
        session.execute("set role postgres")
        session.execute(f"create table {table} (n int); insert into {table} values (1), (1)")
        for index in indexes:
            with pytest.raises(Faulty):
                session.execute(f"create unique index concurrently {index}")
        session.execute(f"delete from {table} where ctid = (select min(ctid) from {table})")


def mended(services: Services) -> list[str]:
    """What is planned for each invalid index, and done."""
    found: Any = services.migrations.invalid_indexes().itertuples()
    plan = [
        (services.migrations.drop_leftover if row.leftover else services.migrations.rebuild_index)(
            row.table, row.index, 60
        )
        for row in found
    ]
    for action in plan:
        do(services, action)
    return [action.title.split(":")[0] + (" dropped" if "left" in action.title else " rebuilt") for action in plan]


def test_what_a_reindex_left_is_dropped_and_the_index_stays(services: Services) -> None:
    half_built(
        services, "made", "made_n_ccnew on made (n)", "made_n_ccold1 on made (n)", "card_ccnew on made ((n + 1))"
    )
    owned(services, "create index made_n on made (n)")
    held = {name for kind, name in catalog.read(services.database.rows) if kind == "index"}
    assert {"public.made_n"} == {name for name in held if "made_n" in name}  # what a reindex left is no drift
    assert mended(services) == [
        "Index public.card_ccnew rebuilt",  # somebody's own, by that name
        "Index public.made_n_ccnew dropped",
        "Index public.made_n_ccold1 dropped",
    ]
    left = services.database.rows("select indexname as name from pg_indexes where tablename = 'made' order by 1")
    assert [row["name"] for row in left] == ["card_ccnew", "made_n"]
    assert services.migrations.invalid_indexes().empty


def test_an_index_is_the_one_of_its_table_wherever_its_owner_looks_for_names(services: Services) -> None:
    """Two of one name: on the owner's search_path the other comes first."""
    owned(services, "create schema away; create table away.made (n int); create index made_n on away.made (n)")
    half_built(services, "made", "made_n on made (n)")
    owned(services, "alter role postgres set search_path = away, public")
    try:
        assert mended(services) == ["Index public.made_n rebuilt"]
    finally:
        owned(services, "alter role postgres reset search_path")
    assert services.migrations.invalid_indexes().empty
    there = services.database.rows("select schemaname from pg_indexes where indexname = 'made_n' order by 1")
    assert [row["schemaname"] for row in there] == ["away", "public"]


def test_by_hand_an_index_is_built_again_whatever_it_is_called(services: Services, tmp_path: Path) -> None:
    half_built(services, "made", """"Made 'n" on made (n) where n::text <> 'a'""")
    (row,) = services.migrations.invalid_indexes().itertuples()
    words = as_bash_reads(services.migrations.rebuild_index(row.table, row.index, 60).by_hand, tmp_path)
    for sql in (words[3], words[5]):
        owned(services, sql)
    assert services.migrations.invalid_indexes().empty


def test_an_index_without_a_name_leaves_nothing_where_it_fails(services: Services, tmp_path: Path) -> None:
    action = apply(services, file(tmp_path, "create unique index concurrently on documents (status);"))
    for _ in range(2):
        result, why = carried(services, action, tmp_path)
        assert result is Result.FAILED
        assert "23505" in why
        assert services.migrations.invalid_indexes().empty


def test_where_an_earlier_attempt_at_an_index_without_a_name_was_cut_a_person_looks(
    services: Services, tmp_path: Path
) -> None:
    with pytest.raises(Faulty):
        owned(services, "create unique index concurrently on documents (status)")
    made = file(tmp_path, "create index concurrently on documents (status);")
    with pytest.raises(
        Faulty, match=r"documents_status_idx is invalid .* A person looks, and drops it: drop index conc"
    ):
        do(services, apply(services, made))
    other = file(tmp_path, "create index concurrently on documents (status, title);", "20270101000001")
    do(services, apply(services, other))
    assert len(services.migrations.invalid_indexes()) == 1


def test_an_index_of_a_partitioned_table_in_the_making_is_not_called_invalid(services: Services) -> None:
    owned(services, "create table parts (id int) partition by range (id)")
    owned(services, "create table part_1 partition of parts for values from (0) to (9)")
    owned(services, "create index parts_i on only parts (id)")
    assert services.migrations.invalid_indexes().empty


def test_an_index_takes_longer_than_a_statement_may(
    services: Services, firm: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrating, "MARGIN", 0.1)
    made = file(tmp_path, "create index concurrently made_i on documents (status);\nset statement_timeout = '9s';")
    with everything(firm.name)[1].database.session() as other:
        other.execute("begin")
        other.execute("set role postgres")
        other.execute("lock table documents in row exclusive mode")
        threading.Timer(2, lambda: other.execute("commit")).start()
        do(services, services.migrations.apply_file(made, 1, 0.5))
    assert services.migrations.invalid_indexes().empty


def test_an_index_that_may_still_be_in_the_making_is_not_dropped(
    services: Services, firm: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    action = apply(services, file(tmp_path, "create index concurrently made_i on documents (status);"))
    with everything(firm.name)[1].database.session() as other:
        other.execute("begin")
        other.execute("set role postgres")
        other.execute("lock table documents in row exclusive mode")
        monkeypatch.setattr(migrating, "PATIENCE", 0.5)  # we go; the server builds on
        result, why = carried(services, action, tmp_path)
        assert result is Result.UNKNOWN
        assert "Whether statements [1] still take effect was not seen" in why
        result, why = carried(services, action, tmp_path)
        assert result is Result.UNKNOWN
        assert "which of its statements are committed was not seen" in why
        with pytest.raises(Faulty, match="may still be in the making"):
            do(services, action)
        other.execute("commit")
    for _ in range(50):
        found = services.database.rows("select indisvalid as it from pg_index where indexrelid = 'made_i'::regclass")
        if found == [{"it": True}]:
            return
        time.sleep(0.1)
    pytest.fail(f"the index that the server was building: {found}")
