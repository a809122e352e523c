"""The OpenAPI document: what FastAPI reads off the routes, completed by what no signature says.

That is: the models of hand-read bodies, the refusals that every route shares, headers, and links from an answer to what may be
asked next.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from app.auth import describe_scopes
from app.errors import (
    AppError,
    CrossSite,
    InvalidParameter,
    MalformedRequest,
    MissingScope,
    NotFound,
    Problem,
    RateLimited,
    TooLarge,
    Unauthenticated,
    UnknownHost,
    UnsupportedMedia,
)
from app.imports import ImportByPath, UploadForm
from app.model_imports import ModelForm
from app.refusals import refusals
from store.errors import StorageFull, Unavailable

FOREIGN = ("HTTPValidationError", "ValidationError")  # FastAPI's own shapes of errors; none is ever sent
STATELESS = {"/healthz"}  # it answers whatever is away
REQUEST_ID = {
    "X-Request-Id": {
        "description": "The request's id, also in the service's log; yours, if you sent one.",
        "schema": {"type": "string"},
    }
}
ETAG = {"ETag": {"description": "Of what is answered; for `If-None-Match`.", "schema": {"type": "string"}}}

# What may be asked next, by the model of the answer: operation, its parameter, and where in the answer the value stands.
NEXT: dict[str, list[tuple[str, str, str]]] = {
    "Job": [
        ("get_job", "job_id", "/id"),
        ("cancel_job", "job_id", "/id"),
        ("delete_job", "job_id", "/id"),
        ("follow_job", "job_id", "/id"),
        ("get_job_webhook", "job_id", "/id"),
        ("get_job_grid", "job_id", "/id"),
        ("get_job_zip", "job_id", "/id"),
        ("get_dataset", "dataset_id", "/dataset"),
        ("get_model", "model_id", "/model"),
        ("get_training", "training_id", "/model"),
    ],
    "Dataset": [("delete_dataset", "dataset_id", "/id")],
    "Model": [
        ("get_model_preview", "model_id", "/id"),
        ("get_model_metrics", "model_id", "/id"),
        ("create_export", "model_id", "/id"),
        ("list_training_previews", "training_id", "/id"),
        ("list_training_checkpoints", "training_id", "/id"),
        ("delete_model", "model_id", "/id"),
    ],
    "Image": [("get_image_content", "image_id", "/id"), ("delete_image", "image_id", "/id")],
    "NewKey": [("get_key", "key_id", "/id"), ("revoke_key", "key_id", "/id")],
    "TrainingState": [("get_training_metrics", "training_id", "/id")],
    "DatasetPage": [("get_dataset", "dataset_id", "/data/0/id")],
    "ModelPage": [("get_model", "model_id", "/data/0/id")],
    "JobPage": [("get_job", "job_id", "/data/0/id")],
    "ImagePage": [("get_image", "image_id", "/data/0/id")],
    "TrainingPage": [("get_training", "training_id", "/data/0/id")],
}


def describe(app: FastAPI) -> None:
    """Makes the application's OpenAPI document complete."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            _, extra = models_json_schema(
                [(model, "validation") for model in (Problem, ImportByPath, UploadForm, ModelForm)],
                ref_template="#/components/schemas/{model}",
            )
            schemas = document["components"]["schemas"]
            schemas |= extra["$defs"]
            for name in FOREIGN:
                schemas.pop(name, None)
            for schema in schemas.values():
                if "examples" in schema:
                    schema["examples"] = [_with_nulls(one, schema, schemas) for one in schema["examples"]]
            for path, methods in document["paths"].items():
                for method, operation in methods.items():
                    _complete(path, method, operation)
            describe_scopes(document)
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _with_nulls(example: Any, schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """An example with the nulls that FastAPI leaves out of everything it writes."""
    for choice in [schema, *schema.get("anyOf", [])]:
        found = schemas.get(choice.get("$ref", "").rpartition("/")[2], choice)
        if isinstance(example, dict) and "properties" in found:
            nulls = dict.fromkeys(name for name in found.get("required", []) if name not in example)
            known = found["properties"]
            return {**{name: _with_nulls(one, known.get(name, {}), schemas) for name, one in example.items()}, **nulls}
        if isinstance(example, list) and "items" in found:
            return [_with_nulls(one, found["items"], schemas) for one in example]
    return example


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)  # FastAPI's own has another shape
    for status, response in refusals(*_shared(path, method, operation)).items():
        responses.setdefault(str(status), response)
    responses["500"]["description"] = "A defect of Darkroom; the `request_id` finds it in the service's log."
    is_cached = any(parameter["name"] == "if-none-match" for parameter in operation.get("parameters", []))
    for status, response in responses.items():
        headers = {**REQUEST_ID, **(ETAG if is_cached and status in {"200", "304"} else {})}
        response["headers"] = {**headers, **response.get("headers", {})}
        schema = response.get("content", {}).get("application/json", {}).get("schema", {})
        if links := NEXT.get(schema.get("$ref", "").rpartition("/")[2]):
            response["links"] = {
                name: {"operationId": name, "parameters": {parameter: f"$response.body#{place}"}}
                for name, parameter, place in links
            }
    operation["responses"] = dict(sorted(responses.items()))


def _shared(path: str, method: str, operation: dict[str, Any]) -> Iterator[type[Exception]]:
    """The errors that any route like this may answer with, besides those that it names itself."""
    yield from (MalformedRequest, UnknownHost, AppError)
    if operation.get("security"):
        yield from (Unauthenticated, MissingScope, RateLimited)
    if path not in STATELESS:
        yield Unavailable
    if method != "get":
        yield from (CrossSite, StorageFull)
    if "{" in path:
        yield NotFound
    if "requestBody" in operation:
        yield from (TooLarge, UnsupportedMedia)
    if "requestBody" in operation or operation.get("parameters"):
        yield InvalidParameter
