"""A server of MNIST's files on this machine, as mirrors serve them."""

import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def make_mirror(files: dict[str, bytes], cut: bool = False, pause: float = 0) -> tuple[ThreadingHTTPServer, list[str]]:
    """Returns a server of these files below /mnist/, and the list of requests. `serve_forever` answers them.

    If `cut`, it serves only half of each file. Between the halves it waits `pause` seconds.
    """
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/mnist/")
            requests.append(name)
            if name not in files:
                return self.send_error(404)
            body, half = files[name], len(files[name]) // 2
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:half])
            if not cut:
                time.sleep(pause)
                self.wfile.write(body[half:])
            return None

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    return server, requests


def url_of(server: ThreadingHTTPServer) -> str:
    """Returns the address of the files."""
    return f"http://127.0.0.1:{server.server_port}/mnist/"
