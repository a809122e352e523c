"""Asking for webhooks over HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from store import webhooks
from store.records import Job, JobKind, Webhook
from store.signatures import key_of
from tests.app.conftest import Service, assert_problem, running, zip_of

SECRET = f"whsec_{base64.b64encode(b'k' * 32).decode()}"
HOOK = {"url": "https://example.org/hook?token=1"}


@pytest.fixture(scope="module")
def _signing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("signing"), webhook_secret=SECRET) as service:
        yield service


@pytest.fixture
def signing(_signing: Service) -> Service:
    """An empty service that sends webhooks."""
    _signing.clear()
    return _signing


def asked(service: Service) -> dict[str, str]:
    """URL by job."""
    with service.resources.database.snapshot() as session:
        return {row.job_id: row.url for row in session.query(Webhook)}


def test_every_create_may_name_one(signing: Service) -> None:
    model_id, dataset_id = signing.add_model(), signing.add_dataset(resolution=32)
    (Path(signing.resources.settings.import_root or "") / "cats").mkdir(exist_ok=True)
    http = signing.http
    answers = [
        http.post("/v1/generations", json={"model": model_id, "webhook": HOOK}),
        http.post("/v1/trainings", json={"dataset": dataset_id, "webhook": HOOK}),
        http.post("/v1/evaluations", json={"model": model_id, "dataset": dataset_id, "webhook": HOOK}),
        http.post(f"/v1/models/{model_id}/exports", json={"format": "onnx", "webhook": HOOK}),
        http.post("/v1/datasets", json={"path": "cats", "webhook": HOOK}),
        http.post("/v1/datasets", data={"webhook": HOOK["url"]}, files={"file": ("a.zip", zip_of(a=b"a"))}),
    ]

    assert [answer.status_code for answer in answers] == [202] * 6, [answer.text for answer in answers]
    assert asked(signing) == {answer.json()["id"]: HOOK["url"] for answer in answers}
    for answer in answers:
        assert "token" not in json.dumps(answer.json())  # whoever may see the job need not see where it is told of


def test_a_repeated_request_asks_once(signing: Service) -> None:
    body = {"model": signing.add_model(), "webhook": HOOK}
    first, second = (
        signing.http.post("/v1/generations", json=body, headers={"Idempotency-Key": "once"}).json() for _ in range(2)
    )
    assert first["id"] == second["id"]
    assert len(asked(signing)) == 1
    changed = {**body, "webhook": {"url": "https://example.org/other"}}
    answer = signing.http.post("/v1/generations", json=changed, headers={"Idempotency-Key": "once"})
    assert_problem(answer, 422, "idempotency_key_reused", "Idempotency-Key")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://2130706433/",
        "http://[::ffff:10.0.0.1]/",
        "https://me:pw@example.org/",
        "ftp://a.b/",
    ],
)
def test_what_is_not_public_is_refused_and_nothing_is_made(signing: Service, url: str) -> None:
    model_id, dataset_id = signing.add_model(), signing.add_dataset()
    for path, body in (("/v1/generations", {"model": model_id}), ("/v1/trainings", {"dataset": dataset_id})):
        answer = signing.http.post(path, json={**body, "webhook": {"url": url}})
        assert_problem(answer, 422, "webhook_refused", "/webhook/url")
    answer = signing.http.post("/v1/datasets", data={"webhook": url}, files={"file": ("a.zip", zip_of(a=b"a"))})
    assert_problem(answer, 422, "webhook_refused", "/webhook/url")
    with signing.resources.database.snapshot() as session:
        assert session.query(Job).count() == 0
    assert not [path for path in signing.blob_files() if path.startswith("uploads")]


def test_without_a_secret_there_are_none(service: Service) -> None:
    answer = service.http.post("/v1/generations", json={"model": service.add_model(), "webhook": HOOK})
    assert "DARKROOM_WEBHOOK_SECRET" in assert_problem(answer, 403, "webhooks_disabled", "/webhook")["remedy"]


def test_what_has_become_of_one_can_be_seen(signing: Service) -> None:
    model_id = signing.add_model()
    job = signing.http.post(f"/v1/models/{model_id}/exports", json={"format": "onnx", "webhook": HOOK}).json()
    here = f"/v1/jobs/{job['id']}/webhook"
    state = signing.http.get(here).json()
    assert (state["job"], state["url"], state["status"], state["attempts"]) == (job["id"], HOOK["url"], "pending", 0)

    signing.worker.succeed(signing.worker.claim(JobKind.EXPORT), {"sha256": "x"})
    database = signing.resources.database
    with database.transaction() as session:
        [delivery] = webhooks.claim(session, now=database.now(session), limit=1)
        webhooks.settle(session, delivery, now=database.now(session), error=None)

    state = signing.http.get(here).json()
    assert (state["id"], state["status"], state["attempts"], state["next_at"]) == (
        delivery.webhook_id,
        "delivered",
        1,
        None,
    )
    # What is told is what is shown.
    told = json.loads(delivery.body)
    shown = signing.http.get(f"/v1/jobs/{job['id']}").json()
    assert told["type"] == "job.succeeded"
    assert told["timestamp"] == shown["finished_at"]
    assert told["data"] == {name: value for name, value in shown.items() if name != "images"}


def test_a_job_without_one_has_none_to_show(signing: Service) -> None:
    job = signing.http.post("/v1/generations", json={"model": signing.add_model()}).json()
    assert_problem(signing.http.get(f"/v1/jobs/{job['id']}/webhook"), 404, "webhook_not_found", "job_id")
    assert_problem(signing.http.get("/v1/jobs/job_none/webhook"), 404, "job_not_found", "job_id")


def test_every_account_can_see_the_secret_of_its_own(signing: Service) -> None:
    secrets = {}
    for account in ("shop", "press"):
        with signing.client("generate", account=account) as http:
            answer = http.get("/v1/webhook-secret")
            assert (answer.status_code, answer.json()["account"]) == (200, account)
            assert answer.headers["cache-control"] == "no-store"
            secrets[account] = answer.json()["secret"]
            assert len(key_of(secrets[account])) == 32
    assert len({SECRET, *secrets.values()}) == 3
    with signing.client("read") as http:
        assert http.get("/v1/webhook-secret").status_code == 403


def test_a_webhook_of_another_account_is_not_there(signing: Service) -> None:
    job = signing.http.post("/v1/generations", json={"model": signing.add_model(), "webhook": HOOK}).json()
    with signing.client("read", account="press") as http:
        assert_problem(http.get(f"/v1/jobs/{job['id']}/webhook"), 404, "job_not_found", "job_id")
