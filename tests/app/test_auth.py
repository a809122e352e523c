"""Nobody is let in without a key, and nobody further than a key goes. The route table is walked: no route is forgotten."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from app import auth
from app.auth import OPEN, Caller, MayRead, check_routes, scopes_of
from app.main import create_app
from store.database import Database
from store.events import MemoryBus
from store.keys import all_of
from store.memory_blobs import MemoryBlobs
from store.queue import MemoryQueue
from store.records import Scope
from store.resources import Resources
from store.settings import Settings
from tests.app.conftest import Service, assert_problem

APP = create_app(
    Resources(Settings(_env_file=None), Database("sqlite:///unused.db"), MemoryBlobs(), MemoryBus(), MemoryQueue())
)
IDS = {"dataset_id": "ds_0", "model_id": "mdl_0", "job_id": "job_0", "image_id": "img_0", "key_id": "key_0"}
IDS |= {"training_id": "job_0", "images_seen": "1", "format": "onnx"}


def routes() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Each method and path that is routed, with the scopes of which it needs one."""
    for route in iter_route_contexts(APP.routes):
        path = re.sub(r"\{(\w+)\}", lambda name: IDS[name[1]], str(route.path))
        for method in sorted(route.methods or {"GET"}):
            yield method, path, scopes_of(getattr(route, "dependant", None))


TABLE = list(routes())
GUARDED = [(method, path, needed) for method, path, needed in TABLE if needed]


def test_the_table_holds_what_there_is() -> None:
    assert len(GUARDED) > 35
    assert {needed for _, _, needed in GUARDED} == {
        ("read",), ("generate",), ("train",), ("admin",), ("generate", "train"),
    }  # fmt: skip


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path, _ in GUARDED])
def test_without_a_key_no_route_answers(service: Service, method: str, path: str) -> None:
    with service.client() as stranger:
        answer = stranger.request(method, path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="darkroom"'
    if method != "HEAD":
        assert_problem(answer, 401, "missing_api_key")


@pytest.mark.parametrize("scope", Scope)
def test_with_each_scope_the_routes_that_need_another_say_which(service: Service, scope: Scope) -> None:
    may = all_of([scope])
    with service.client(scope) as http:
        for method, path, needed in GUARDED:
            answer = http.request(method, path, json={} if method == "POST" else None)
            assert (answer.status_code == 403) is not bool(may.intersection(needed)), (method, path, answer.text)
            if answer.status_code == 403 and method != "HEAD":
                problem = assert_problem(answer, 403, "missing_scope")
                assert problem["scope"] == " or ".join(needed)
                assert problem["scope"] in answer.headers["www-authenticate"]
            assert answer.status_code not in {401, 405}
            assert answer.status_code < 500


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/nothing"),
        ("GET", "/nothing"),
        ("GET", "/v1/jobs/"),
        ("GET", "//v1/jobs"),
        ("GET", "/healthz/"),
        ("GET", "/docs/nothing"),
        ("POST", "/healthz"),
        ("POST", "/docs"),
        ("DELETE", "/static-offline-docs/swagger-ui.css"),
        ("OPTIONS", "/v1/jobs"),
        ("OPTIONS", "/healthz"),
        ("HEAD", "/v1/jobs"),
        ("TRACE", "/v1/jobs"),
        ("PATCH", "/v1/jobs"),
        ("GET", "/v1/images/img_0/content"),
    ],
)
def test_what_is_not_listed_as_open_is_closed_whether_it_is_there_or_not(
    service: Service, method: str, path: str
) -> None:
    with service.client() as stranger:
        assert stranger.request(method, path).status_code == 401


def test_a_path_that_leads_out_of_an_open_folder_is_no_way_in(service: Service) -> None:
    with service.client() as stranger:
        for path in ("/static-offline-docs/../v1/jobs", "/static-offline-docs/%2e%2e/v1/jobs", "/docs/../v1/jobs"):
            request = httpx.Request("GET", service.url)
            request.url = request.url.copy_with(raw_path=path.encode())
            assert stranger.send(request).status_code in {401, 404}


def test_what_is_listed_as_open_is_answered_to_everybody(service: Service) -> None:
    with service.client() as stranger:
        for path in [*sorted(OPEN - {"/static-offline-docs/*"}), "/static-offline-docs/swagger-ui.css"]:
            assert stranger.get(path).status_code in {200, 307}, path


def test_a_wrong_key_on_an_open_route_does_no_harm(service: Service) -> None:
    with service.client(key="dk_wrong") as stranger:
        assert stranger.get("/healthz").status_code == 200


async def _endpoint(*_: object) -> None:
    raise AssertionError


@pytest.mark.parametrize(
    "added",
    [
        Route("/v1/secret", _endpoint),
        Mount("/files", StaticFiles(directory="/", check_dir=False)),
        Mount("/v1/docs", FastAPI()),
        WebSocketRoute("/v1/socket", _endpoint),
    ],
)
def test_an_application_with_a_route_that_says_no_scope_is_not_made(added: Any) -> None:
    app = FastAPI(openapi_url=None)
    check_routes(app)
    app.router.routes.append(added)
    with pytest.raises(RuntimeError, match=f"{added.path} says no scope"):
        check_routes(app)


def test_a_route_that_is_open_and_needs_a_scope_is_a_mistake() -> None:
    app = FastAPI(openapi_url=None)

    @app.get("/v1/fine")
    async def fine(caller: MayRead) -> str:
        return caller.account

    check_routes(app)

    @app.get("/healthz")
    async def health(caller: MayRead) -> str:
        return caller.account

    with pytest.raises(RuntimeError, match="/healthz needs a scope and is listed as open"):
        check_routes(app)


def test_every_operation_says_in_its_description_what_it_needs() -> None:
    document = APP.openapi()
    assert document["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"
    needed = {(method.upper(), str(path)): scopes for method, path, scopes in TABLE}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            scopes = needed[method.upper(), re.sub(r"\{(\w+)\}", lambda name: IDS[name[1]], path)]
            says = operation["description"]
            assert all(f"`{scope}`" in says for scope in scopes)
            assert operation.get("security", []) == ([{"ApiKey": list(scopes)}] if scopes else [])
            assert bool(scopes) is not says.endswith("Needs no key.")


def test_scopes_imply_what_they_should() -> None:
    assert all_of(["read"]) == {Scope.READ}
    assert all_of(["generate"]) == {Scope.READ, Scope.GENERATE}
    assert all_of(["train"]) == {Scope.READ, Scope.TRAIN}
    assert all_of(["admin"]) == set(Scope)
    assert not Caller("key_1", "default", all_of(["generate", "train"])).sees_all


def test_without_authentication_everybody_may_do_everything(tmp_path: Any) -> None:
    from tests.app.conftest import running

    with running(tmp_path, auth="off") as service, service.client() as anybody:
        assert anybody.get("/v1/jobs").status_code == 200
        assert anybody.post("/v1/keys", json={"name": "x", "scopes": ["admin"]}).status_code == 201
    assert auth.EVERYBODY.sees_all
