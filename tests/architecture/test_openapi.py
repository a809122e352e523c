"""The OpenAPI document is complete, and its examples are true."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from pydantic import BaseModel

from app.main import create_app
from app.pages import Page
from store.database import Database
from store.events import MemoryBus
from store.memory_blobs import MemoryBlobs
from store.queue import MemoryQueue
from store.resources import Resources
from store.settings import Settings

APP = create_app(
    Resources(Settings(_env_file=None), Database("sqlite:///unused.db"), MemoryBlobs(), MemoryBus(), MemoryQueue())
)
DOCUMENT: dict[str, Any] = APP.openapi()
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
SCHEMAS = {name: schema for name, schema in DOCUMENT["components"]["schemas"].items() if "enum" not in schema}


def models(base: type[BaseModel] = BaseModel) -> Iterator[type[BaseModel]]:
    for child in base.__subclasses__():
        if child.__module__.startswith("app.") and child is not Page and "[" not in child.__name__:
            yield child
        yield from models(child)


def test_the_document_holds_the_whole_contract() -> None:
    assert set(OPERATIONS) == {
        "POST /v1/datasets",
        "GET /v1/datasets",
        "GET /v1/datasets/{dataset_id}",
        "DELETE /v1/datasets/{dataset_id}",
        "GET /v1/kinds",
        "POST /v1/trainings",
        "GET /v1/trainings",
        "GET /v1/trainings/{training_id}",
        "GET /v1/trainings/{training_id}/metrics",
        "GET /v1/trainings/{training_id}/previews",
        "GET /v1/trainings/{training_id}/previews/{images_seen}",
        "GET /v1/trainings/{training_id}/checkpoints",
        "POST /v1/trainings/{training_id}/checkpoints/{images_seen}/promote",
        "GET /v1/models",
        "POST /v1/models",
        "GET /v1/models/{model_id}",
        "DELETE /v1/models/{model_id}",
        "GET /v1/models/{model_id}/metrics",
        "GET /v1/models/{model_id}/preview",
        "POST /v1/models/{model_id}/exports",
        "GET /v1/models/{model_id}/exports/{format}",
        "POST /v1/evaluations",
        "GET /v1/evaluations/{job_id}/strips",
        "POST /v1/generations",
        "GET /v1/jobs",
        "GET /v1/jobs/{job_id}",
        "DELETE /v1/jobs/{job_id}",
        "POST /v1/jobs/{job_id}/cancel",
        "GET /v1/jobs/{job_id}/events",
        "GET /v1/jobs/{job_id}/webhook",
        "GET /v1/webhook-secret",
        "GET /v1/jobs/{job_id}/images.zip",
        "GET /v1/jobs/{job_id}/grid.png",
        "GET /v1/images",
        "GET /v1/images/{image_id}",
        "DELETE /v1/images/{image_id}",
        "GET /v1/images/{image_id}/content",
        "POST /v1/keys",
        "GET /v1/keys",
        "GET /v1/keys/{key_id}",
        "DELETE /v1/keys/{key_id}",
        "GET /v1/system",
        "GET /metrics",
        "GET /healthz",
        "GET /readyz",
    }


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_route_is_described(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation["summary"]
    assert operation["description"]
    assert operation["operationId"].replace("_", "").isalpha()
    assert operation["tags"]
    assert {tag["name"] for tag in DOCUMENT["tags"]} >= set(operation["tags"])
    for parameter in operation.get("parameters", []):
        assert parameter.get("description"), parameter["name"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_refusal_is_told_by_its_status_and_has_the_one_shape(name: str) -> None:
    operation = OPERATIONS[name]
    responses = {status: response for status, response in operation["responses"].items() if status >= "400"}
    expected = {"400", "500"}
    expected |= {"404"} if "{" in name else set()
    expected |= {"403", "507"} if not name.startswith("GET") else set()
    expected |= {"413", "415", "422"} if "requestBody" in operation else set()
    assert set(responses) >= expected
    assert "default" not in responses
    for status, response in responses.items():
        assert response["description"]
        assert response["content"] == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
        assert ("Retry-After" in response["headers"]) == (status in {"429", "503"})


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_headers_of_answers_are_described(name: str) -> None:
    responses = OPERATIONS[name]["responses"]
    for status, response in responses.items():
        assert "X-Request-Id" in response["headers"]
        assert ("Location" in response["headers"]) == (status in {"201", "202"})
    if "304" in responses:
        assert "ETag" in responses["304"]["headers"]
        assert "ETag" in responses["200"]["headers"]


def test_links_lead_to_a_parameter_of_an_operation_and_come_from_a_member_of_the_answer() -> None:
    by_id = {operation["operationId"]: operation for operation in OPERATIONS.values()}
    linked = set()
    for operation in OPERATIONS.values():
        for response in operation["responses"].values():
            for link in response.get("links", {}).values():
                ((parameter, source),) = link["parameters"].items()
                linked.add(link["operationId"])
                assert parameter in {one["name"] for one in by_id[link["operationId"]]["parameters"]}
                schema = response["content"]["application/json"]["schema"]
                for step in source.removeprefix("$response.body#/").split("/"):
                    while "$ref" in schema:
                        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
                    schema = schema["items"] if step == "0" else schema["properties"][step]
    ids = {operation for operation in by_id if any(p["in"] == "path" for p in by_id[operation].get("parameters", []))}
    assert ids - linked == {"get_evaluation_strips", "get_export", "get_training_preview", "promote_checkpoint"}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_example_of_a_parameter_is_a_valid_one(name: str) -> None:
    for parameter in OPERATIONS[name].get("parameters", []):
        for example in parameter["schema"].get("examples", []):
            assert jsonschema_rs.is_valid(parameter["schema"], example), parameter["name"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_example_of_a_model_fits_its_own_schema(name: str) -> None:
    for example in SCHEMAS[name]["examples"]:
        jsonschema_rs.validate({**DOCUMENT, "$ref": f"#/components/schemas/{name}"}, example)


def test_operation_ids_are_unique() -> None:
    ids = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_model_has_a_description_and_an_example(name: str) -> None:
    schema = SCHEMAS[name]
    assert schema["description"]
    assert schema["examples"]
    for field, described in schema["properties"].items():
        assert described.get("description") or "$ref" in described or "allOf" in described, field


@pytest.mark.parametrize("model", {model.__name__: model for model in models()}.values())
def test_every_example_is_a_valid_one(model: type[BaseModel]) -> None:
    for example in model.model_json_schema()["examples"]:
        model.model_validate(example)


def test_every_reference_leads_somewhere() -> None:
    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            yield from ([node["$ref"]] if isinstance(node.get("$ref"), str) else [])
            for child in node.values():
                yield from references(child)
        elif isinstance(node, list):
            for child in node:
                yield from references(child)

    known = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert set(references(DOCUMENT)) <= known
