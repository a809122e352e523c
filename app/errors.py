"""The errors that app raises, and the one table that says how every error is answered.

AppError
├── MalformedRequest     the bytes are not what they claim to be
├── UnknownHost          the Host header names none of ours (against DNS rebinding)
├── Unauthenticated      who asks can't be told
│   ├── MissingKey           no API key came along
│   └── InvalidKey           the API key is unknown, has expired or was revoked
├── Forbidden            not allowed
│   ├── MissingScope         the API key may not do this
│   ├── CrossSite            another site's page sent this write
│   ├── ImportsDisabled      no import root is set
│   ├── WebhooksDisabled     no secret to sign them is set
│   └── OutsideImportRoot    the path leads out of it
├── NotFound             nothing has this id
├── NotAcceptable        the answer can't have the form that was asked for
├── Conflict             the state of something does not allow this now
│   ├── InUse                unfinished jobs need what is to be deleted
│   ├── DatasetNotReady      it is still importing, or its import failed
│   ├── ModelNotReady        it has no checkpoint yet
│   └── JobCanceled          the job that was waited for has been canceled
├── TooLarge             the body is larger than the settings allow
├── UnsupportedMedia     the body's type is not one of those that this route reads
├── InvalidParameter     a value is wrong; the message names what is accepted
│   ├── NotAnArchive         the upload is no zip or tar archive
│   ├── SourceNotFound       nothing is at the path to import
│   ├── SourceUnreadable     the system does not let us look at the path to import
│   └── KeyReused            the Idempotency-Key came with another request before
├── QueueFull            as many images wait as may
├── RateLimited          more came within a minute than may
├── QuotaExceeded        the account has used up what it may
├── PictureDamaged       a stored picture is not what was stored
└── JobFailed            the job that was waited for failed; its own code and status
"""

from __future__ import annotations

import http
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect

from models import catalog
from store import errors as store


class AppError(Exception):
    """Base of every error that app raises.

    Args:
        detail: what is wrong, with the offending value.
        code: a word for programs; None: the table's for this class.
        parameter: JSON pointer into the body (`/budget/images`), or the name of a query parameter, header or field.
        remedy: what to do about it.
        more: further members of the problem.
        retry_after_s: when it may succeed; None: the table's for this class.
        headers: of the response.
    """

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        parameter: str | None = None,
        remedy: str | None = None,
        more: Mapping[str, Any] | None = None,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.parameter = parameter
        self.remedy = remedy
        self.more = dict(more or {})
        self.retry_after_s = retry_after_s
        self.headers = dict(headers or {})


class MalformedRequest(AppError):
    """The bytes are not what they claim to be."""


class UnknownHost(AppError):
    """The Host header names none of our hosts."""


class Unauthenticated(AppError):
    """Who asks can't be told."""


class MissingKey(Unauthenticated):
    """No API key came along."""


class InvalidKey(Unauthenticated):
    """The API key is unknown, has expired or was revoked."""


class Forbidden(AppError):
    """Not allowed."""


class MissingScope(Forbidden):
    """The API key may not do this."""


class CrossSite(Forbidden):
    """Another site's page sent this write."""


class ImportsDisabled(Forbidden):
    """Imports by path need an import root, and none is set."""


class WebhooksDisabled(Forbidden):
    """Webhooks need a secret to be signed with, and none is set."""


class OutsideImportRoot(Forbidden):
    """The path leads out of the import root."""


class NotFound(AppError):
    """Nothing has this id."""


class NotAcceptable(AppError):
    """The answer can't have the form that was asked for."""


class Conflict(AppError):
    """The state of something does not allow this now."""


class InUse(Conflict):
    """Unfinished jobs need what is to be deleted."""


class DatasetNotReady(Conflict):
    """The data set is still importing, or its import failed."""


class ModelNotReady(Conflict):
    """The model has no checkpoint yet."""


class JobCanceled(Conflict):
    """The job that was waited for has been canceled."""


class TooLarge(AppError):
    """The body is larger than the settings allow."""


class UnsupportedMedia(AppError):
    """The body's type is not one of those that this route reads."""


class InvalidParameter(AppError):
    """A value is wrong."""


class NotAnArchive(InvalidParameter):
    """The upload is no zip archive."""


class SourceNotFound(InvalidParameter):
    """Nothing is at the path to import."""


class SourceUnreadable(InvalidParameter):
    """The system does not let us look at the path to import."""


class KeyReused(InvalidParameter):
    """The Idempotency-Key came with another request before."""


class QueueFull(AppError):
    """As many images wait as may."""


class RateLimited(AppError):
    """More came within a minute than may."""


class QuotaExceeded(AppError):
    """The account has used up what it may."""


class PictureDamaged(AppError):
    """A stored picture is not what was stored."""


class JobFailed(AppError):
    """The job that was waited for failed.

    Args:
        status: HTTP status by the job's error code.
        detail: the job's error message.
        code: the job's error code.
        job: the job as JSON.
    """

    def __init__(self, status: int, detail: str, *, code: str, remedy: str, job: Mapping[str, Any]) -> None:
        super().__init__(detail, code=code, remedy=remedy, more={"job": dict(job)})
        self.status = status


@dataclass(frozen=True)
class Answer:
    """How a class of errors is answered."""

    status: int
    code: str
    remedy: str | None = None
    retry_after_s: int | None = None
    parameter: str | None = None  # which one is at fault, where the error itself can't know how it came to us


# Every error's answer, by its nearest class here. A test proves that each class of store and app is found.
ANSWERS: Mapping[type[Exception], Answer] = {
    AppError: Answer(500, "internal_error"),
    MalformedRequest: Answer(400, "malformed_request"),
    UnknownHost: Answer(400, "unknown_host"),
    Unauthenticated: Answer(401, "unauthenticated"),
    MissingKey: Answer(401, "missing_api_key"),
    InvalidKey: Answer(401, "invalid_api_key"),
    Forbidden: Answer(403, "forbidden"),
    MissingScope: Answer(403, "missing_scope"),
    CrossSite: Answer(403, "cross_site_write"),
    ImportsDisabled: Answer(403, "imports_by_path_disabled"),
    WebhooksDisabled: Answer(403, "webhooks_disabled"),
    OutsideImportRoot: Answer(403, "outside_import_root"),
    NotFound: Answer(404, "not_found"),
    NotAcceptable: Answer(406, "not_acceptable"),
    Conflict: Answer(409, "conflict"),
    InUse: Answer(409, "in_use"),
    DatasetNotReady: Answer(409, "dataset_not_ready"),
    ModelNotReady: Answer(409, "model_not_ready"),
    JobCanceled: Answer(409, "job_canceled"),
    TooLarge: Answer(413, "too_large"),
    UnsupportedMedia: Answer(415, "unsupported_media_type"),
    InvalidParameter: Answer(422, "invalid_parameter"),
    NotAnArchive: Answer(422, "not_an_archive"),
    SourceNotFound: Answer(422, "source_not_found"),
    SourceUnreadable: Answer(422, "source_unreadable"),
    KeyReused: Answer(422, "idempotency_key_reused"),
    QueueFull: Answer(429, "queue_full", retry_after_s=30),
    RateLimited: Answer(429, "rate_limited", retry_after_s=60),
    QuotaExceeded: Answer(429, "quota_exceeded", retry_after_s=60),
    PictureDamaged: Answer(
        500, "picture_damaged", "generate it again: its `checkpoint` and `recipe` give the same bytes"
    ),
    JobFailed: Answer(500, "job_failed"),
    store.StoreError: Answer(500, "internal_error"),
    store.SettingsError: Answer(500, "settings_error"),
    store.Unavailable: Answer(503, "unavailable", "try again in a few seconds; /readyz says what is away", 5),
    store.DatabaseUnavailable: Answer(
        503, "database_unavailable", "try again in a few seconds; /readyz says what is away", 5
    ),
    store.NewerSchema: Answer(503, "newer_schema", "start the release that has migrated the database", 60),
    store.RedisUnavailable: Answer(
        503, "redis_unavailable", "try again in a few seconds; /readyz says what is away", 5
    ),
    store.BlobsUnavailable: Answer(
        503, "blobs_unavailable", "try again in a few seconds; /readyz says what is away", 5
    ),
    store.StorageFull: Answer(507, "storage_full", "free some space where Darkroom keeps its data, then try again"),
    store.BlobNotFound: Answer(404, "blob_not_found", "it was deleted meanwhile"),
    store.BackupError: Answer(500, "backup_error"),
    store.BackupDamaged: Answer(500, "backup_damaged"),
    store.JobNotFound: Answer(404, "job_not_found", "GET /v1/jobs lists the jobs that there are", parameter="job_id"),
    store.TargetRefused: Answer(
        422,
        "webhook_refused",
        "name a public host, without user and password, on the usual ports; whoever runs this service may allow others",
        parameter="/webhook/url",
    ),
    store.InvalidTransition: Answer(409, "job_ended", "look at the job's status first", parameter="job_id"),
    store.KeyNotFound: Answer(404, "key_not_found", "GET /v1/keys lists the keys that there are", parameter="key_id"),
    store.LastAdminKey: Answer(409, "last_admin_key", "make another key with the scope admin first, without an expiry"),
    store.LeaseLost: Answer(409, "lease_lost"),
    catalog.UnknownKind: Answer(422, "unknown_kind", "GET /v1/kinds lists every kind"),
    catalog.InvalidOption: Answer(422, "invalid_option", "GET /v1/kinds lists every option with its bounds"),
    ClientDisconnect: Answer(400, "client_disconnected"),
}


def answer_to(error: type[Exception]) -> Answer:
    """Return how errors of this class are answered; one that nobody foresaw is a bug, so 500."""
    for ancestor in error.__mro__:
        if ancestor in ANSWERS:
            return ANSWERS[ancestor]
    return Answer(500, "internal_error")


class OpenAIError(BaseModel):
    """The same error as OpenAI's clients read it."""

    message: str = Field(description="What is wrong.")
    type: str = Field(description="`invalid_request_error`, or `server_error` where trying again may help.")
    param: str | None = Field(description="The offending parameter.")
    code: str = Field(description="A word for programs.")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "message": "there is no model mdl_0",
                    "type": "invalid_request_error",
                    "param": "/model",
                    "code": "model_not_found",
                }
            ]
        }
    )


class Problem(BaseModel):
    """What went wrong: every error of this service has this shape (RFC 9457, `application/problem+json`)."""

    type: str = Field(description="URI of the kind of problem.")
    title: str = Field(description="The HTTP status in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What is wrong, with the offending value.")
    code: str = Field(description="A word for programs, stable between releases.")
    parameter: str | None = Field(
        None, description="JSON pointer into the body, or the name of a query parameter, header or form field."
    )
    remedy: str | None = Field(None, description="What to do about it.")
    instance: str = Field(description="Path of the request.")
    request_id: str = Field(description="Also in the X-Request-Id header and in the service's log.")
    error: OpenAIError

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:darkroom:problem:model_not_found",
                    "title": "Not Found",
                    "status": 404,
                    "detail": "there is no model mdl_0",
                    "code": "model_not_found",
                    "parameter": "/model",
                    "remedy": "GET /v1/models lists the models that there are",
                    "instance": "/v1/generations",
                    "request_id": "req_0f3b5c8d2e9a4b7f",
                    "error": {
                        "message": "there is no model mdl_0",
                        "type": "invalid_request_error",
                        "param": "/model",
                        "code": "model_not_found",
                    },
                }
            ]
        },
    )


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    instance: str,
    request_id: str,
    parameter: str | None = None,
    remedy: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a problem as JSON values; `more` are members beyond the standard's."""
    return {
        "type": f"urn:darkroom:problem:{code}",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "parameter": parameter,
        "remedy": remedy,
        "instance": instance,
        "request_id": request_id,
        **(more or {}),
        "error": {
            "message": detail,
            "type": "server_error" if status >= 500 else "invalid_request_error",
            "param": parameter,
            "code": code,
        },
    }
