"""The server of the page: HTTP on this computer only, for clients that know a secret address.

The address contains a random token, so other programs and other pages cannot guess it. Host and Origin must be those of
the server, so no other site can use a browser to send requests. Bodies must have exactly the expected size.
"""

import json
import re
import secrets
from collections import OrderedDict
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from io import BytesIO
from socket import SHUT_RDWR, SHUT_WR
from typing import Any, cast

import numpy as np

from fnn.data.pictures import fit_digit
from fnn.page.answers import encode
from fnn.page.lessons import Pupil
from fnn.run.exits import describe
from fnn.run.folder import RunError

CANVAS = 280  # pixels of the drawing in each direction, a byte of ink for each
MAX_CONNECTIONS = 64
MAX_HEAD = 1 << 14  # bytes of the head of a request
TIMEOUT = 10.0  # seconds for which a connection may be silent
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
POLICY = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class PageServer(ThreadingHTTPServer):
    """The server of one page. It answers until `shutdown`."""

    daemon_threads = True
    block_on_close = False  # a client that is still connected does not delay the end of the program
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, pupil: Pupil, port: int) -> None:
        self.pupil, self.token = pupil, secrets.token_urlsafe(16)
        self.connections: OrderedDict[Any, None] = OrderedDict()  # the last one had the latest request with the token
        super().__init__(("127.0.0.1", port), _Handler)
        self.host = f"127.0.0.1:{self.server_port}"
        self.address = f"http://{self.host}/{self.token}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts a thread for the connection. If there are too many, ends the first: clients with the token stay."""
        self.connections[request] = None
        if len(self.connections) > MAX_CONNECTIONS:
            with suppress(OSError):
                self.connections.popitem(last=False)[0].shutdown(SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Closes the connection."""
        self.connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: clients may disconnect at any time."""


def make_server(pupil: Pupil, port: int = 0) -> PageServer:
    """Returns the server, with the page's `address`; port 0 means a free one. `serve_forever` answers the requests.

    Raises RunError if the port is not free.
    """
    try:
        return PageServer(pupil, port)
    except OSError as error:
        raise RunError(f"--port: expected a free port, got {port}: {error.strerror}") from error


class _RequestError(Exception):
    """A request that gets an error: a status, and what was expected."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it would delay each answer by 40 ms
    timeout = TIMEOUT
    server_version, sys_version = "fnn", ""

    @property
    def page(self) -> PageServer:
        return cast(PageServer, self.server)

    def parse_request(self) -> bool:
        """Reads the head of a request. Refuses long ones, and HTTP 0.9, whose responses have no status."""
        head, stream = b"", self.rfile
        while len(head) <= MAX_HEAD and (line := stream.readline(MAX_HEAD)).strip():
            head += line
        self.command, self.requestline, self.rfile = "", "", BytesIO(head + b"\r\n")
        try:
            if len(head) > MAX_HEAD:
                raise _RequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"expected at most {MAX_HEAD} bytes")
            parsed = super().parse_request()
            if parsed and self.request_version == "HTTP/0.9":
                raise _RequestError(HTTPStatus.BAD_REQUEST, "expected HTTP/1.1")
            return parsed
        except _RequestError as error:
            self.send_error(*error.args)
            return False
        finally:
            self.rfile = stream

    def finish(self) -> None:
        """Ends the connection. What the client still sends is read, or else it could lose the response."""
        super().finish()
        with suppress(OSError):
            self.connection.shutdown(SHUT_WR)
            self.connection.settimeout(1)
            for _ in range(16):
                if not self.connection.recv(1 << 16):
                    break

    def do_GET(self) -> None:
        """Sends the page."""
        try:
            if self._find_action() != "":
                raise _RequestError(HTTPStatus.NOT_FOUND, "expected the address of the page")
            nonce = secrets.token_urlsafe(16)
            pupil = self.page.pupil
            settings = {"classes": pupil.classes, "run": pupil.folder.resolve().name, "size": CANVAS}
            settings |= {"teaches": pupil.data is not None, "lessons": pupil.lessons}
            text = (files("fnn.page") / "page.html").read_text("utf-8").replace("NONCE", nonce)
            text = text.replace("SETTINGS", json.dumps(settings).replace("<", "\\u003c"))
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", text.encode(), POLICY.format(nonce))
        except _RequestError as error:
            self.send_error(*error.args)

    def do_POST(self) -> None:
        """Answers a drawing, teaches, undoes or saves; sends JSON."""
        try:
            action, _, number = self._find_action().partition("/")
            if self.headers.get_all("Origin") != [f"http://{self.page.host}"]:
                raise _RequestError(HTTPStatus.FORBIDDEN, "expected the origin of the page")
            result = self._act(action, number)
            self._send(HTTPStatus.OK, "application/json", json.dumps(result).encode())
        except _RequestError as error:
            self.send_error(*error.args)
        except (RunError, OSError) as error:
            self.send_error(HTTPStatus.CONFLICT, describe(error))
        except Exception as error:  # the net may have operators from anywhere
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, f"the net failed: {error}")

    def _find_action(self) -> str:
        """Returns what follows the token in the path. Refuses other hosts and other tokens."""
        if self.headers.get_all("Host") != [self.page.host]:
            raise _RequestError(HTTPStatus.FORBIDDEN, f"expected the host {self.page.host}")
        start = f"/{self.page.token}/"
        if not secrets.compare_digest(self.path[: len(start)].encode(), start.encode()):
            raise _RequestError(HTTPStatus.NOT_FOUND, "expected the address that the program printed")
        with suppress(KeyError):
            self.page.connections.move_to_end(self.connection)
        return self.path[len(start) :]

    def _act(self, action: str, number: str) -> dict[str, Any]:
        pupil, classes = self.page.pupil, len(self.page.pupil.classes)
        if action in ("undo", "save") and not number:
            self._read_body(0)
            return pupil.undo() if action == "undo" else pupil.save()
        is_class = re.fullmatch("[0-9]{1,4}", number) is not None and int(number) < classes
        if action not in ("answer", "teach") or not (is_class or (action == "answer" and not number)):
            raise _RequestError(HTTPStatus.NOT_FOUND, "expected answer, answer/CLASS, teach/CLASS, undo or save")
        ink = np.frombuffer(self._read_body(CANVAS * CANVAS), np.uint8).reshape(CANVAS, CANVAS)
        if not ink.any():
            raise _RequestError(HTTPStatus.UNPROCESSABLE_ENTITY, "expected a drawing, got no ink")
        image = fit_digit(ink.astype(np.float32))
        if action == "teach":
            return pupil.teach(image, int(number))
        answer = pupil.answer(image, int(number) if number else None)
        return answer.as_json() | {"input": encode(image), "lessons": pupil.lessons}

    def _read_body(self, size: int) -> bytes:
        """Reads a body of exactly that size."""
        lengths = self.headers.get_all("Content-Length")
        if "Transfer-Encoding" in self.headers or lengths is None:
            raise _RequestError(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
        if self.headers.get_all("Content-Type") != ["application/octet-stream"]:
            raise _RequestError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/octet-stream")
        if lengths != [str(size)]:
            raise _RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected a body of {size} bytes")
        try:
            body = self.rfile.read(size)
        except TimeoutError:
            raise _RequestError(HTTPStatus.REQUEST_TIMEOUT, f"expected a body of {size} bytes") from None
        if len(body) < size:
            raise _RequestError(HTTPStatus.BAD_REQUEST, f"expected a body of {size} bytes, got {len(body)}")
        return body

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Sends the message as plain text and ends the connection. Wrong requests get a status from 400 to 499."""
        code = {HTTPStatus.NOT_IMPLEMENTED: 405, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: 400}.get(HTTPStatus(code), code)
        self.close_connection, self.request_version = True, self.protocol_version  # so that there is a status line
        text = message or HTTPStatus(code).phrase
        self._send(HTTPStatus(code), "text/plain; charset=utf-8", text.encode("utf-8", "replace"))

    def _send(self, status: HTTPStatus, kind: str, body: bytes, policy: str = "default-src 'none'") -> None:
        self.send_response(status)
        own = {"Content-Type": kind, "Content-Length": str(len(body)), "Content-Security-Policy": policy}
        if self.close_connection:
            own["Connection"] = "close"
        for name, value in (HEADERS | own).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing."""
