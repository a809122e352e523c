"""One POST to a place that a client has named: only to addresses that it may reach, and no further.

The name is resolved here, once for each connection; every address that it has is checked, and the connection goes to one of
them. So no second answer of a name server counts. Host and certificate remain those of the name. There are no redirects, no
proxies, and nothing is read but the status.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import anyio
import anyio.to_thread
import httpcore

from store.addresses import Reach
from store.errors import TargetRefused

ATTEMPT_S = 15.0  # for all of it
CONNECT_S = 5.0
MOST_READ_BYTES = 2**16  # of an answer's body, so that its sender is not cut off; none of it is kept

Resolve = Callable[[str, int], Sequence[str]]


class PostFailed(Exception):
    """The POST came to nothing; says why."""


@dataclass(frozen=True)
class Post:
    """Where to, and what."""

    url: str
    headers: Mapping[str, str]
    body: bytes


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, by the system's resolver. It blocks."""
    return list(dict.fromkeys(str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))


async def post(one: Post, reach: Reach, *, resolve: Resolve = resolve, timeout_s: float = ATTEMPT_S) -> int:
    """Return the status of the answer.

    Args:
        one: what to send.
        reach: where it may go.
        resolve: finds a host's addresses; called once.
        timeout_s: for all of it, seconds.

    Raises:
        PostFailed: there was no answer.
    """
    try:
        with anyio.fail_after(timeout_s):
            return await _post(one, reach, resolve)
    except TimeoutError as error:
        raise PostFailed(f"no answer within {timeout_s:g} s") from error
    except TargetRefused as error:
        raise PostFailed(f"not sent: {error}") from error
    except httpcore.ConnectError as error:
        raise PostFailed("the connection was refused, or its certificate is not the host's") from error
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
        raise PostFailed(f"the connection broke off ({type(error).__name__})") from error


async def _post(one: Post, reach: Reach, resolve: Resolve) -> int:
    target = reach.target(one.url)
    headers = {"Host": target.authority, "Connection": "close", **one.headers}
    async with (
        httpcore.AsyncConnectionPool(
            ssl_context=_trust(), max_connections=1, network_backend=_Pinned(reach, resolve)
        ) as pool,
        pool.stream(
            "POST",
            httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path),
            headers=list(headers.items()),
            content=one.body,
            extensions={"timeout": {"connect": CONNECT_S, "read": ATTEMPT_S, "write": ATTEMPT_S}},
        ) as answer,
    ):
        left = MOST_READ_BYTES
        async for chunk in answer.aiter_stream():
            left -= len(chunk)
            if left < 0:
                break
        return answer.status


@cache
def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()  # it reads every authority's certificate, so once


class _Pinned(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, and to nothing else."""

    def __init__(self, reach: Reach, resolve: Resolve) -> None:
        self._reach, self._resolve = reach, resolve
        self._connect = httpcore.AnyIOBackend().connect_tcp

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = await anyio.to_thread.run_sync(self._resolve, host, port, abandon_on_cancel=True)
        except (OSError, UnicodeError) as error:
            raise PostFailed(f"{host} has no address") from error
        for address in addresses:
            self._reach.check(host, address)  # all, before the first is tried: a mixed answer is no honest one
        failure: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for address in addresses:
            try:
                return await self._connect(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or PostFailed(f"{host} has no address")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise TargetRefused("webhooks go to no sockets of this host")

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)
