"""A running sandbox for the tests that look at a whole company, and a bare database for those that need no more.

Each test that changes one of them brings it back.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from opskit import sandbox
from opskit.sandbox.postgres import Postgres, clean


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


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """The company's tables, with nobody in them."""
    folder = tmp_path_factory.mktemp("cluster") / "postgres"
    found = Postgres(folder)
    found.create()
    found.keep("founded")
    yield found
    found.stop()
    clean(folder)


@pytest.fixture(scope="module")
def founded(cluster: Postgres, request: pytest.FixtureRequest) -> Postgres:
    """The same with the ROWS of the module that asks, kept as "fresh"."""
    cluster.start()
    cluster.restore("founded")
    with cluster.connect() as connection:
        connection.execute(getattr(request.module, "ROWS", "select"))
    cluster.keep("fresh")
    return cluster


@pytest.fixture
def database(founded: Postgres) -> Postgres:
    """The same, as fresh for each test."""
    founded.start()
    founded.restore("fresh")
    return founded
