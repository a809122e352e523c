"""Which URLs a webhook may have, and which addresses it may reach: public ones, and what the operator lists.

A URL is read once, here, and handed on in parts, so that no second reading of it can differ. A name says nothing about where
it leads: the addresses it has at the moment of the connection are checked, and connected to (worker/posting.py).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

from store.errors import TargetRefused

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

LONGEST_URL = 2000  # characters
PORTS = {"http": 80, "https": 443}
VISIBLE = re.compile(r"[\x21-\x7e]+")
NAME = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
NUMBER = re.compile(r"\d+|0x[0-9a-f]*")  # a name that ends in one is an IPv4 address to many programs (WHATWG URL)

NAT64 = ipaddress.ip_network("64:ff9b::/96")  # an IPv4 address in its last 32 bits (RFC 6052)
# What `is_global` of some Python releases lets pass, though nothing public is there.
NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        ("192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48", "3fff::/20", "5f00::/16", "fec0::/10"),
    )
)


@dataclass(frozen=True)
class Target:
    """Where a webhook goes."""

    scheme: str  # http or https
    host: str  # a name, or an address without brackets
    port: int
    path: str  # with the query

    @property
    def authority(self) -> str:
        """As the Host header names it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True)
class Reach:
    """What may be reached beside public addresses on the usual ports.

    Args:
        allowed: host names, addresses and networks (`10.0.0.0/8`).
        ports: those that may be named.
    """

    allowed: Collection[str] = ()
    ports: Collection[int] = (80, 443)

    def target(self, url: str) -> Target:
        """Return where a URL leads.

        Raises:
            TargetRefused: it is no URL that a webhook may have; says why.
        """
        if len(url) > LONGEST_URL or not VISIBLE.fullmatch(url) or "\\" in url:
            raise TargetRefused(f"a URL has at most {LONGEST_URL:,} visible ASCII characters, and no backslash")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise TargetRefused(f"this is no URL: {error}") from error
        scheme, host = parts.scheme.lower(), parts.hostname or ""
        if scheme not in PORTS or not host:
            raise TargetRefused("write http:// or https:// and a host")
        if "@" in parts.netloc:
            raise TargetRefused("it holds a user or a password, which would be sent in clear or logged on the way")
        if "#" in url:
            raise TargetRefused("it has a fragment, which is never sent")
        port = PORTS[scheme] if port is None else port
        if port not in self.ports:
            raise TargetRefused(f"port {port} is not one of {', '.join(map(str, sorted(self.ports)))}")
        if "[" in parts.netloc and not isinstance(_address(host), ipaddress.IPv6Address):
            raise TargetRefused(f"[{host}] is no IPv6 address")
        self._check_host(host)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return Target(scheme, host, port, path)

    def check(self, host: str, address: str) -> None:
        """Return where a host may be reached at an address that it has.

        Raises:
            TargetRefused: it is not public, and neither of the two is allowed.
        """
        found = _address(address)
        if found is None or not (is_public(found) or self._is_allowed(host, found)):
            raise TargetRefused(f"{host} has an address that is not public")

    def _check_host(self, host: str) -> None:
        address = _address(host)
        if address is not None:
            self.check(host, host)
        elif NUMBER.fullmatch(host.rpartition(".")[2]):
            raise TargetRefused(f"{host} is an address in an unusual form; write it as four decimal numbers")
        elif not NAME.fullmatch(host):
            raise TargetRefused(f"{host} is no host name; write names of other alphabets in Punycode (xn--…)")

    def _is_allowed(self, host: str, address: Address) -> bool:
        networks = [network for network in map(_network, self.allowed) if network is not None]
        return host in map(str.lower, self.allowed) or any(address in network for network in networks)


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet, also where it only wraps another address."""
    if isinstance(address, ipaddress.IPv6Address) and (inner := _wrapped(address)) is not None:
        return is_public(inner)
    return address.is_global and not (
        address.is_private
        or address.is_multicast
        or address.is_reserved
        or address.is_link_local
        or address.is_loopback
        or address.is_unspecified
        or any(address in network for network in NOT_PUBLIC)
    )


def _wrapped(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that routers or the system take from this one: mapped, 6to4, or NAT64."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF) if address in NAT64 else None


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text) if "%" not in text else None
    except ValueError:
        return None


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None
