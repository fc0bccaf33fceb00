"""Engines on a database of their own in the session's Postgres, each with its embedded broker."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.cli import Engine
from tests.acceptance.traffic import yaml


@pytest.fixture
def make_engine(new_database: Callable[[], str]) -> Iterator[Callable[..., Engine]]:
    """`make_engine(yaml text, **settings)`: a new state directory, configuration and database."""
    made: list[tuple[Engine, Path]] = []

    def make(content: str | None = None, **settings: str) -> Engine:
        directory = Path(tempfile.mkdtemp(prefix="rollup-engine-acceptance-"))
        directory.chmod(0o755)
        (directory / "rollups").mkdir()
        (directory / "rollups" / "file_download.yaml").write_text(content or yaml())
        settings.setdefault("database_url", new_database())
        engine = Engine(directory, directory / "rollups", **settings)
        made.append((engine, directory))
        return engine

    yield make
    for engine, directory in made:
        engine.close()
        end_broker(engine)
        shutil.rmtree(directory)


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    """One with partial rollups every half second, and history allowed."""
    return make_engine()


def end_broker(engine: Engine) -> None:
    """The embedded broker outlives a killed `up`."""
    from rollup_engine.runtime.embedded import adopt_broker

    broker = adopt_broker(engine.state_dir)
    if broker is not None:
        broker.stop()
