"""pyproject.toml, environment.yml and requirements.lock say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DIRECT = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRA = [Requirement(line) for lines in PROJECT["optional-dependencies"].values() for line in lines]


@pytest.fixture(scope="module")
def conda() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pip(conda: dict[str, Any]) -> list[str]:
    return next(item["pip"] for item in conda["dependencies"] if isinstance(item, dict))


@pytest.fixture(scope="module")
def locked() -> dict[str, str]:
    """Name -> the whole entry, with its digests."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(re.split(r"[=\s\[]", line, maxsplit=1)[0]): line for line in lines}


def test_conda_names_every_direct_dependency_with_the_same_bounds(conda: dict[str, Any], pip: list[str]) -> None:
    named = [Requirement(item) for item in conda["dependencies"] if isinstance(item, str) and "python=" not in item]
    named += [Requirement(line) for line in pip if not line.startswith("-")]
    assert {r.name: str(r) for r in named if r.name != "pip"} == {r.name: str(r) for r in DIRECT}


def test_conda_brings_the_oldest_python_and_installs_the_rest_with_pip(conda: dict[str, Any], pip: list[str]) -> None:
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert f"python={oldest}" in conda["dependencies"]
    assert "pip" in conda["dependencies"]
    assert pip[-1] == f"-e .[{','.join(PROJECT['optional-dependencies'])}]"


def test_the_lock_fulfils_every_direct_dependency(locked: dict[str, str]) -> None:
    for wanted in [*DIRECT, *EXTRA]:
        entry = locked.get(canonicalize_name(wanted.name))
        assert entry, f"{wanted.name} is not in requirements.lock: make lock"
        version = re.search(r"==([^\s;]+)", entry)
        assert version and wanted.specifier.contains(version[1], prereleases=True), f"{wanted} against {entry[:60]}"


def test_the_lock_pins_versions_and_digests(locked: dict[str, str]) -> None:
    loose = [
        name for name, entry in locked.items() if not re.match(r"[\w.\[\],-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry)
    ]
    assert not loose


def test_the_lock_names_no_registry(locked: dict[str, str]) -> None:
    for entry in locked.values():
        assert "://" not in entry and " @ " not in entry and "index" not in entry.split("--hash")[0].split(";")[0]
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"^\s*(-i|-f|--index-url|--extra-index-url|--find-links|--trusted-host)\b", text, re.MULTILINE)
