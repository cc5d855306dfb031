"""The server for the page of a study, for this machine only. It renews the page when new rows come."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from backbench import UserError, rows

ADDRESS = "127.0.0.1"


def state(results_dir: Path) -> str:
    """Return a text that changes when a row is added."""
    try:
        found = (results_dir / rows.FILE).stat()
    except OSError:
        return "nothing yet"
    return f"{found.st_size}-{found.st_mtime_ns}"


class Server(ThreadingHTTPServer):
    """Serves the page that ``build`` returns, and builds it again when the rows have changed.

    ``port`` 0 takes a free one. Requests under another host name are refused, which protects against DNS rebinding.
    Raises UserError where the port can't be opened.
    """

    daemon_threads = True

    def __init__(self, results_dir: Path, build: Callable[[], str], *, port: int):
        self.results_dir, self.build = results_dir, build
        self.built: tuple[str, bytes] | None = None
        self.lock = threading.Lock()
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise UserError(f"port {port} can't be opened: {error.strerror}. Name another with --port.") from error
        self.names = {f"{name}:{self.server_port}" for name in (ADDRESS, "localhost")}

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.server_port}/"

    def page(self) -> bytes:
        """Return the current page, encoded."""
        with self.lock:
            now = state(self.results_dir)
            if self.built is None or self.built[0] != now:
                self.built = now, self.build().encode()
            return self.built[1]


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.headers.get("Host") not in self.server.names:
            self._answer(403, b"this host name is not allowed", "text/plain")
        elif self.path == "/state":
            self._answer(200, state(self.server.results_dir).encode(), "text/plain")
        elif self.path == "/":
            try:
                self._answer(200, self.server.page(), "text/html; charset=utf-8")
            except UserError as error:
                self._answer(500, str(error).encode(), "text/plain; charset=utf-8")
        else:
            self._answer(404, b"only / is served", "text/plain")

    def _answer(self, code: int, body: bytes, kind: str):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Log nothing, since the terminal is for what the user must know."""
