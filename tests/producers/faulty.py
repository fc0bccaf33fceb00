"""A server between a client and the API that loses answers, as networks do."""

import http.client
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

LOST, BUSY = "lost", "busy"
"""The request takes place and nobody hears of it; it does not reach the API."""
_NOT_PASSED = {"connection", "host", "transfer-encoding", "content-length"}


class Faulty:
    """`url` stands in the place of the API's. The first requests go as `faults` says, all others pass."""

    def __init__(self, api: str, faults: Sequence[str]) -> None:
        self.headers: list[dict[str, str]] = []  # of every request, with names in lower case
        self._to, self._faults = urlsplit(api).netloc, list(faults)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(int(headers["content-length"]))
                outer.headers.append(headers)
                fault = outer._faults.pop(0) if outer._faults else ""
                if fault == BUSY:
                    self.send_response(503)
                    self.send_header("Retry-After-Ms", "20")  # Orb's clients heed it
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                status, said, kind = outer._ask(self.path, body, headers)
                if fault == LOST:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, format: str, *args: object) -> None:
                return

        return Handler

    def _ask(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, str]:
        connection = http.client.HTTPConnection(self._to, timeout=30)
        try:
            connection.request(
                "POST", path, body, {name: value for name, value in headers.items() if name not in _NOT_PASSED}
            )
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.getheader("Content-Type", "")
        finally:
            connection.close()


@contextmanager
def faulty(api: str, *faults: str) -> Iterator[Faulty]:
    proxy = Faulty(api, faults)
    thread = threading.Thread(target=proxy.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        thread.join()
        proxy.server.server_close()
