"""The client's own logic: pages, names, errors, uploads, and event streams that break."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from app import client as client_module
from app.client import Client, ClientError, Event, parse_events

Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(client_module, "LONGEST_PAUSE_S", 0.0)


def client_of(handler: Handler) -> Client:
    return Client("http://darkroom.test", transport=httpx.MockTransport(handler))


class Broken(httpx.SyncByteStream):
    """A body that breaks off."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __iter__(self) -> Iterator[bytes]:
        yield self._text.encode()
        raise httpx.ReadError("connection reset")


def event(number: int, kind: str, **data: Any) -> str:
    return f"id: {number}-0\nevent: {kind}\ndata: {json.dumps(data)}\n\n"


def test_lists_are_read_page_by_page() -> None:
    rows = [{"id": f"job_{number:03d}"} for number in range(250)]
    asked = []

    def pages(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.params.multi_items())
        after = request.url.params.get("after")
        start = next((place + 1 for place, row in enumerate(rows) if row["id"] == after), 0)
        end = start + int(request.url.params["limit"])
        return httpx.Response(200, json={"data": rows[start:end], "has_more": end < len(rows)})

    with client_of(pages) as client:
        assert client.jobs(status=["queued", "running"]) == rows
        assert len(asked) == 3
        assert asked[1] == [("status", "queued"), ("status", "running"), ("limit", "100"), ("after", "job_099")]
        assert client.jobs(limit=120) == rows[:120]
        assert asked[-1][0] == ("limit", "20")


def catalogue(request: httpx.Request) -> httpx.Response:
    models = [{"id": "mdl_1", "name": "cats"}, {"id": "mdl_2", "name": "dogs"}, {"id": "mdl_3", "name": "dogs"}]
    path = request.url.path.removeprefix("/v1/models")
    if not path:
        return httpx.Response(200, json={"data": models, "has_more": False})
    found = [model for model in models if f"/{model['id']}" == path]
    return httpx.Response(200, json=found[0]) if found else httpx.Response(404, json={"code": "model_not_found"})


def test_a_model_is_found_by_id_and_by_a_name_that_only_one_has() -> None:
    with client_of(catalogue) as client:
        assert client.model("mdl_2")["id"] == "mdl_2"
        assert client.model("cats")["id"] == "mdl_1"


def test_a_name_that_several_have_is_refused_with_their_ids() -> None:
    with client_of(catalogue) as client, pytest.raises(ClientError, match="mdl_2, mdl_3") as caught:
        client.model("dogs")
    assert caught.value.code == "ambiguous_name"


@pytest.mark.parametrize("name", ["mdl_9", "birds"])
def test_a_name_or_id_that_nothing_has_says_how_to_list(name: str) -> None:
    with client_of(catalogue) as client, pytest.raises(ClientError, match=f"{name}.*darkroom models list"):
        client.model(name)


def test_a_problem_becomes_an_error_with_code_message_parameter_and_remedy() -> None:
    problem = {
        "type": "about:blank",
        "title": "Unprocessable",
        "status": 422,
        "detail": "n: 0 is too few",
        "code": "invalid_parameter",
        "parameter": "/n",
        "remedy": "ask for 1 to 10000",
    }

    with (
        client_of(lambda _: httpx.Response(422, json=problem)) as client,
        pytest.raises(ClientError) as caught,
    ):
        client.generate("mdl_1", n=0)

    error = caught.value
    assert (error.status, error.code, error.parameter) == (422, "invalid_parameter", "/n")
    assert str(error) == "invalid_parameter: n: 0 is too few (/n); ask for 1 to 10000"


def test_an_error_that_is_no_problem_is_told_by_its_status() -> None:
    with (
        client_of(lambda _: httpx.Response(502, text="<h1>Bad gateway</h1>")) as client,
        pytest.raises(ClientError) as caught,
    ):
        client.kinds()
    assert (caught.value.status, caught.value.code) == (502, "http_502")


def test_where_nothing_answers_the_remedy_is_to_start_it() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    with client_of(refuse) as client, pytest.raises(ClientError, match="start it with `darkroom up`") as caught:
        client.jobs()
    assert caught.value.code == "unreachable"
    assert caught.value.status is None


def test_an_upload_arrives_whole_and_tells_how_far_it_is() -> None:
    archive = bytes(range(256)) * 1024
    received = []
    told: list[int] = []

    def receive(request: httpx.Request) -> httpx.Response:
        received.append(request.read())
        return httpx.Response(202, json={"id": "job_1"})

    with client_of(receive) as client:
        job = client.upload(io.BytesIO(archive), name="cats", resolution=64, on_progress=told.append)

    assert job == {"id": "job_1"}
    assert archive in received[0]
    assert b'name="resolution"\r\n\r\n64' in received[0]
    assert told == sorted(told)
    assert told[-1] == len(archive)
    assert len(told) > 2


def test_a_stream_that_breaks_is_taken_up_after_the_last_event() -> None:
    asked_after = []
    streams = [
        httpx.Response(200, stream=Broken(event(1, "snapshot", status="running") + event(2, "progress", done=1))),
        httpx.Response(503, json={"code": "redis_unavailable"}),
        httpx.Response(200, text=event(3, "progress", done=2)),  # ended without `done`
        httpx.Response(200, text=": still here\n\n" + event(4, "done", status="succeeded")),
    ]

    def stream(request: httpx.Request) -> httpx.Response:
        asked_after.append(request.headers.get("last-event-id"))
        return streams[len(asked_after) - 1]

    with client_of(stream) as client:
        told = list(client.events("job_1"))

    assert [(one.id, one.type) for one in told] == [
        ("1-0", "snapshot"),
        ("2-0", "progress"),
        ("3-0", "progress"),
        ("4-0", "done"),
    ]
    assert asked_after == [None, "2-0", "2-0", "3-0"]


def test_watching_a_job_that_has_ended_ends_with_its_snapshot() -> None:
    ended = event(1, "snapshot", status="failed")
    with client_of(lambda _: httpx.Response(200, text=ended)) as client:
        assert [one.type for one in client.events("job_1")] == ["snapshot"]


def test_watching_a_job_that_is_not_there_fails_at_once() -> None:
    problem = {"code": "job_not_found", "detail": "there is no job job_1"}
    with (
        client_of(lambda _: httpx.Response(404, json=problem)) as client,
        pytest.raises(ClientError, match="there is no job job_1"),
    ):
        list(client.events("job_1"))


def test_a_service_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "GIVE_UP_S", -1.0)

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    with client_of(refuse) as client, pytest.raises(ClientError, match="nothing answers"):
        list(client.events("job_1"))


def test_event_streams_are_read_as_the_standard_says() -> None:
    text = (
        ': comment\nid: 7\nevent: news\ndata: {"a":\ndata:1}\n\ndata: {}\n\nevent: empty\n\nid\ndata: {}\n\ndata: {"cut'
    )
    assert list(parse_events(iter(text.split("\n")))) == [
        Event("7", "news", {"a": 1}),
        Event("7", "message", {}),
        Event(None, "message", {}),
    ]
