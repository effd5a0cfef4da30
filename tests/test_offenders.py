"""Rows that a constraint would refuse are counted on the target, or it is said that nobody counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from applying import file

from opskit.services import Services


@pytest.mark.parametrize(
    ("text", "offenders"),
    [
        ("alter table documents add constraint c check (word_count < 0);", True),
        ("alter table documents add constraint c check (word_count < 0) not valid;", None),
        ("alter table documents add constraint c check (word_count >= 0);", False),
        ("alter table documents alter column user_id set not null;", False),
        ("create unique index i on documents (status);", True),
        ("alter table documents add constraint c unique (id);", False),
        ("alter table documents alter column title type int;", True),
        ("alter table documents alter column status type varchar;", False),
        ("alter table documents add constraint c foreign key (id) references user_profiles (id);", True),
        ("alter table documents add constraint c foreign key (user_id) references user_profiles;", False),
        ("create table made (a int); alter table made add constraint c check (a > 0);", None),
        ("create table made (a int); insert into made values (1); create unique index i on made (a);", None),
        ("create unique index i on documents (lower(status));", True),
        ("create unique index i on document_versions (document_id, version_number) nulls not distinct;", False),
        ("alter table documents add column made int not null;", True),
        ("alter table documents add column made int not null default 7;", None),
        ("alter table documents add column made serial not null;", None),
        ("alter table documents alter column word_count type smallint;", False),
        (
            "alter table documents add constraint c foreign key (id) references user_profiles (id) not valid;"
            "alter table documents validate constraint c;",
            True,
        ),
    ],
)
def test_rows_that_would_be_refused_are_counted(services: Services, tmp_path: Path, text: str, offenders: Any) -> None:
    found = services.migrations.offenders([file(tmp_path, text)])
    assert [bool(n) for n in found.offenders] == ([] if offenders is None else [offenders]), found


@pytest.mark.parametrize(
    "text",
    [
        "alter table documents add column made text; alter table documents alter column made set not null;",
        "alter table documents alter column title type int using length(title);",
        "alter table documents add column made int default 7 unique;",
        "alter table documents validate constraint nobody_knows;",
        "alter table documents add constraint c exclude (title with =);",
        "create domain d as text; alter domain d set not null;",
    ],
)
def test_what_nobody_counted_is_not_said_to_fit(services: Services, tmp_path: Path, text: str) -> None:
    (row,) = services.migrations.offenders([file(tmp_path, text)]).itertuples()
    assert row.offenders is None
    assert row.why.startswith("not proven: ")


def test_what_an_earlier_statement_may_put_right_is_not_proven(services: Services, tmp_path: Path) -> None:
    text = "update documents set word_count = -1;\nalter table documents add constraint c check (word_count < 0);"
    (row,) = services.migrations.offenders([file(tmp_path, text)]).itertuples()
    assert row.offenders is None
    assert "an earlier statement changes rows" in row.why
