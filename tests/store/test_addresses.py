"""Where webhooks may go: read by one parser, and public."""

from __future__ import annotations

import ipaddress

import pytest

from store.addresses import Reach, is_public
from store.errors import TargetRefused

PRIVATE = [
    "0.0.0.0",  # noqa: S104
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",  # where clouds keep their keys
    "172.16.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",  # IPv4-compatible
    "::ffff:127.0.0.1",  # mapped
    "::ffff:10.0.0.1",
    "::ffff:0:127.0.0.1",  # translated
    "64:ff9b::127.0.0.1",  # NAT64
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",  # Teredo
    "2001:db8::1",
    "2002:7f00:1::",  # 6to4 of 127.0.0.1
    "2002:a00:1::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]
PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1", "2002:101:101::1"]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public_is_refused(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    with pytest.raises(TargetRefused):
        Reach().check("example.org", address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_is_not(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))
    Reach().check("example.org", address)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0177.0.0.1/",
        "https://0x7f.0.0.1/",
        "https://0x7f000001/",
        "https://017700000001/",
        "https://1.2.3/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[fe80::1%25eth0]/",
        "https://[fe80::1%eth0]/",
        "https://[v1.x]/",
        "https://[::1/",
        "https://example.org./",
        "https://①②⑦.0.0.1/",
        "https://exämple.org/",
        "https://example.org\\@127.0.0.1/",
        "https://example.org /",
        "https://example.org/a\r\nHost: evil",
        "https://example.org/\t",
        "https://user:password@example.org/",
        "https://@example.org/",
        "https://example.org/#part",
        "https://example.org:22/",
        "https://example.org:8080/",
        "https://example.org:0/",
        "https://example.org:65536/",
        "https://example.org:-1/",
        "https://example..org/",
        "https://-a.example/",
        "https:///path",
        "https:example.org",
        "//example.org/",
        "example.org",
        "ftp://example.org/",
        "file:///etc/passwd",
        "gopher://example.org/",
        "unix:///run/docker.sock",
        "https://example.org/" + "a" * 2000,
        "",
    ],
)
def test_a_url_that_a_webhook_may_not_have_is_refused(url: str) -> None:
    with pytest.raises(TargetRefused):
        Reach().target(url)


@pytest.mark.parametrize(
    ("url", "parts", "authority"),
    [
        ("https://example.org", ("https", "example.org", 443, "/"), "example.org"),
        ("HTTP://Example.ORG:443/a?b=c", ("http", "example.org", 443, "/a?b=c"), "example.org:443"),
        ("https://example.org:443/%2e%2e/?", ("https", "example.org", 443, "/%2e%2e/"), "example.org"),
        ("http://xn--exmple-cua.org/?a=/../b", ("http", "xn--exmple-cua.org", 80, "/?a=/../b"), "xn--exmple-cua.org"),
        ("https://1.1.1.1/x", ("https", "1.1.1.1", 443, "/x"), "1.1.1.1"),
        ("https://[2606:4700:4700::1111]/", ("https", "2606:4700:4700::1111", 443, "/"), "[2606:4700:4700::1111]"),
        ("https://hooks.4chat.example/", ("https", "hooks.4chat.example", 443, "/"), "hooks.4chat.example"),
    ],
)
def test_a_url_is_taken_apart_once(url: str, parts: tuple[str, str, int, str], authority: str) -> None:
    target = Reach().target(url)
    assert (target.scheme, target.host, target.port, target.path) == parts
    assert target.authority == authority


def test_an_operator_may_allow_hosts_networks_and_ports() -> None:
    reach = Reach(["Intranet.example", "10.1.0.0/16", "::1"], [443, 9000])

    reach.check("intranet.example", "192.168.0.7")
    reach.check("anything.example", "10.1.2.3")
    assert reach.target("http://[::1]:9000/").port == 9000
    assert reach.target("http://10.1.2.3:9000/").host == "10.1.2.3"
    for host, address in (("other.example", "192.168.0.7"), ("anything.example", "10.2.0.1")):
        with pytest.raises(TargetRefused):
            reach.check(host, address)
    with pytest.raises(TargetRefused):
        reach.target("http://[::1]/")  # port 80 is no longer among them
