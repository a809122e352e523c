"""Starting trainings."""

from __future__ import annotations

from typing import Any

import pytest

from app.trainings import DEFAULT_SECONDS
from models import catalog
from store.identifiers import new_id
from store.queue import Lane
from store.records import Dataset, DatasetStatus, Job, Model
from tests.app.conftest import Service, assert_problem


def test_a_training_makes_a_model_and_a_queued_job(service: Service) -> None:
    dataset_id = service.add_dataset()
    body = {
        "dataset": dataset_id,
        "kind": "gan-dcgan",
        "name": "my pets",
        "resolution": 32,
        "options": {"batch_size": 16},
        "budget": {"images": 5000},
        "seed": 3,
    }

    response = service.http.post("/v1/trainings", json=body)

    assert response.status_code == 202, response.text
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["kind"], job["status"], job["dataset"]) == ("train", "queued", dataset_id)
    assert (job["progress"]["total"], job["progress"]["unit"]) == (5000, "images")
    options = catalog.parse_options("gan-dcgan", {"batch_size": 16}).model_dump()
    assert job["request"] == {
        "kind": "gan-dcgan",
        "resolution": 32,
        "options": options,
        "budget": {"images": 5000},
        "seed": 3,
    }
    assert service.queue.waiting(Lane.TRAIN) == 1
    model = service.http.get(f"/v1/models/{job['model']}").json()
    assert (model["name"], model["kind"], model["status"]) == ("my pets", "gan-dcgan", "training")
    assert (model["resolution"], model["channels"], model["seed"]) == (32, 3, 3)
    assert (model["dataset"], model["dataset_name"], model["classes"]) == (dataset_id, "pets", ["cat", "dog"])
    assert model["options"] == options
    assert (model["can_generate"], model["preview"]) == (False, None)


def test_everything_but_the_dataset_has_a_default(service: Service) -> None:
    job = service.http.post("/v1/trainings", json={"dataset": service.add_dataset()}).json()

    assert job["request"]["budget"] == {"seconds": DEFAULT_SECONDS}
    assert (job["progress"]["total"], job["progress"]["unit"]) == (DEFAULT_SECONDS, "seconds")
    assert job["request"]["resolution"] == 64
    assert 0 <= job["request"]["seed"] < 2**32
    assert "pets" in service.http.get(f"/v1/models/{job['model']}").json()["name"]


@pytest.mark.parametrize(("prepared", "chosen"), [(256, 128), (100, 96), (32, 32)])
def test_the_default_resolution_is_the_largest_that_fits(service: Service, prepared: int, chosen: int) -> None:
    job = service.http.post("/v1/trainings", json={"dataset": service.add_dataset(resolution=prepared)}).json()
    assert job["request"]["resolution"] == chosen


@pytest.mark.parametrize(
    ("classes", "options", "known"),
    [
        (("a", "b"), {}, ["a", "b"]),
        (("a", "b"), {"conditional": False}, None),
        (None, {}, None),
    ],
)
def test_a_model_knows_the_classes_that_it_learns(
    service: Service, classes: tuple[str, ...] | None, options: dict[str, Any], known: list[str] | None
) -> None:
    body = {"dataset": service.add_dataset(classes=classes), "options": options}
    job = service.http.post("/v1/trainings", json=body).json()
    assert service.http.get(f"/v1/models/{job['model']}").json()["classes"] == known


@pytest.mark.parametrize(
    ("change", "code", "parameter", "words"),
    [
        ({"kind": "gan-x"}, "unknown_kind", "/kind", "gan-dcgan"),
        ({"options": {"batch_size": 1}}, "invalid_option", "/options/batch_size", "2 to 1024"),
        ({"options": {"colour": 1}}, "invalid_option", "/options/colour", "batch_size"),
        ({"resolution": 48}, "invalid_parameter", "/resolution", "32, 64, 96, 128"),
        ({"resolution": 128}, "invalid_parameter", "/resolution", "64 px"),
        ({"budget": {}}, "invalid_parameter", "/budget", "exactly one"),
        ({"budget": {"images": 1, "seconds": 1}}, "invalid_parameter", "/budget", "exactly one"),
        ({"budget": {"images": 0}}, "invalid_parameter", "/budget/images", "greater than or equal to 1"),
        ({"budget": {"seconds": 1e9}}, "invalid_parameter", "/budget/seconds", "less than or equal to"),
        ({"budget": {"epochs": 1}}, "invalid_parameter", "/budget/epochs", "not permitted"),
        ({"on_trouble": "pray"}, "invalid_parameter", "/on_trouble", "rollback"),
        ({"held_out": 0.5}, "invalid_parameter", "/held_out", "less than or equal to 0.2"),
        ({"seed": -1}, "invalid_parameter", "/seed", "(given: -1)"),
        ({"name": ""}, "invalid_parameter", "/name", "at least 1"),
        ({"colour": 1}, "invalid_parameter", "/colour", "not permitted"),
    ],
)
def test_what_is_out_of_bounds_is_refused_with_the_bounds(
    service: Service, change: dict[str, Any], code: str, parameter: str, words: str
) -> None:
    response = service.http.post("/v1/trainings", json={"dataset": service.add_dataset(), **change})

    assert words in assert_problem(response, 422, code, parameter)["detail"]
    assert service.http.get("/v1/jobs").json()["data"] == service.http.get("/v1/models").json()["data"] == []


def test_a_resolution_above_the_datasets_says_how_to_get_there(service: Service) -> None:
    body = {"dataset": service.add_dataset(resolution=64), "resolution": 128}
    problem = assert_problem(service.http.post("/v1/trainings", json=body), 422, "invalid_parameter", "/resolution")
    assert problem["remedy"].startswith("import the pictures again with resolution 128")


def test_labels_can_not_be_learned_where_there_are_none(service: Service) -> None:
    body = {"dataset": service.add_dataset(classes=None), "options": {"conditional": True}}
    response = service.http.post("/v1/trainings", json=body)
    assert_problem(response, 422, "invalid_parameter", "/options/conditional")


def test_an_unknown_dataset_is_not_found(service: Service) -> None:
    response = service.http.post("/v1/trainings", json={"dataset": "ds_nope"})
    assert_problem(response, 404, "dataset_not_found", "/dataset")


@pytest.mark.parametrize("status", [DatasetStatus.IMPORTING, DatasetStatus.FAILED])
def test_a_dataset_that_is_not_ready_is_a_conflict(service: Service, status: DatasetStatus) -> None:
    dataset_id = new_id("ds")
    with service.resources.database.transaction() as session:
        session.add(Dataset(id=dataset_id, name="raw", status=status))

    problem = assert_problem(
        service.http.post("/v1/trainings", json={"dataset": dataset_id}), 409, "dataset_not_ready", "/dataset"
    )

    assert problem["dataset_status"] == status.value


def test_the_same_key_gives_the_same_training_even_without_a_seed(service: Service) -> None:
    dataset_id = service.add_dataset()
    headers = {"Idempotency-Key": "t1"}
    first = service.http.post("/v1/trainings", json={"dataset": dataset_id}, headers=headers)
    second = service.http.post("/v1/trainings", json={"dataset": dataset_id}, headers=headers)
    third = service.http.post("/v1/trainings", json={"dataset": dataset_id, "seed": 1}, headers=headers)

    assert first.json()["id"] == second.json()["id"]
    assert first.headers["location"] == second.headers["location"]
    assert_problem(third, 422, "idempotency_key_reused", "Idempotency-Key")
    assert len(service.http.get("/v1/models").json()["data"]) == 1


def test_a_key_of_another_route_is_another_key(service: Service) -> None:
    headers = {"Idempotency-Key": "same"}
    training = service.http.post("/v1/trainings", json={"dataset": service.add_dataset()}, headers=headers)
    generation = service.http.post("/v1/generations", json={"model": service.add_model()}, headers=headers)
    assert training.status_code == generation.status_code == 202


@pytest.mark.parametrize("key", ["", "k" * 151, "two words"])
def test_an_unusable_key_is_refused(service: Service, key: str) -> None:
    response = service.http.post("/v1/trainings", json={"dataset": "ds_1"}, headers={"Idempotency-Key": key})
    assert_problem(response, 422, "invalid_parameter", "Idempotency-Key")


def test_what_nobody_names_is_left_to_the_worker(service: Service) -> None:
    """Given no kind, I expect a wish that holds what was asked for and nothing that was not."""
    dataset = service.add_dataset()
    answer = service.http.post(
        "/v1/trainings", json={"dataset": dataset, "options": {"batch_size": 8}, "budget": {"images": 64}}
    )
    assert answer.status_code == 202
    job = answer.json()
    assert (job["request"]["kind"], job["request"]["options"]) == ("auto", {"batch_size": 8})
    refused = service.http.post("/v1/trainings", json={"dataset": dataset, "options": {"base_channels": 8}})
    assert (refused.status_code, refused.json()["parameter"]) == (422, "/options/base_channels")


def test_a_preset_fills_in_what_the_request_leaves_open(service: Service) -> None:
    dataset = service.add_dataset()
    body = {"dataset": dataset, "kind": "gan-dcgan", "preset": "quick", "options": {"base_channels": 8}}
    options = service.http.post("/v1/trainings", json=body).json()["request"]["options"]
    assert (options["base_channels"], options["loss"]) == (8, "relativistic")
    refused = service.http.post("/v1/trainings", json={**body, "preset": "slow"})
    assert refused.status_code == 422
    assert "quick" in refused.text


def test_what_to_do_about_troubles_is_handed_on(service: Service) -> None:
    body = {"dataset": service.add_dataset(), "on_trouble": "rollback", "held_out": 0.1}
    request = service.http.post("/v1/trainings", json=body).json()["request"]
    assert (request["on_trouble"], request["held_out"]) == ("rollback", 0.1)


def begin_with(service: Service, model_id: str, **body: Any) -> Any:
    dataset_id = body.pop("dataset", None) or service.add_dataset()
    return service.http.post("/v1/trainings", json={"dataset": dataset_id, "init_from": model_id, **body})


def test_a_training_may_begin_with_another_model(service: Service) -> None:
    """Given a model, when a training begins with it, I expect its kind, resolution and options, and its weights pinned."""
    source = service.add_model()

    response = begin_with(service, source, name="my pet", options={"freeze_layers": 1, "batch_size": 16})

    assert response.status_code == 202, response.text
    job = response.json()
    options = catalog.parse_options("gan-dcgan", {"freeze_layers": 1, "batch_size": 16}).model_dump()
    assert (job["request"]["kind"], job["request"]["resolution"]) == ("gan-dcgan", 32)
    assert (job["request"]["options"], job["request"]["init_from"]) == (options, source)
    model = service.http.get(f"/v1/models/{job['model']}").json()
    assert model["init_from"] == {"model": source, "name": "pets 32", "images_seen": 1000}
    assert service.http.get(f"/v1/models/{source}").json()["init_from"] is None
    with service.resources.database.snapshot() as session:
        assert session.get_one(Job, job["id"]).checkpoint == f"models/{source}/000000001000-1"


def test_a_model_that_a_training_is_to_begin_with_is_not_deleted(service: Service) -> None:
    """Given a queued training, I expect the model kept; once the training let go of it, or was canceled, deleted."""
    source = service.add_model()
    job = begin_with(service, source).json()
    assert_problem(service.http.delete(f"/v1/models/{source}"), 409, "in_use", "model_id")
    service.http.post(f"/v1/jobs/{job['id']}/cancel")
    assert service.http.delete(f"/v1/models/{source}").status_code == 204
    kept = service.http.get(f"/v1/models/{job['model']}").json()["init_from"]
    assert kept == {"model": source, "name": "pets 32", "images_seen": 1000}


@pytest.mark.parametrize(
    ("body", "status", "code", "parameter"),
    [
        ({"kind": "gan-r3"}, 422, "invalid_parameter", "/kind"),
        ({"options": {"base_channels": 32}}, 422, "invalid_option", "/options/base_channels"),
        ({"resolution": 64}, 422, "invalid_parameter", "/resolution"),
    ],
)
def test_what_does_not_fit_the_model_to_begin_with_is_refused(
    service: Service, body: dict[str, Any], status: int, code: str, parameter: str
) -> None:
    response = begin_with(service, service.add_model(), **body)
    assert_problem(response, status, code, parameter)


def test_a_model_of_other_pictures_or_none_is_refused(service: Service) -> None:
    assert_problem(begin_with(service, service.add_model(has_weights=False)), 409, "model_not_ready", "/init_from")
    assert_problem(begin_with(service, "mdl_none"), 404, "model_not_found", "/init_from")
    assert_problem(begin_with(service, service.add_model(), kind="vae-nope"), 422, "unknown_kind", "/kind")
    model_id = service.add_model()
    with service.resources.database.transaction() as session:
        session.get_one(Model, model_id).channels = 1
    response = begin_with(service, model_id)
    assert_problem(response, 422, "invalid_parameter", "/init_from")
    assert "import the pictures again with channels 1" in response.text
