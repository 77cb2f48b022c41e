"""Clients that stand still: in the head of a request, in its body, or while their answer waits."""

import json
import socket
import time
import urllib.parse
from collections.abc import Callable, Iterator

import pytest
from openai_server import Running, wait_until

from keras_gpt.serving.openai import Limits
from keras_gpt.serving.openai.keys import Keys

SECONDS = 0.6
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 60\r\n\r\n"
BODY = b'{"model": "tiny", "prompt": "the cat", "max_tokens": 1}     '


@pytest.fixture(scope="module")
def impatient(start) -> Iterator[Running]:
    with start(limits=Limits(max_batch=2, client_timeout=SECONDS), send_buffer=4096) as server:
        yield server


@pytest.fixture
def connect(impatient) -> Callable[[], socket.socket]:
    return lambda: connected(impatient)


def connected(server: Running) -> socket.socket:
    place = urllib.parse.urlsplit(server.address)
    connection = socket.socket()
    connection.settimeout(20)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((place.hostname, place.port))
    return connection


def received(connection: socket.socket) -> bytes:
    data = b""
    try:
        while piece := connection.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


def trickle(connection: socket.socket, data: bytes) -> tuple[bytes, float]:
    """Send a byte now and then until the other side ends; give what it said, and how long it took."""
    start = time.monotonic()
    connection.settimeout(0.05)
    said = b""
    for place in range(len(data)):
        try:
            connection.sendall(data[place : place + 1])
            # All that has come: of an answer's head and body, a byte that the other side did not want
            # may have the second be lost.
            while piece := connection.recv(65536):
                said += piece
            break
        except TimeoutError:
            continue
        except OSError:
            break
    else:
        pytest.fail("the server took it all")
    return said, time.monotonic() - start


def test_nothing_comes(connect):
    with connect() as connection:
        start = time.monotonic()
        assert received(connection) == b""
        assert SECONDS * 0.9 < time.monotonic() - start < 10


def test_a_head_that_comes_by_the_byte(connect):
    with connect() as connection:
        said, seconds = trickle(connection, b"GET /v1/models HTTP/1.1\r\nhost: " + b"a" * 400)
    assert said == b""
    assert SECONDS * 0.9 < seconds < 10


def test_a_second_head_that_comes_by_the_byte(connect):
    with connect() as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n")
        answer = connection.recv(65536)
        while not answer.endswith(b'{"live": true}'):  # the body may come behind the head
            answer += connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200")
        said, seconds = trickle(connection, b"GET /health/live HTTP/1.1\r\nhost: " + b"a" * 400)
    assert said == b""
    assert seconds < 10


def test_a_body_that_comes_by_the_byte(impatient, connect):
    long = HEAD.replace(b"60", b"1000")
    with connect() as connection:
        connection.sendall(long)
        said, seconds = trickle(connection, b" " * 900)
    assert said.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in said
    assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"
    assert SECONDS * 0.9 < seconds < 10
    assert impatient.service.in_flight == 0


def test_a_body_that_comes_in_time(connect):
    with connect() as connection:
        for piece in (HEAD[:30], HEAD[30:], BODY[:20], BODY[20:]):
            connection.sendall(piece)
            time.sleep(SECONDS / 4)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_the_body_of_a_request_that_was_refused(start, tmp_path, monkeypatch):
    # It is answered before its body has come, which may then not come for ever.
    monkeypatch.setattr("keras_gpt.serving.openai.connections._GRACE_SECONDS", 0.1)
    (tmp_path / "keys").write_text('{"key": "k", "name": "k"}')
    limits = Limits(client_timeout=SECONDS)
    with start(limits=limits, keys=Keys.from_file(tmp_path / "keys")) as server:
        with connected(server) as connection:
            connection.sendall(HEAD.replace(b"60", b"1000"))
            said, seconds = trickle(connection, b" " * 900)
        assert said.startswith(b"HTTP/1.1 401")
        assert seconds < 10


def test_an_answer_that_nobody_reads(impatient, connect):
    with connect() as connection:
        for _ in range(15):  # more than what the buffers between hold
            connection.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: a\r\n\r\n")
        wait_until(lambda: impatient.service.in_flight > 0)
        wait_until(lambda: not impatient.server.server_state.connections, 60)
    wait_until(lambda: impatient.service.in_flight == 0)


def test_an_answer_that_is_read_slowly(connect):
    with connect() as connection:
        for _ in range(10):
            connection.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: a\r\n\r\n")
        start, data = time.monotonic(), b""
        while data.count(b"HTTP/1.1 200") < 10 or time.monotonic() < start + 3 * SECONDS:
            piece = connection.recv(4096)
            if not piece:
                break
            data += piece
            time.sleep(0.02)
    assert data.count(b"HTTP/1.1 200") == 10
