"""A running sandbox for the tests that look at a whole company. Each test that changes it brings it back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from opskit import sandbox


@pytest.fixture(scope="session")
def living(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sandbox.Sandbox]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPSKIT_STATE", str(tmp_path_factory.mktemp("state")))
        found = sandbox.start("tests", seed=11)
        yield found
        found.stop()


@pytest.fixture
def company(living: sandbox.Sandbox) -> Iterator[sandbox.Sandbox]:
    yield living
    living.reset(11)
