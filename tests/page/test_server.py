import json
import re
import socket
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from fnn.page import Pupil, make_server, server
from fnn.page.server import CANVAS, PageServer
from fnn.run import RunError
from tests.page.conftest import serving

BINARY = "application/octet-stream"


def request(
    page: PageServer, method: str, action: str, body: bytes | None = None, **headers: str
) -> tuple[int, str, Any]:
    """Returns status, text and headers of the response. Headers have `_` for `-`; an empty one is left out."""
    connection = HTTPConnection("127.0.0.1", page.server_port, timeout=20)
    own = {"Host": page.host}
    if method == "POST":
        own |= {"Origin": f"http://{page.host}", "Content-Type": BINARY, "Content-Length": str(len(body or b""))}
    own |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection.putrequest(method, f"/{page.token}/{action}", skip_host=True, skip_accept_encoding=True)
    for name, value in own.items():
        if value:
            connection.putheader(name, value)
    connection.endheaders(body)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text, response.headers


def answer(page: PageServer, drawing: bytes, action: str = "answer") -> dict[str, Any]:
    status, text, _ = request(page, "POST", action, drawing)
    assert status == 200, text
    result: dict[str, Any] = json.loads(text)
    return result


def raw(page: PageServer, content: bytes) -> bytes:
    """Sends bytes and the end of the stream; returns all bytes of the response."""
    with socket.create_connection(("127.0.0.1", page.server_port), timeout=20) as client:
        received = b""
        with suppress(OSError):  # the server may have closed the connection already
            client.sendall(content)
            client.shutdown(socket.SHUT_WR)
        while part := client.recv(1 << 16):
            received += part
    return received


def test_page_is_one_file_with_a_strict_policy(server: PageServer) -> None:
    status, text, headers = request(server, "GET", "")
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    (nonce,) = set(re.findall(r'nonce="([^"]+)"', text))
    assert len(nonce) > 20
    policy = headers["Content-Security-Policy"]
    assert policy.startswith(f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; ")
    assert "unsafe" not in policy
    assert not re.search(r"(src|href)=\"(?!data:)", text)  # nothing comes from elsewhere
    assert nonce not in request(server, "GET", "")[1]  # new each time
    assert '"classes": ["0", "1"' in text


def test_class_names_cannot_end_the_script(pupil: Pupil) -> None:
    pupil.classes = ["</script><b>", "1"]
    with serving(pupil) as page:
        text = request(page, "GET", "")[1]
    assert "</script><b>" not in text
    assert r"\u003c/script>\u003cb>" not in text.replace(r"\u003c/script>\u003cb>", "", 1)


def test_answer_teach_undo_and_save(server: PageServer, drawing: bytes, tmp_path: Path) -> None:
    first = answer(server, drawing)
    assert sum(first["probabilities"]) == pytest.approx(1, abs=1e-3)
    assert first["chosen"] == np.argmax(first["probabilities"])
    assert len(b64decode(first["input"])) == len(b64decode(first["heat"])) == 28 * 28
    assert [view["path"] for view in first["views"]] == ["conv1", "maxpool1", "tanh1", "dense1"]
    assert len(b64decode(first["views"][0]["images"])) == np.prod(first["views"][0]["size"])
    other = (first["chosen"] + 1) % 10
    assert answer(server, drawing, f"answer/{other}")["chosen"] == other
    assert answer(server, drawing, f"teach/{other}")["lessons"] == 1
    assert answer(server, drawing)["probabilities"][other] > first["probabilities"][other]
    assert answer(server, b"", "save") == {"file": str(tmp_path / "taught-1.pkl")}
    assert answer(server, b"", "undo") == {"lessons": 0}
    assert answer(server, drawing) == first


def test_wrong_requests_get_a_status_from_400_on(server: PageServer, drawing: bytes) -> None:
    def status(method: str, action: str, body: bytes | None = None, **headers: str) -> int:
        return request(server, method, action, body, **headers)[0]

    assert status("GET", "page.html") == 404
    assert raw(server, f"GET /{server.token} HTTP/1.1\r\nHost: {server.host}\r\n\r\n".encode())[9:12] == b"404"
    assert status("GET", "../../etc/passwd") == 404
    assert status("GET", "", Host="localhost:80") == 403
    assert status("GET", "", Host="") == 403
    assert status("POST", "answer", drawing, Host="evil.example") == 403
    for origin in ("", "null", "http://evil.example", f"https://{server.host}", f"http://{server.host}.evil.example"):
        assert status("POST", "answer", drawing, Origin=origin) == 403
    for kind in ("", "text/plain", "application/json", f"{BINARY}; charset=utf-8"):
        assert status("POST", "answer", drawing, Content_Type=kind) == 415
    assert status("POST", "answer", drawing[:-1]) == 413
    assert status("POST", "answer", drawing + b"0") == 413
    assert status("POST", "undo", b"0") == 413
    assert status("POST", "answer", Content_Length="") == 411
    assert status("POST", "answer", Content_Length=str(1 << 40)) == 413
    assert status("POST", "answer", Content_Length="-1") == 413
    assert status("POST", "answer", drawing, Transfer_Encoding="chunked") == 411
    assert status("POST", "answer", bytes(CANVAS**2)) == 422
    for action in ("", "teach", "teach/10", "teach/-1", "answer/%31", "answer/1/", "undo/1", "erase", "answer?x=1"):
        assert status("POST", action, drawing) == 404
    for method in ("PUT", "DELETE", "HEAD", "OPTIONS", "BREW"):
        assert status(method, "") == 405
    assert answer(server, drawing)


def test_wrong_token(server: PageServer, drawing: bytes) -> None:
    server.token, token = "é" + server.token[1:], server.token
    status = raw(server, f"GET /{token}/ HTTP/1.1\r\nHost: {server.host}\r\n\r\n".encode()).split()[1]
    assert status == b"404"
    server.token = token
    assert answer(server, drawing)


@pytest.mark.parametrize(
    "content",
    [
        *(b"GET /\r\n", b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET  HTTP/1.1\r\n\r\n"),
        *(b"G" * 70_000 + b"\r\n", b"GET / HTTP/1.1\r\nA: " + b"x" * 70_000, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200),
        *(b"GET / HTTP/1.1\r\n\r\n", b"GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ],
)
def test_malformed_requests(server: PageServer, content: bytes) -> None:
    first, *_ = raw(server, content).split(b"\r\n")
    assert re.fullmatch(rb"HTTP/1\.1 4\d\d .*", first)


@pytest.mark.slow
def test_1000_mutated_requests_at_once_leave_the_page_working(server: PageServer, drawing: bytes) -> None:
    head = f"POST /{server.token}/answer HTTP/1.1\r\nHost: {server.host}\r\nOrigin: http://{server.host}\r\n"
    whole = f"{head}Content-Type: {BINARY}\r\nContent-Length: {len(drawing)}\r\n\r\n".encode()

    def send(seed: int) -> bytes:
        random, mutated = Random(seed), bytearray(whole)
        for _ in range(random.randint(1, 5)):
            place = random.randrange(len(mutated))
            mutated[place : place + random.randint(0, 3)] = random.randbytes(random.randint(0, 3))
        return raw(server, bytes(mutated) + drawing[: random.choice([0, 100, len(drawing)])])

    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(send, range(1000)))
    statuses = {match[1] for r in responses if (match := re.match(rb"HTTP/1\.1 (\d+) ", r))}
    assert statuses >= {b"400", b"403", b"404"}
    assert all(status < b"500" for status in statuses)
    assert not any(b"Traceback" in response for response in responses)
    assert answer(server, drawing)


def test_a_silent_client_does_not_block_others(
    server: PageServer, drawing: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port)) as silent:
        silent.sendall(b"POST /")
        assert answer(server, drawing)


def test_with_too_many_connections_those_without_the_token_end(
    pupil: Pupil, drawing: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)
    with serving(pupil) as page:
        client = HTTPConnection("127.0.0.1", page.server_port, timeout=20)
        silent: list[socket.socket] = []
        for _ in range(6):
            client.request("GET", f"/{page.token}/")
            client.sock.settimeout(20)
            assert client.getresponse().read().startswith(b"<!DOCTYPE html>")
            silent.append(socket.create_connection(("127.0.0.1", page.server_port), timeout=20))
            silent[-1].sendall(b"POST /")
        for quiet in silent[:-2]:
            assert quiet.recv(100).startswith((b"HTTP/1.1 4", b""))
        assert answer(page, drawing)
        assert len(page.connections) <= 2
        client.close()
        for quiet in silent:
            quiet.close()


def test_a_long_head_is_refused(server: PageServer) -> None:
    head = b"GET / HTTP/1.1\r\n" + b"".join(b"A%d: %s\r\n" % (i, b"x" * 1000) for i in range(99))
    assert raw(server, head + b"\r\n").startswith(b"HTTP/1.1 431 ")


def test_a_slow_body_ends(server: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fnn.page.server._Handler.timeout", 0.1)
    head = f"POST /{server.token}/undo HTTP/1.1\r\nHost: {server.host}\r\nOrigin: http://{server.host}\r\n"
    head = head.replace("undo", "answer") + f"Content-Type: {BINARY}\r\nContent-Length: {CANVAS**2}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as client:
        client.sendall(head.encode() + b"some")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 408 ")


def test_a_failing_net_gets_a_status(server: PageServer, drawing: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(image: Any, chosen: Any) -> None:
        raise IndexError("no such score")

    monkeypatch.setattr(server.pupil, "answer", fail)
    status, text, _ = request(server, "POST", "answer", drawing)
    assert (status, text) == (500, "the net failed: no such score")


def test_save_into_a_folder_that_is_gone(server: PageServer) -> None:
    server.pupil.folder = server.pupil.folder / "gone"
    status, text, _ = request(server, "POST", "save", b"")
    assert status == 409
    assert re.fullmatch(r"/.*gone.*: No such file or directory", text)


def test_all_pages_know_the_number_of_lessons(server: PageServer, drawing: bytes) -> None:
    assert '"lessons": 0' in request(server, "GET", "")[1]
    answer(server, drawing, "teach/3")
    assert '"lessons": 1' in request(server, "GET", "")[1]
    assert answer(server, drawing)["lessons"] == 1


def test_make_server_needs_a_free_port(server: PageServer, pupil: Pupil) -> None:
    with pytest.raises(RunError, match=f"--port: expected a free port, got {server.server_port}: "):
        make_server(pupil, server.server_port)
