"""Extensions are held against what the target offers, and to whom: a rehearsal has other ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rehearsing import files

from opskit.database import Database
from opskit.services import extensions, scratch

OWNER, LENT, HELD = "owner", "lent_to_owners", "for_superusers"
MADE = f"""
create extension plpgsql;
create extension if not exists postgis with schema public;
create extension pgcrypto; -- trusted
create extension {LENT};
do $$ begin null; end $$;
create extension {HELD};
"""


@pytest.fixture(scope="module")
def target() -> Iterator[Database]:
    """A server of its own that offers two extensions to superusers alone, and whose owner is none."""
    binaries = scratch.choose(scratch.OWN_EXTENSIONS)
    if binaries.major < scratch.OWN_EXTENSIONS:
        pytest.skip("no PostgreSQL here takes extensions from a folder of ours")
    with scratch.server(binaries) as server:
        for name in (LENT, HELD):
            offered = server.home / "standins" / "extension" / f"{name}.control"
            offered.write_text("default_version = '1'\nsuperuser = true\n")
            offered.with_name(f"{name}--1.sql").write_text("select 1;")
        database = server.open("postgres")
        with database.session() as session:
            session.execute(f"create role {OWNER}")
        yield database
        database.close()


def lends(target: Database, names: str | None) -> None:
    with target.session() as session:
        done = f"set supautils.privileged_extensions = '{names}'" if names is not None else "reset all"
        session.execute(f"alter database postgres {done}")
    target.close()  # what a database sets holds for those who come after


@pytest.mark.parametrize(
    ("lent", "others"),
    [
        (f"hstore, {LENT}", {LENT: True, HELD: False}),
        (f"hstore ,{LENT},{HELD}", {LENT: True, HELD: True}),
        ("hstore", {LENT: False, HELD: False}),
        (None, {LENT: None, HELD: None}),  # a platform that has no such list may have other ways
    ],
)
def test_the_target_says_what_it_offers_and_to_whom(
    target: Database, tmp_path: Path, lent: str | None, others: dict[str, bool | None]
) -> None:
    lends(target, lent)
    found = extensions.made(target, OWNER, files(tmp_path, MADE))
    assert dict(zip(found.extension, found.takes, strict=True)) == {
        "plpgsql": True, "postgis": False, "pgcrypto": True, **others,
    }  # fmt: skip
    assert list(found.line) == [2, 3, 4, 5, 7]
    assert found.why[1] == "the target does not offer it"


def test_a_superuser_may_make_all_that_is_offered(target: Database, tmp_path: Path) -> None:
    lends(target, None)
    found = extensions.made(target, scratch.SUPERUSER, files(tmp_path, MADE))
    assert list(found.takes) == [True, False, True, True, True]


def test_files_that_make_none_ask_nothing(target: Database, tmp_path: Path) -> None:
    assert extensions.made(target, OWNER, files(tmp_path, "select 1;")).empty
