"""Accounts: what is another's looks to a key as if it had never been."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from store.identifiers import new_id
from store.records import Image, Job, JobKind, Model
from tests.app.conftest import Service, zip_of
from tests.app.test_auth import APP, GUARDED


@dataclass(frozen=True)
class Theirs:
    """What the account `b` has, and clients of both."""

    a: httpx.Client
    b: httpx.Client
    ids: dict[str, str]


@pytest.fixture
def theirs(service: Service) -> Iterator[Theirs]:
    """Given an account with one of everything, and another one with nothing."""
    dataset, model = service.add_dataset(account="b"), service.add_model(account="b")
    with (
        service.client("generate", "train", account="a") as a,
        service.client("generate", "train", account="b") as b,
    ):
        training = b.post("/v1/trainings", json={"dataset": dataset}).json()
        service.worker.succeed(service.worker.claim(JobKind.TRAIN), {"model": training["model"]})
        job = b.post("/v1/generations", json={"model": model, "n": 2}).json()
        service.worker.sample()
        [image, _] = b.get("/v1/images", params={"job": job["id"]}).json()["data"]
        ids = {"dataset_id": dataset, "model_id": model, "job_id": job["id"], "image_id": image["id"]}
        yield Theirs(a, b, ids | {"training_id": training["id"], "images_seen": "1", "format": "onnx"})


NEVER = {"dataset_id": "ds", "model_id": "mdl", "job_id": "job", "image_id": "img", "training_id": "job"}
WITH_IDS = sorted(
    {
        (method.upper(), path)
        for path, methods in APP.openapi()["paths"].items()
        for method in methods
        if re.search(r"\{\w+_id\}", path) and "{key_id}" not in path
    }
)


def filled(path: str, ids: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda name: ids[name[1]], path)


def test_every_route_with_an_id_is_asked() -> None:
    assert len(WITH_IDS) >= 20
    assert len(GUARDED) > len(WITH_IDS)


@pytest.mark.parametrize(("method", "path"), WITH_IDS)
def test_another_s_id_is_answered_as_one_that_never_was(theirs: Theirs, method: str, path: str) -> None:
    never = theirs.ids | {name: new_id(prefix) for name, prefix in NEVER.items()}  # type: ignore[arg-type]
    body = {"format": "onnx"} if path.endswith("/exports") else {}

    def ask(ids: dict[str, str]) -> tuple[int, str]:
        headers = {"X-Request-Id": "same"}
        answer = theirs.a.request(method, filled(path, ids), json=body if method == "POST" else None, headers=headers)
        text = answer.text
        for name, value in ids.items():
            if name in NEVER:
                text = text.replace(value, f"<{name}>")
        return answer.status_code, re.sub(r"<(job_id|training_id)>", "<job>", text)

    assert ask(theirs.ids) == ask(never)
    assert ask(theirs.ids)[0] == 404


@pytest.mark.parametrize(
    "path", ["/v1/datasets", "/v1/models", "/v1/jobs", "/v1/trainings", "/v1/images", "/v1/jobs?kind=sample"]
)
def test_lists_hold_what_is_one_s_own_and_an_administrator_s_hold_everything(
    theirs: Theirs, service: Service, path: str
) -> None:
    assert theirs.a.get(path).json()["data"] == []
    assert theirs.b.get(path).json()["data"] != []
    assert service.http.get(path).json() == theirs.b.get(path).json()


def test_filters_and_pages_tell_nothing_of_what_is_another_s(theirs: Theirs) -> None:
    ids = theirs.ids
    for path in (f"/v1/images?job={ids['job_id']}", f"/v1/images?model={ids['model_id']}"):
        assert theirs.a.get(path).json()["data"] == []
        assert theirs.b.get(path).json()["data"] != []
    assert theirs.a.get(f"/v1/jobs?model={ids['model_id']}").json()["data"] == []

    after = theirs.a.get(f"/v1/images?job={ids['job_id']}&after={ids['image_id']}")
    never = theirs.a.get(f"/v1/images?job={ids['job_id']}&after=img_0")
    assert after.status_code == never.status_code == 422
    assert after.json()["detail"] == never.json()["detail"].replace("img_0", ids["image_id"])


def test_nothing_is_made_of_what_is_another_s(theirs: Theirs, service: Service) -> None:
    own = service.add_dataset(account="a")
    model, dataset = theirs.ids["model_id"], theirs.ids["dataset_id"]
    mine = service.add_model(account="a")
    bodies: list[tuple[str, dict[str, Any], str]] = [
        ("/v1/generations", {"model": model}, "/model"),
        ("/v1/trainings", {"dataset": dataset}, "/dataset"),
        ("/v1/trainings", {"dataset": own, "init_from": model}, "/init_from"),
        ("/v1/evaluations", {"model": model}, "/model"),
        ("/v1/evaluations", {"model": mine, "dataset": dataset}, "/dataset"),
    ]
    for path, body, parameter in bodies:
        answer = theirs.a.post(path, json=body)
        assert (answer.status_code, answer.json()["parameter"]) == (404, parameter), (path, answer.text)
    assert theirs.a.get("/v1/jobs").json()["data"] == []


def test_what_is_made_belongs_to_who_asked(service: Service) -> None:
    with service.client("train", "generate", account="a") as a:
        job = a.post("/v1/datasets", files={"file": ("a.zip", zip_of(**{"x/1.png": b"1"}), "application/zip")}).json()
        training = a.post("/v1/trainings", json={"dataset": service.add_dataset(account="a")}).json()
        made = a.post("/v1/generations", json={"model": service.add_model(account="a"), "n": 2}).json()
        service.worker.sample()
        seen = a.get("/v1/images").json()["data"]
    with service.resources.database.snapshot() as session:
        rows = [session.get_one(Job, one["id"]) for one in (job, training, made)]
        assert {row.account for row in rows} == {"a"}
        assert session.get_one(Model, training["model"]).account == "a"
        assert [session.get_one(Image, image["id"]).account for image in seen] == ["a", "a"]


def test_keys_of_one_account_share_everything(theirs: Theirs, service: Service) -> None:
    with service.client("read", account="b") as other:
        assert other.get("/v1/jobs").json() == theirs.b.get("/v1/jobs").json()


def test_two_accounts_may_use_the_same_idempotency_key(service: Service) -> None:
    headers = {"Idempotency-Key": "k" * 150}
    made = {}
    for account in ("default", "a", "b"):
        with service.client("train", account=account) as http:
            model = service.add_model(account=account)
            path, body = f"/v1/models/{model}/exports", {"format": "onnx"}
            first, again = (http.post(path, json=body, headers=headers).json()["id"] for _ in range(2))
            assert first == again
            made[account] = first
            training = {"dataset": service.add_dataset(account=account), "seed": 1}
            assert http.post("/v1/trainings", json=training, headers=headers).status_code == 202
    assert len(set(made.values())) == 3


def test_canceling_takes_the_scope_that_asking_took(service: Service) -> None:
    job = service.http.post("/v1/generations", json={"model": service.add_model()}).json()
    training = service.http.post("/v1/trainings", json={"dataset": service.add_dataset()}).json()
    for scope, allowed in (("train", training), ("generate", job)):
        with service.client(scope) as http:
            for one in (job, training):
                status = 200 if one is allowed else 403
                assert http.post(f"/v1/jobs/{one['id']}/cancel").status_code == status
