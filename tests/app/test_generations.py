"""Generating images, waiting for them, and getting the picture itself."""

from __future__ import annotations

import io
import threading
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest
from PIL import Image as Picture

from models.png import encode
from store import jobs
from store.queue import Lane
from store.records import Job, JobKind, Model
from store.resources import status_notice
from tests.app import conftest
from tests.app.conftest import PNG, Service, assert_problem, at_the_same_time, eventually
from tests.pictures import shapes


def test_a_generation_is_queued_and_pinned_to_the_newest_weights(service: Service) -> None:
    model_id = service.add_model()

    response = service.http.post("/v1/generations", json={"model": model_id, "n": 3, "seed": 7, "label": "dog"})

    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert "preference-applied" not in response.headers
    assert (job["kind"], job["status"], job["model"]) == ("sample", "queued", model_id)
    assert job["request"] == {"n": 3, "seed": 7, "label": 1}
    assert (job["progress"]["total"], job["progress"]["unit"], job["images"]) == (3, "images", [])
    assert service.queue.waiting(Lane.SAMPLE) == 1
    with service.resources.database.snapshot() as session:
        assert session.get_one(Job, job["id"]).checkpoint == session.get_one(Model, model_id).checkpoint


def test_a_seed_is_chosen_and_reported_where_none_is_given(service: Service) -> None:
    body = {"model": service.add_model()}
    seeds = {service.http.post("/v1/generations", json=body).json()["request"]["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize(("label", "index"), [("cat", 0), (1, 1), ("1", 1), (None, None)])
def test_a_label_is_a_name_or_an_index(service: Service, label: str | int | None, index: int | None) -> None:
    job = service.http.post("/v1/generations", json={"model": service.add_model(), "label": label}).json()
    assert job["request"]["label"] == index


def test_a_name_made_of_digits_is_a_name_before_it_is_an_index(service: Service) -> None:
    model_id = service.add_model(classes=("7", "0"))
    for label, index in (("0", 1), (0, 0), ("7", 0)):
        job = service.http.post("/v1/generations", json={"model": model_id, "label": label}).json()
        assert job["request"]["label"] == index


@pytest.mark.parametrize("label", ["bird", 2, -1, "2", "9" * 5_000, "\u0661", "\x00"])
def test_an_unknown_label_is_refused_with_the_classes(service: Service, label: str | int) -> None:
    response = service.http.post("/v1/generations", json={"model": service.add_model(), "label": label})
    problem = assert_problem(response, 422, "invalid_parameter", "/label")
    assert problem["classes"] == ["cat", "dog"]
    assert "0 cat, 1 dog" in problem["remedy"]


def test_a_label_for_a_model_without_classes_is_refused(service: Service) -> None:
    response = service.http.post("/v1/generations", json={"model": service.add_model(classes=None), "label": 0})
    assert_problem(response, 422, "invalid_parameter", "/label")


@pytest.mark.parametrize(
    ("change", "parameter", "words"),
    [
        ({"n": 0}, "/n", "greater than or equal to 1"),
        ({"n": 501}, "/n", "500"),
        ({"seed": -1}, "/seed", "greater than or equal to 0"),
        ({"seed": 2**32 - 1, "n": 2}, "/seed", "more than"),
        ({"label": True}, "/label", "true"),
        ({"psi": 1}, "/psi", "not permitted"),
    ],
)
def test_what_is_out_of_bounds_is_refused(service: Service, change: dict[str, Any], parameter: str, words: str) -> None:
    response = service.http.post("/v1/generations", json={"model": service.add_model(), **change})
    assert words in assert_problem(response, 422, "invalid_parameter", parameter)["detail"]


def test_an_unknown_model_is_not_found(service: Service) -> None:
    response = service.http.post("/v1/generations", json={"model": "mdl_nope"})
    assert_problem(response, 404, "model_not_found", "/model")


def test_a_model_without_weights_is_a_conflict(service: Service) -> None:
    response = service.http.post("/v1/generations", json={"model": service.add_model(has_weights=False)})
    problem = assert_problem(response, 409, "model_not_ready", "/model")
    assert "can_generate" in problem["remedy"]


@pytest.mark.parametrize(
    ("body", "priority"),
    [
        ({"n": 64}, "interactive"),
        ({"n": 65}, "batch"),
        ({"n": 65, "priority": "interactive"}, "interactive"),
        ({"n": 1, "priority": "batch"}, "batch"),
    ],
)
def test_what_fits_one_batch_is_interactive_unless_it_says_otherwise(
    service: Service, body: dict[str, Any], priority: str
) -> None:
    job = service.http.post("/v1/generations", json={"model": service.add_model(), **body}).json()
    assert job["priority"] == priority


def test_a_deadline_is_a_moment_or_seconds_from_now_and_the_earlier_one_holds(service: Service) -> None:
    body = {"model": service.add_model()}
    ask = partial(service.http.post, "/v1/generations")
    assert ask(json=body).json()["deadline_at"] is None
    moment = "2100-01-01T00:00:00Z"
    assert ask(json={**body, "deadline_at": moment}).json()["deadline_at"] == moment

    job = ask(json={**body, "deadline_at": moment}, headers={"Cancel-After": "90.5"}).json()

    asked_at, deadline_at = (datetime.fromisoformat(job[name]) for name in ("created_at", "deadline_at"))
    assert (deadline_at - asked_at).total_seconds() == 90.5


def test_a_deadline_that_makes_no_sense_is_refused(service: Service) -> None:
    body = {"model": service.add_model()}
    for seconds in ("0", "-1", "soon", "1e99"):
        response = service.http.post("/v1/generations", json=body, headers={"Cancel-After": seconds})
        assert_problem(response, 422, "invalid_parameter", "cancel-after")
    past = service.http.post("/v1/generations", json={**body, "deadline_at": "2026-01-01T00:00:00Z"})
    assert "has passed" in assert_problem(past, 422, "invalid_parameter", "/deadline_at")["detail"]
    zoneless = service.http.post("/v1/generations", json={**body, "deadline_at": "2100-01-01T00:00:00"})
    assert_problem(zoneless, 422, "invalid_parameter", "/deadline_at")


def test_who_waits_past_the_deadline_is_told_that_it_has_passed(service: Service) -> None:
    """Given a queue that nobody works on but the reconciler, I expect a conflict that says so, and no image."""
    body = {"model": service.add_model()}

    def end_what_is_late() -> None:
        assert service.queue.rung.wait(5)
        with service.resources.database.transaction() as session:
            (job,) = jobs.end_late(session, now=service.resources.database.now(session) + timedelta(seconds=60))
        service.resources.tell(status_notice(job))

    with at_the_same_time(end_what_is_late):
        response = service.http.post("/v1/generations", json=body, headers={"Prefer": "wait=9", "Cancel-After": "30"})

    problem = assert_problem(response, 409, "job_canceled")
    assert "deadline" in problem["detail"]
    assert problem["job"]["error"]["code"] == "deadline"
    assert problem["job"]["result"] == {"images": 0}


@pytest.mark.parametrize("asked", [True, False])
def test_a_client_that_goes_away_takes_its_job_along_if_it_said_so(service: Service, asked: bool) -> None:
    body = {"model": service.add_model(), "cancel_on_disconnect": asked}

    with pytest.raises(httpx.ReadTimeout):
        service.http.post("/v1/generations", json=body, headers={"Prefer": "wait=9"}, timeout=0.5)

    eventually(lambda: service.news.listeners == 0)  # the server has noticed
    [job] = service.http.get("/v1/jobs").json()["data"]
    if asked:
        eventually(lambda: service.http.get(f"/v1/jobs/{job['id']}").json()["status"] == "canceled")
    else:
        assert job["status"] == "queued"


def sample_when_rung(service: Service) -> None:
    assert service.queue.rung.wait(5)
    service.worker.sample()


def test_who_waits_gets_the_images(service: Service) -> None:
    body = {"model": service.add_model(), "n": 2, "seed": 7}

    with at_the_same_time(lambda: sample_when_rung(service)):
        response = service.http.post("/v1/generations", json=body, headers={"Prefer": "respond-async, wait=9"})

    assert response.status_code == 201, response.text
    assert response.headers["preference-applied"] == "wait=9"
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["status"], job["progress"]["fraction"]) == ("succeeded", 1)
    assert [(image["position"], image["seed"]) for image in job["images"]] == [(0, 7), (1, 8)]
    assert all(service.http.get(image["url"]).content.startswith(PNG) for image in job["images"])
    assert service.news.listeners == 0


def test_who_waits_in_vain_gets_the_job(service: Service) -> None:
    body = {"model": service.add_model()}
    response = service.http.post("/v1/generations", json=body, headers={"Prefer": "wait=0.05"})
    assert (response.status_code, response.headers["preference-applied"]) == (202, "wait=0.05")
    assert response.json()["status"] == "queued"


def test_a_wait_is_at_most_the_settings(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(service.resources.settings.__dict__, "max_wait_s", 0.05)
    response = service.http.post(
        "/v1/generations", json={"model": service.add_model()}, headers={"Prefer": "wait=1000"}
    )
    assert (response.status_code, response.headers["preference-applied"]) == (202, "wait=0.05")


@pytest.mark.parametrize(
    ("code", "retryable", "status"),
    [
        ("internal", True, 503),
        ("bad_checkpoint", False, 500),
        ("storage_full", True, 507),
        ("data_missing", False, 409),
    ],
)
def test_a_job_that_fails_while_one_waits_is_a_problem(
    service: Service, code: str, retryable: bool, status: int
) -> None:
    def fail() -> None:
        assert service.queue.rung.wait(5)
        service.worker.fail(service.worker.claim(JobKind.SAMPLE), code, retryable=retryable)

    with at_the_same_time(fail):
        response = service.http.post(
            "/v1/generations", json={"model": service.add_model()}, headers={"Prefer": "wait=9"}
        )

    problem = assert_problem(response, status, code)
    assert problem["detail"] == f"{code} happened"
    assert problem["job"]["status"] == "failed"
    assert problem["job"]["error"]["retryable"] is retryable


def test_a_job_that_is_canceled_while_one_waits_is_a_conflict(service: Service) -> None:
    def cancel() -> None:
        assert service.queue.rung.wait(5)
        (job,) = service.http.get("/v1/jobs").json()["data"]
        service.http.post(f"/v1/jobs/{job['id']}/cancel")

    with at_the_same_time(cancel):
        response = service.http.post(
            "/v1/generations", json={"model": service.add_model()}, headers={"Prefer": "wait=9"}
        )

    assert assert_problem(response, 409, "job_canceled")["job"]["status"] == "canceled"


def test_who_accepts_a_png_gets_the_picture_itself(service: Service) -> None:
    with at_the_same_time(lambda: sample_when_rung(service)):
        response = service.http.post(
            "/v1/generations", json={"model": service.add_model()}, headers={"Accept": "image/png"}
        )

    assert (response.status_code, response.headers["content-type"]) == (201, "image/png")
    assert response.content.startswith(PNG)
    place = response.headers["content-location"]
    assert service.http.get(place).content == response.content
    assert f"<{place.removesuffix('/content')}>" in response.headers["link"]
    assert response.headers["location"].startswith("/v1/jobs/job_")


@pytest.mark.parametrize("form", ["webp", "jpeg"])
def test_who_accepts_another_form_gets_it_as_the_image_s_own_address_gives_it(
    service: Service, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(conftest, "PNG", encode(shapes(1)[0][0]))

    with at_the_same_time(lambda: sample_when_rung(service)):
        response = service.http.post(
            "/v1/generations",
            json={"model": service.add_model()},
            headers={"Accept": f"image/{form}, image/png;q=0.9, application/json;q=0.1"},
        )

    assert (response.status_code, response.headers["content-type"]) == (201, f"image/{form}")
    with Picture.open(io.BytesIO(response.content)) as picture:
        assert (picture.format, picture.size) == (form.upper(), (32, 32))
    place = response.headers["content-location"]
    assert place.endswith(f"/content?format={form}")
    again = service.http.get(place)
    assert (again.content, again.headers["etag"]) == (response.content, response.headers["etag"])


def test_a_png_that_is_not_made_in_time_is_a_job_in_json(service: Service) -> None:
    response = service.http.post(
        "/v1/generations",
        json={"model": service.add_model()},
        headers={"Accept": "image/png", "Prefer": "wait=0.05"},
    )
    assert (response.status_code, response.headers["content-type"]) == (202, "application/json")


def test_several_images_do_not_fit_into_a_png(service: Service) -> None:
    body = {"model": service.add_model(), "n": 2}
    response = service.http.post("/v1/generations", json=body, headers={"Accept": "image/png"})
    assert_problem(response, 406, "not_acceptable", "/n")
    either = service.http.post("/v1/generations", json=body, headers={"Accept": "image/png, application/json;q=0.5"})
    assert either.status_code == 202


def test_a_repeated_wait_finds_the_same_images(service: Service) -> None:
    request: dict[str, Any] = {
        "json": {"model": service.add_model(), "n": 2},
        "headers": {"Idempotency-Key": "g1", "Prefer": "wait=9"},
    }
    with at_the_same_time(lambda: sample_when_rung(service)):
        first = service.http.post("/v1/generations", **request)
    second = service.http.post("/v1/generations", **request)

    assert first.status_code == second.status_code == 201
    assert first.json() == second.json()
    without_waiting = {**request, "headers": {"Idempotency-Key": "g1"}}
    third = service.http.post("/v1/generations", **without_waiting)
    assert (third.status_code, third.json()) == (202, first.json())


def test_the_same_key_at_the_same_time_makes_one_job(service: Service) -> None:
    body = {"model": service.add_model()}
    start, answers = threading.Barrier(4), list[dict[str, Any]]()

    def ask() -> None:
        start.wait(5)
        response = service.http.post("/v1/generations", json=body, headers={"Idempotency-Key": "g2"})
        answers.append(response.json())

    with at_the_same_time(ask), at_the_same_time(ask), at_the_same_time(ask):
        ask()

    assert len({answer["id"] for answer in answers}) == 1
    assert len(answers) == 4


def test_a_repeated_request_for_a_picture_that_was_deleted_meanwhile_is_not_found(service: Service) -> None:
    headers = {"Idempotency-Key": "once", "Accept": "image/png"}
    asked = {"model": service.add_model(), "seed": 7}
    job = service.http.post("/v1/generations", json=asked, headers={"Idempotency-Key": "once"}).json()
    service.worker.sample()
    assert service.http.post("/v1/generations", json=asked, headers=headers).status_code == 201
    (image,) = service.http.get("/v1/images", params={"job": job["id"]}).json()["data"]
    assert service.http.delete(f"/v1/images/{image['id']}").status_code == 204

    assert_problem(service.http.post("/v1/generations", json=asked, headers=headers), 404, "blob_not_found")
