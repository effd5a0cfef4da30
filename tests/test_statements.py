"""Cutting migration files into statements, as PostgreSQL and the Supabase CLI do."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.services import statements
from opskit.services.statements import split


def cut(text: str) -> list[tuple[int, str]]:
    return [(s.line, s.text) for s in split(text, "1_a.sql")]


def test_pieces_are_the_clis() -> None:
    """What version 3.1 of the CLI wrote into its ledger for this very file."""
    text = (
        "-- a comment; here\r\ncreate table t1 (id int); -- trailing\n\n/* block; */\n"
        "create function f() returns void language plpgsql as $$ begin perform 1; end; $$;\n;\n"
        "  insert into t1 values (1)  ;\n-- last comment\n"
    )
    assert cut(text) == [
        (2, "-- a comment; here\r\ncreate table t1 (id int)"),
        (
            5,
            "-- trailing\n\n/* block; */\n"
            "create function f() returns void language plpgsql as $$ begin perform 1; end; $$",
        ),
        (7, "insert into t1 values (1)"),
        (8, "-- last comment"),
    ]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("-- nothing\n", [1]),
        ("select 1", [1]),
        ("select 1;;;\n\n;select 2", [1, 3]),
        ("select 'a;\nb'; select $x$ ; $$ $x$;\nselect 3;", [1, 2, 3]),
        ("do $do$ begin\n  execute 'drop table x;';\nend $do$;\nselect 1;", [1, 4]),
        ("create function g() returns int language sql begin atomic\n select 1; select 2;\nend;\nselect 3;", [1, 4]),
        ("create rule r as on insert to t do also (insert into a values (1);\ninsert into b values (2));", [1]),
        ("select 'é', 'ß'; \nselect 'ü';\n  create table \"naïve;\" (id int);", [1, 2, 3]),
        ("/* /* nested; */ */ select 1;\nselect 2 -- ; end\n;select 3", [1, 2, 3]),
        ("select E'it\\'s; fine';\r\nselect 2;\r\n", [1, 2]),
        ("select 1 as \"a;b\";\nselect U&'d\\0061t;';", [1, 2]),
    ],
)
def test_lines(text: str, lines: list[int]) -> None:
    assert [line for line, _ in cut(text)] == lines


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("select 1;\n\\copy t from 'x.csv'\n", r"1_a.sql:2: \\copy is a command of psql"),
        ("\\set x 1\nselect 1;", r"1_a.sql:1: \\set is a command of psql"),
        ("select 1;\n\ncopy t from stdin;\n1\t2;3\n\\.\n", "1_a.sql:3: COPY from stdin"),
        ("select 1;\ncopy t from stdin;", "1_a.sql:2: COPY from or to the client"),
        ("select 1;\n\nselct 2;", '1_a.sql:3: syntax error at or near "selct"'),
        ("select 'é';\nselct 2;", "1_a.sql:2: syntax error"),
        ("create table x (\n\n", "1_a.sql:1: syntax error at end of input"),
        ("select 1;\nselect 'never closed", "1_a.sql:2: unterminated quoted string"),
        ("select 1;\ndo $$ begin", "1_a.sql:2: unterminated dollar-quoted string"),
    ],
)
def test_what_cannot_be_sent_is_named_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        split(text, "1_a.sql")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"select 1;\nselect '\xe9';", "1_a.sql:2: is not UTF-8"),
        (b"select 1;\n\x00", "1_a.sql:2: holds a zero byte"),
        (b"\x89PNG\r\n\x1a\n", "1_a.sql:1: is not UTF-8"),
    ],
)
def test_files_that_are_no_text(tmp_path: Path, raw: bytes, said: str) -> None:
    path = tmp_path / "1_a.sql"
    path.write_bytes(raw)
    found = statements.read(path, "1", "a")
    assert said in found.trouble
    assert not found.statements


def test_a_file_of_more_than_50_mb_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "1_a.sql"
    with path.open("wb") as file:
        file.truncate(50 * 1024 * 1024 + 1)
    assert "at most 50 are read" in statements.read(path, "1", "a").trouble


def test_a_byte_order_mark_and_a_folder_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "1_a.sql").write_bytes(b"\xef\xbb\xbfselect 1;")
    (tmp_path / "2_b.sql").mkdir()
    assert statements.read(tmp_path / "1_a.sql", "1", "a").texts == ["select 1"]
    assert "2_b.sql: " in statements.read(tmp_path / "2_b.sql", "2", "b").trouble


@pytest.mark.parametrize(
    ("sql", "alone"),
    [
        ("create index concurrently i on t (a)", True),
        ("create index i on t (a)", False),
        ("drop index concurrently i", True),
        ("reindex (concurrently) table t", True),
        ("reindex table concurrently t", True),
        ("reindex table t", False),
        ("vacuum t", True),
        ("analyze t", False),
        ("alter system set work_mem = '1MB'", True),
        ("cluster t", True),
        ("select 'create index concurrently'", False),
    ],
)
def test_what_the_cli_sends_by_itself(sql: str, alone: bool) -> None:
    assert [s.alone for s in split(sql, "1_a.sql")] == [alone]


def test_transactions_of_a_files_own() -> None:
    found = split("begin; select 1; savepoint a; commit; start transaction; rollback;", "1_a.sql")
    assert [s.transaction for s in found] == [True, False, False, True, True, True]


def test_a_head_names_a_statement_in_one_line() -> None:
    (found,) = split(f"-- why\n/* and */ select\n  1, '{'x' * 80}';", "1_a.sql")
    assert found.head.startswith("select 1, 'xxx")
    assert len(found.head) == statements.HEAD


PIECES = st.sampled_from(
    [
        "select 1",
        "select ';'",
        "select $$;$$",
        "/* ; */ select 2",
        "-- ;\nselect 3",
        "do $x$ begin end $x$",
        "select 'ü'",
    ]
)


@given(st.lists(PIECES, min_size=1), st.sampled_from([";", ";\n", " ;\r\n\r\n", ";;\n"]))
def test_whatever_was_put_together_is_cut_apart(pieces: list[str], between: str) -> None:
    assert [text for _, text in cut(between.join(pieces) + between)] == pieces
