"""One POST to a place that a client has named, over real sockets."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import pytest

from store.addresses import Reach
from tests.worker.receiving import Receiver, receiving
from worker.posting import Post, PostFailed, Resolve, post

BODY = b'{"type": "job.succeeded"}'


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def send(url: str, reach: Reach, resolve: Resolve | None = None, timeout_s: float = 10.0) -> int:
    """Posts; without a resolver every name is refused one."""

    def nobody(host: str, port: int) -> list[str]:
        return [host]

    async def run() -> int:
        return await post(Post(url, {"X-Mine": "1"}, BODY), reach, resolve=resolve or nobody, timeout_s=timeout_s)

    return anyio.run(run)


def loopback(port: int) -> Reach:
    return Reach(["127.0.0.0/8"], [port])


def test_it_brings_the_body_and_the_name(receiver: Receiver) -> None:
    resolved = []

    def resolve(host: str, port: int) -> list[str]:
        resolved.append((host, port))
        return ["127.0.0.1"]

    url = f"http://hooks.example:{receiver.port}/a/b?c=d"
    assert send(url, loopback(receiver.port), resolve) == 204

    [got] = receiver.received
    assert (got.path, got.body) == ("/a/b?c=d", BODY)
    assert got.headers["Host"] == f"hooks.example:{receiver.port}"
    assert got.headers["X-Mine"] == "1"
    assert resolved == [("hooks.example", receiver.port)]  # once


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["1.1.1.1", "127.0.0.1"],
        ["::ffff:127.0.0.1"],
        ["0.0.0.0"],  # noqa: S104
        ["::1"],
        ["nonsense"],
    ],
)
def test_a_name_with_a_private_address_is_never_connected_to(receiver: Receiver, addresses: list[str]) -> None:
    public_only = Reach([], [receiver.port])
    with pytest.raises(PostFailed, match="not public"):
        send(f"http://rebound.example:{receiver.port}/", public_only, lambda *_: addresses)
    assert receiver.received == []


def test_a_private_address_in_the_url_is_never_connected_to(receiver: Receiver) -> None:
    with pytest.raises(PostFailed, match="not public"):
        send(receiver.url, Reach([], [receiver.port]))
    assert receiver.received == []


def test_a_second_answer_of_the_resolver_does_not_count(receiver: Receiver) -> None:
    """The address that was checked is the one that is connected to, whatever the name leads to a moment later."""
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    assert send(f"http://twice.example:{receiver.port}/", loopback(receiver.port), lambda *_: next(answers)) == 204
    assert next(answers) == ["127.0.0.2"]  # nobody asked for it


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    with receiving() as elsewhere:
        receiver.answer = lambda _: (307, {"Location": elsewhere.url})
        assert send(receiver.url, Reach(["127.0.0.1"], [receiver.port, elsewhere.port])) == 307
    assert elsewhere.received == []


def test_proxies_of_the_environment_are_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert send(receiver.url, loopback(receiver.port)) == 204
    assert proxy.received == []


def test_a_name_without_an_address_or_a_port_without_a_listener_is_said_to_be_so() -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror("no such name")

    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # and does not listen
        port = reserved.getsockname()[1]
        with pytest.raises(PostFailed, match="has no address"):
            send(f"http://nobody.example:{port}/", loopback(port), unknown)
        with pytest.raises(PostFailed, match="has no address"):
            send(f"http://nobody.example:{port}/", loopback(port), lambda *_: [])
        with pytest.raises(PostFailed, match="refused"):
            send(f"http://127.0.0.1:{port}/", loopback(port))


@contextmanager
def dripping(first: bytes, drop: bytes) -> Iterator[tuple[int, list[int]]]:
    """A server that answers with `first` and then with drops for ever; and how many bytes it got rid of."""
    sent = [0]
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                try:
                    connection.sendall(first)
                    while True:
                        connection.sendall(drop)
                        sent[0] += len(drop)
                        if len(drop) < 100:
                            time.sleep(0.02)  # slow on purpose: that is the attack
                except OSError:
                    pass

        thread = threading.Thread(target=serve, name="dripping")
        thread.start()
        yield listener.getsockname()[1], sent
        thread.join(10)
        assert not thread.is_alive()


def test_an_answer_that_never_ends_is_cut_off_by_its_size() -> None:
    with dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65_536) as (port, sent):
        assert send(f"http://127.0.0.1:{port}/", loopback(port)) == 200
    assert sent[0] < 50_000_000


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_an_answer_that_drips_is_cut_off_by_its_time(first: bytes) -> None:
    with dripping(first, b"H") as (port, _), pytest.raises(PostFailed, match=r"no answer within|broke off"):
        send(f"http://127.0.0.1:{port}/", loopback(port), timeout_s=0.5)


def test_tls_asks_for_the_name_and_refuses_a_certificate_that_is_not_its() -> None:
    asked: list[str | None] = []

    def note(_socket: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        asked.append(name)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = note
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, pytest.raises(OSError):
                context.wrap_socket(connection, server_side=True)

        thread = threading.Thread(target=serve, name="tls")
        thread.start()
        port = listener.getsockname()[1]
        with pytest.raises(PostFailed, match="certificate"):
            send(f"https://hooks.example:{port}/", loopback(port), lambda *_: ["127.0.0.1"])
        thread.join(10)
    assert asked == ["hooks.example"]
