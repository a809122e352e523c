"""Heads of requests that are too large."""

from __future__ import annotations

import socket

import httpx
import pytest

from app.heads import MAX_HEAD_BYTES
from tests.app.conftest import Service


@pytest.mark.parametrize("begin", [b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ", b"GET /", b"X" * 10])
def test_a_head_that_never_ends_is_refused_before_it_fills_memory(service: Service, begin: bytes) -> None:
    url = httpx.URL(service.url)
    with socket.create_connection((url.host, url.port or 0), timeout=10) as connection:
        try:
            connection.sendall(begin)
            for _ in range(100):
                connection.sendall(b"a" * MAX_HEAD_BYTES)
            answer = connection.recv(100)
        except ConnectionError:  # it was closed while we were still writing
            answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")


def test_many_small_heads_on_one_connection_and_a_large_body_are_served(service: Service) -> None:
    for _ in range(3):
        assert service.http.get("/healthz", headers={"X": "x" * (MAX_HEAD_BYTES // 2)}).status_code == 200
    response = service.http.post("/v1/generations", json={"model": "m", "seeds": [1] * MAX_HEAD_BYTES})
    assert response.status_code == 422
