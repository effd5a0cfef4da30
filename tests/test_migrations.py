"""A migration folder beside the ledger of its target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from opskit.errors import BadInput
from opskit.services import migrations
from opskit.services.migrations import Alignment, align

ONE, TWO, THREE = "20260101000000", "20260102000000", "20260103000000"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for version, name in ((ONE, "one"), (TWO, "two"), (THREE, "three")):
        put(tmp_path, f"{version}_{name}.sql", f"select '{name}';")
    return tmp_path


def put(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)


def ledger(*rows: tuple[str, str, list[str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["version", "name", "statements"])


APPLIED = (ONE, "one", ["select 'one'"])


def aligned(folder: Path, *rows: Any) -> Alignment:
    return align(migrations.opened(folder), ledger(*rows))


def versions(found: Alignment) -> list[str]:
    return [file.version for file in found.pending]


def test_what_is_not_in_the_ledger_is_pending_in_order(folder: Path) -> None:
    found = aligned(folder, APPLIED)
    assert versions(found) == [TWO, THREE]
    assert found.problems == []
    assert versions(aligned(folder)) == [ONE, TWO, THREE]


@pytest.mark.parametrize(
    ("rows", "what", "version"),
    [
        ([APPLIED, ("20260101120000", "gone", ["select 0"])], "unknown", "20260101120000"),
        ([APPLIED, (THREE, "three", ["select 'three'"])], "late", TWO),
        ([(ONE, "one", ["select 'something else'"])], "changed", ONE),
    ],
)
def test_disagreements(folder: Path, rows: list[Any], what: str, version: str) -> None:
    found = aligned(folder, *rows)
    assert getattr(found, what) == [version]
    assert [line[1] for line in found.problems] == [version]


def test_white_space_and_another_cut_are_no_other_statements(folder: Path) -> None:
    put(folder, f"{ONE}_one.sql", "select 1;\r\n\r\nselect 2;\n")
    assert not aligned(folder, (ONE, "one", ["select 1;\n select 2;"])).changed
    assert not aligned(folder, (ONE, "one", [])).changed  # written by `migration repair`


def test_one_migration_under_two_versions(folder: Path) -> None:
    found = aligned(folder, APPLIED, ("20260102", "two", ["select 'two'"]))
    assert found.renamed == [("20260102", TWO)]
    assert found.mixed == ["20260102"]
    assert found.unknown == ["20260102"]


def test_repeated_versions_and_skipped_files(folder: Path) -> None:
    put(folder, f"{TWO}_again.sql", "select 1;")
    put(folder, "notes.sql", "select 1;")
    put(folder, "-1_x.sql", "select 1;")
    put(folder, "README.md", "")
    found = aligned(folder, APPLIED)
    assert found.repeated == [TWO]
    assert found.skipped == ["-1_x.sql", "notes.sql"]
    assert versions(found) == [TWO, TWO, THREE]


def test_versions_are_compared_as_text(folder: Path) -> None:
    put(folder, "9_small.sql", "select 1;")
    found = aligned(folder)
    assert versions(found)[-1] == "9"
    assert found.mixed == ["9"]


def test_asking_for_versions(folder: Path) -> None:
    kept = migrations.opened(folder)
    pending = align(kept, ledger(APPLIED)).pending
    assert [f.version for f in kept.chosen("pending", pending)] == [TWO, THREE]
    assert [f.version for f in kept.chosen(f" {THREE},", pending)] == [THREE]
    with pytest.raises(BadInput, match=f"{ONE} not pending"):
        kept.chosen(ONE, pending)


def test_no_folder_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is no folder"):
        migrations.opened(tmp_path / "absent")
    with pytest.raises(BadInput, match="holds no migration"):
        migrations.opened(tmp_path)


def test_a_broken_file_stays_in_its_place(folder: Path) -> None:
    (folder / f"{TWO}_two.sql").write_bytes(b"\xff\xfe")
    found = aligned(folder, APPLIED)
    assert versions(found) == [TWO, THREE]
    assert "is not UTF-8" in found.pending[0].trouble
