"""The role that metrics run as: who can make it, what it may do, and what `migrate` says where it cannot be made."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import uuid4

import asyncpg
import pytest

from billable_metrics.execute import MetricRunner
from billable_metrics.rewriter import rewrite
from rollup_engine.config.settings import Settings
from rollup_engine.errors import DatabaseUnavailable
from rollup_engine.runtime import metric_role, migration, schema
from tests.metrics.support import CATALOG, CONFIG

METRIC = "SELECT COUNT(*) AS n FROM AGGREGATED_EVENTS('file_download')"


@dataclass
class Server:
    """A fresh database, the role's name there, and logins to be dropped."""

    url: str
    role: str
    owner: str

    def as_owner(self) -> str:
        return f"postgresql://{self.owner}:secret@{self.url.rpartition('@')[2]}"

    async def execute(self, text: str) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(text)
        finally:
            await connection.close()


@asynccontextmanager
async def owned(url: str, attributes: str, role: str) -> AsyncIterator[Server]:
    """A database that belongs to a login without superuser's rights."""
    server = Server(url, role, f"owner_{uuid4().hex[:12]}")
    await server.execute(f"CREATE ROLE {server.owner} LOGIN PASSWORD 'secret' {attributes}")
    await server.execute(f'ALTER DATABASE "{url.rpartition("/")[2]}" OWNER TO {server.owner}')
    try:
        yield server
    finally:
        await server.execute(f'ALTER DATABASE "{url.rpartition("/")[2]}" OWNER TO postgres')
        for name in (role, server.owner):
            await server.execute(
                f"DO $$ BEGIN IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{name}') THEN"
                f" DROP OWNED BY {name} CASCADE; DROP ROLE {name}; END IF; END $$"
            )


@pytest.fixture
def role(monkeypatch: pytest.MonkeyPatch) -> str:
    """A name that no other database of the server has given away yet."""
    name = f"rollup_metrics_{uuid4().hex[:12]}"
    monkeypatch.setattr(metric_role, "METRIC_ROLE", name)
    return name


async def migrated(url: str) -> str:
    return "\n".join(await migration.migrate(Settings(database_url=url, _env_file=None), CONFIG))  # type: ignore[call-arg]


async def asked(url: str, role: str) -> list[tuple[object, ...]]:
    answer = await MetricRunner(url, metric_role=role).run(lambda catalog: rewrite(METRIC, catalog), CATALOG)
    return answer.rows


async def test_an_owner_who_may_make_roles(database_url: str, role: str) -> None:
    async with owned(database_url, "CREATEROLE", role) as server:
        assert "superuser" not in await migrated(server.as_owner())
        assert await asked(server.as_owner(), role) == [(0,)]
        assert "superuser" not in await migrated(server.as_owner())  # twice


async def test_an_owner_who_may_not_make_roles(database_url: str, role: str) -> None:
    """Everything else is migrated, metrics refuse, and what `migrate` says to run is what was missing."""
    async with owned(database_url, "", role) as server:
        said = await migrated(server.as_owner())
        assert "rollups.file_download_aggregated is there" in said
        statements = f'CREATE ROLE rollup_metrics NOLOGIN; GRANT rollup_metrics TO "{server.owner}";'
        assert f"have a superuser run: {statements} Then" in said
        with pytest.raises(DatabaseUnavailable, match=r"Metrics cannot run yet: .*have a superuser run: CREATE ROLE"):
            await asked(server.as_owner(), role)
        await server.execute(f"CREATE ROLE {role}")
        granting = statements.partition("; ")[2]
        assert f"have a superuser run: {granting} Then" in await migrated(server.as_owner())
        await server.execute(granting.replace("rollup_metrics", role))
        assert "superuser" not in await migrated(server.as_owner())
        assert await asked(server.as_owner(), role) == [(0,)]


async def test_a_login_that_the_operator_names(database_url: str, role: str) -> None:
    """Used as it is, without taking a role on."""
    async with owned(database_url, "CREATEROLE", role) as server:
        await migrated(server.as_owner())
        reader = f"reader_{uuid4().hex[:12]}"
        await server.execute(f"CREATE ROLE {reader} LOGIN PASSWORD 'secret' IN ROLE {role}")
        try:
            url = server.as_owner().replace(server.owner, reader)
            answer = await MetricRunner(url, metric_role=None).run(lambda catalog: rewrite(METRIC, catalog), CATALOG)
            assert answer.rows == [(0,)]
        finally:
            await server.execute(f"DROP ROLE {reader}")


async def test_databases_of_one_server_migrate_at_once(new_database: Callable[[], str], role: str) -> None:
    urls = [new_database() for _ in range(4)]
    try:
        said = await asyncio.gather(*(migrated(url) for url in urls))
        assert not any("superuser" in each for each in said)
        assert [await asked(url, role) for url in urls] == [[(0,)]] * 4
    finally:
        for url in urls:
            await Server(url, role, "").execute(f"DROP OWNED BY {role}")
        await Server(urls[0], role, "").execute(f"DROP ROLE {role}")


async def test_all_rights_of_the_role(database_url: str, role: str) -> None:
    """Reading the rollups, their tiers, and what says where these are behind. Not the views, and nothing else."""
    async with owned(database_url, "CREATEROLE", role) as server:
        await migrated(server.as_owner())
        connection = await asyncpg.connect(server.url)
        try:
            rows = await connection.fetch(
                "SELECT relnamespace::regnamespace || '.' || relname, privilege_type"
                " FROM pg_class, aclexplode(relacl) WHERE grantee = $1::text::regrole",
                role,
            )
            schemas = await connection.fetch(
                "SELECT nspname, privilege_type FROM pg_namespace, aclexplode(nspacl)"
                " WHERE grantee = $1::text::regrole",
                role,
            )
            others = await connection.fetchval(
                "SELECT count(*) FROM pg_auth_members WHERE member = $1::text::regrole", role
            )
        finally:
            await connection.close()
    tables = [f"rollups.{name}_{kind}" for name in ("api_request", "file_download") for kind in KINDS]
    assert {tuple(row) for row in rows} == {
        (name, "SELECT") for name in (*tables, "rollup_engine.changes", "rollup_engine.tiers")
    }
    assert {tuple(row) for row in schemas} == {("rollups", "USAGE"), ("rollup_engine", "USAGE")}
    assert others == 0


KINDS = ("aggregated", "hourly", "daily")


async def test_granting_again_writes_nothing(database_url: str, role: str) -> None:
    """It runs at each start; a table's entry in the catalogue written each time would meet those who add partitions."""
    async with owned(database_url, "CREATEROLE", role) as server:
        await migrated(server.as_owner())
        async with schema.connected(server.as_owner(), 1) as pool, pool.acquire() as connection:
            before = await connection.fetch("SELECT oid, xmin::text FROM pg_class ORDER BY oid")
            assert await metric_role.grant_reading(connection) is None
            assert await connection.fetch("SELECT oid, xmin::text FROM pg_class ORDER BY oid") == before
