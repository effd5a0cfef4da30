"""What the tests of reliability share: one scene for crashes in each process, and commands that may die."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import scene as scenes
from scene import Said, Scene
from sealed_archive import allowed, place, signed, unsigned_one, verified

__all__ = ["allowed", "place", "signed", "unsigned_one", "verified"]  # its fixtures


@pytest.fixture(scope="session")
def crime_scene(state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPSKIT_STATE", str(state))
        patch.setenv("OPSKIT_OPERATOR", "ana")
        with scenes.stage(state, tmp_path_factory.mktemp("scene")) as found:
            yield found


@pytest.fixture
def scene(crime_scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """The scene as it was when its plan was made; this process sees its environment."""
    crime_scene.restore()
    monkeypatch.setenv("OPSKIT_ROOT", str(crime_scene.root))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    for name, value in crime_scene.secrets.items():
        monkeypatch.setenv(name, value)
    return crime_scene


Run = Callable[..., Said]


@pytest.fixture
def begin(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Start a command in a process that may die; `end(…)` of what it answers tells how it ended."""
    temporary = tmp_path / "t"  # what the dead leave behind goes with it
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))

    def start(*arguments: object, **how: Any) -> Any:
        return scenes.begin(tmp_path / "said", dict(os.environ), *arguments, **how)

    return start


@pytest.fixture
def run(begin: Callable[..., Any], tmp_path: Path) -> Run:
    """A command in a process that may die, from its beginning to its end."""
    return lambda *arguments, **how: scenes.end(begin(*arguments, **how), tmp_path / "said")
