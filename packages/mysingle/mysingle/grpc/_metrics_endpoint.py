"""`/metrics`, `/healthz` and `/readyz` over HTTP, for servers that speak gRPC otherwise."""

from __future__ import annotations

import logging
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mysingle.core.errors import StartError
from mysingle.grpc._metrics import render

__all__ = ["MetricsServer", "start_metrics_server"]

_log = logging.getLogger("mysingle.http")


class MetricsServer:
    """The endpoint while it is open."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True, name="metrics"
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port, which 0 had left open."""
        return self._server.server_address[1]

    def close(self) -> None:
        """Closes the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 32

    def server_bind(self) -> None:
        """Binds without HTTPServer's look-up of the machine's name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says little: a scraper that hangs up is none of the operator's trouble."""
        del request
        _log.debug("metrics endpoint: request of %s failed", client_address, exc_info=True)


def start_metrics_server(port: int, *, ready: Callable[[], bool], host: str = "") -> MetricsServer:
    """Serves the metrics in a thread of its own, so that a busy event loop does not hide them.

    Args:
        port: 0 takes a free one.
        ready: What `/readyz` answers: 200 or 503; it is 503 as well if this raises.
        host: Address to listen on; all by default.

    Raises:
        StartError: The port is in use.
    """

    def is_ready() -> bool:
        try:
            return ready()
        except Exception:
            _log.warning("the readiness check failed", exc_info=True)
            return False

    class Handler(BaseHTTPRequestHandler):
        timeout = 10.0

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                body, content_type = render()
                self._answer(200, body, content_type)
            elif path == "/healthz":
                self._answer(200, b"ok\n")
            elif path == "/readyz":
                self._answer(*((200, b"ready\n") if is_ready() else (503, b"not ready\n")))
            else:
                self._answer(404, b"try /metrics, /healthz or /readyz\n")

        def _answer(self, status: int, body: bytes, content_type: str = "text/plain") -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Says nothing: a scrape every few seconds is no news."""

    try:
        server = _Server((host, port), Handler)
    except OSError as error:
        raise StartError(
            f"cannot serve metrics on port {port}: {error.strerror} (GRPC_METRICS_PORT)"
        ) from None
    return MetricsServer(server)
