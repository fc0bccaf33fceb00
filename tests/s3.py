"""A real S3 protocol server (moto's) in a thread of the tests, with faults on demand.

server = S3Server.start()          # or the fixture `s3` of tests/unit/buckets/conftest.py
server.put("bucket", "a/b.ndjson", b"…")
with server.environment(): ...     # AWS_ENDPOINT_URL and the like, for this process and those it starts
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import moto.settings
from botocore.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

# (method, path with query) -> what to answer instead: HTTP status, and S3's code for it or a whole page; or None
Fault = Callable[[str, str], tuple[int, str] | None]


class _Quiet(MotoRequestHandler):  # type: ignore[misc]  # moto ships no types
    def log(self, type: str, message: str, *args: Any) -> None:
        pass


def _without_server(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """moto and werkzeug both name themselves, and aiohttp's strict mode takes no two `Server` headers."""
    return [(name, value) for name, value in headers if name.lower() != "server"]


class S3Server:
    """Any number of buckets in memory. `fault` may refuse requests, `requests` counts them by method."""

    def __init__(self, server: BaseWSGIServer) -> None:
        self._server = server
        self.url = f"http://127.0.0.1:{server.server_port}"
        self.fault: Fault | None = None
        self.heeds_if_match = True
        self.requests: Counter[str] = Counter()
        self._made: set[str] = set()
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}),
        )

    @classmethod
    def start(cls, port: int = 0) -> S3Server:
        made: list[S3Server] = []
        moto = DomainDispatcherApplication(create_backend_app)

        def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
            method = environ["REQUEST_METHOD"]
            path = f"{environ['PATH_INFO']}?{environ.get('QUERY_STRING', '')}"
            server = made[0]
            server.requests[method] += 1
            if not server.heeds_if_match:
                environ.pop("HTTP_IF_MATCH", None)
            fault = server.fault(method, path) if server.fault else None
            if fault is None:
                return moto(environ, lambda status, headers: start_response(status, _without_server(headers)))
            page = f"<Error><Code>{fault[1]}</Code><Message>as the test wants it</Message></Error>"
            body = (fault[1] if fault[1].startswith("<") else page).encode()
            start_response(
                f"{fault[0]} Fault", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
            )
            return [body if method != "HEAD" else b""]

        wsgi = make_server("127.0.0.1", port, application, threaded=True, request_handler=_Quiet)
        made.append(cls(wsgi))
        threading.Thread(target=wsgi.serve_forever, daemon=True).start()
        return made[0]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.client.close()

    @property
    def variables(self) -> dict[str, str]:
        """The environment by which any S3 client of AWS's finds this server."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @contextmanager
    def environment(self) -> Iterator[None]:
        before = {name: os.environ.get(name) for name in self.variables}
        os.environ.update(self.variables)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    def put(self, bucket: str, key: str, data: bytes) -> str:
        """Put an object, making the bucket where there is none; returns the object's etag."""
        if bucket not in self._made:
            self.client.create_bucket(Bucket=bucket)
            self._made.add(bucket)
        return str(self.client.put_object(Bucket=bucket, Key=key, Body=data)["ETag"]).strip('"')

    def check_credentials(self, check: bool) -> None:
        """From now on, refuse keys that are no moto user's: as all are here."""
        moto.settings.INITIAL_NO_AUTH_ACTION_COUNT = 0.0 if check else float("inf")

    def delete(self, bucket: str, key: str) -> None:
        self.client.delete_object(Bucket=bucket, Key=key)
