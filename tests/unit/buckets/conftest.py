"""A real S3 protocol server, one for the session, and its environment for one test."""

from collections.abc import Iterator

import pytest

from tests.s3 import S3Server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    server = S3Server.start()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server: S3Server) -> Iterator[S3Server]:
    """The server, without faults; `open_store("s3://…")` finds it. Buckets stay: name one per test."""
    with s3_server.environment():
        s3_server.fault, s3_server.heeds_if_match = None, True
        s3_server.requests.clear()
        yield s3_server
        s3_server.fault = None
