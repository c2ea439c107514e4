"""An HTTP server on this computer, for tests of downloads and uploads."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

POLL = 0.01  # seconds; `shutdown` waits for the next poll


def start_server(handler: type[BaseHTTPRequestHandler]) -> tuple[ThreadingHTTPServer, str]:
    """Returns a server on a free port, which answers in a thread until `shutdown`, and its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(POLL,), daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"
