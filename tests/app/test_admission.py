"""Too much from one key, and too many wrong keys from one address."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from store.database import Database
from tests.app.conftest import Service, assert_problem, running

WRONG = "dk_" + "0" * 32 + "_" + "x" * 43


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """At most five requests a minute by a key."""
    with running(tmp_path_factory.mktemp("strict"), rate_per_key=5) as service:
        yield service


def test_a_key_that_asks_too_often_is_told_when_to_come_again(strict: Service) -> None:
    with strict.client("read") as http:
        answers = [http.get("/v1/jobs") for _ in range(6)]

    assert [answer.status_code for answer in answers[:5]] == [200] * 5
    assert [answer.headers["ratelimit-policy"] for answer in answers] == ['"requests";q=5;w=60'] * 6
    left = [answer.headers["ratelimit"].partition(";t=")[0] for answer in answers]
    assert left == [
        '"requests";r=4',
        '"requests";r=3',
        '"requests";r=2',
        '"requests";r=1',
        '"requests";r=0',
        '"requests";r=0',
    ]
    problem = assert_problem(answers[5], 429, "rate_limited")
    assert 1 <= int(answers[5].headers["retry-after"]) <= 120
    assert problem["limit"] == 5


def test_another_key_of_the_same_account_has_a_rate_of_its_own(strict: Service) -> None:
    with strict.client("read") as one, strict.client("read") as other:
        for _ in range(6):
            last = one.get("/v1/jobs")
        assert last.status_code == 429
        assert other.get("/v1/jobs").status_code == 200


def test_a_key_may_have_its_own_rate_or_none(strict: Service) -> None:
    for own, statuses in ((2, [200, 200, 429]), (0, [200] * 12)):
        key = strict.make_key("read", limits={"requests_per_minute": own})
        with strict.client(key=key) as http:
            answers = [http.get("/v1/jobs") for _ in statuses]
        assert [answer.status_code for answer in answers] == statuses
        assert ("ratelimit" in answers[0].headers) == (own > 0)


def test_what_is_open_needs_no_key_and_has_no_rate(strict: Service) -> None:
    with strict.client() as http:
        assert {http.get("/healthz").status_code for _ in range(20)} == {200}


def test_a_rate_holds_while_redis_is_away_and_no_request_waits_for_it(tmp_path: Path) -> None:
    """The counters of `running` are memory; here they are a Redis that is not there."""
    from store.rates import open_counters

    with running(tmp_path, rate_per_key=5) as service:
        service.app.state.rates._counters = open_counters("redis://127.0.0.1:1/0")
        with service.client("read") as http:
            assert [http.get("/v1/jobs").status_code for _ in range(6)] == [200] * 5 + [429]


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Service]:
    """At most three wrong keys a minute from an address."""
    with running(tmp_path, rate_failures_per_address=3) as service:
        yield service


def test_an_address_that_guesses_is_told_to_stop_and_nothing_is_looked_up_for_it(
    guarded: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with guarded.client(key=WRONG) as guesser:
        answers = [guesser.get("/v1/jobs") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
        assert int(answers[3].headers["retry-after"]) >= 1

        def untouched(*_: object, **__: object) -> contextlib.AbstractContextManager[object]:
            raise AssertionError("it was looked up")

        monkeypatch.setattr(Database, "snapshot", untouched)
        assert_problem(guesser.get("/v1/jobs"), 429, "rate_limited")


def test_who_is_known_goes_on_although_others_guess_from_the_same_address(guarded: Service) -> None:
    assert guarded.http.get("/v1/jobs").status_code == 200
    fresh = guarded.make_key("read")
    with guarded.client(key=WRONG) as guesser:
        for _ in range(5):
            guesser.get("/v1/jobs")

    assert guarded.http.get("/v1/jobs").status_code == 200
    with guarded.client(key=fresh) as http:
        assert http.get("/v1/jobs").status_code == 429  # not known here yet: it waits


def test_a_request_without_a_key_is_no_guess(guarded: Service) -> None:
    with guarded.client() as nobody:
        assert {nobody.get("/v1/jobs").status_code for _ in range(10)} == {401}


def test_headers_of_a_proxy_that_is_not_ours_do_not_make_an_address(guarded: Service) -> None:
    """Who may say where others come from is uvicorn's `forwarded_allow_ips`: loopback alone, which is where tests are."""
    statuses = [
        httpx.get(
            f"{guarded.url}/v1/jobs",
            headers={"Authorization": f"Bearer {WRONG}", "X-Real-IP": f"198.51.100.{number}"},
            trust_env=False,
        ).status_code
        for number in range(5)
    ]
    assert statuses == [401, 401, 401, 429, 429]
