"""Webhooks over HTTP: how a create asks for one, and what has become of it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from app.auth import MayRead, MayWork
from app.dependencies import Attached, JobId
from app.errors import NotFound, WebhooksDisabled
from app.jobs import read
from store import records
from store.addresses import LONGEST_URL, Reach
from store.records import WebhookStatus
from store.settings import PREFIX, Settings
from store.signatures import secret_of

router = APIRouter(prefix="/v1", tags=["jobs"])


class Webhook(BaseModel):
    """Who is told when a job has ended, however it ends; docs/webhooks.md says how to check that it was us."""

    url: str = Field(
        min_length=1,
        max_length=LONGEST_URL,
        description="Gets a signed POST with `type` (`job.succeeded`, `job.failed` or `job.canceled`), `timestamp` and the job "
        "as `data`. Public hosts only; any 2xx answer will do, otherwise it comes again.",
    )

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"url": "https://example.org/darkroom?of=shoes"}]}
    )


AskedWebhook = Annotated[
    Webhook | None,
    Field(description="Who is told when the job has ended. Default: nobody."),
]


def url_of(settings: Settings, webhook: Webhook | None) -> str | None:
    """Return where a webhook goes, as far as can be told before it does; None where none is asked for.

    Raises:
        WebhooksDisabled: there is nothing to sign it with.
        TargetRefused: its URL is none that may be used.
    """
    if webhook is None:
        return None
    if not settings.webhook_secret:
        raise WebhooksDisabled(
            "webhook: webhooks are off, since there is no secret to sign them with",
            parameter="/webhook",
            remedy=f"set {PREFIX}WEBHOOK_SECRET and restart (docs/webhooks.md), or wait for the job: ?wait=, events",
        )
    Reach(settings.webhook_allowed, settings.webhook_ports).target(webhook.url)
    return webhook.url


class WebhookState(BaseModel):
    """What has become of a webhook."""

    id: str = Field(description="The `Webhook-Id` of every attempt.")
    object: str = Field("webhook", description="Always `webhook`.")
    job: str = Field(description="Whose end it tells of.")
    url: str = Field(description="Where it goes.")
    status: WebhookStatus = Field(
        description="`pending`: the job has not ended, or another attempt comes. `delivered`. `failed`: the last attempt did."
    )
    attempts: int = Field(description="Attempts begun.")
    next_at: datetime | None = Field(description="While it is pending: there is no attempt before.")
    error: str | None = Field(description="Why the last attempt came to nothing.")
    ended_at: datetime | None = Field(description="When it was delivered or given up.")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "whk_019ad3a8b1ce7d10a6f1c37e2d40b9a5",
                    "object": "webhook",
                    "job": "job_019ad3a8b1ce7d10a6f1c37e2d40b9a5",
                    "url": "https://example.org/darkroom?of=shoes",
                    "status": "pending",
                    "attempts": 1,
                    "next_at": "2026-01-05T12:00:36Z",
                    "error": "the answer was 503",
                    "ended_at": None,
                }
            ]
        }
    )


class WebhookSecret(BaseModel):
    """What an account's webhooks are signed with."""

    object: str = Field("webhook_secret", description="Always `webhook_secret`.")
    account: str = Field(description="Whose.")
    secret: str = Field(description="`whsec_` and the base64 of the key of HMAC-SHA256.")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"object": "webhook_secret", "account": "shop", "secret": "whsec_(44 characters of base64)"}]
        }
    )


@router.get("/webhook-secret", summary="Show the secret of your webhooks", operation_id="get_webhook_secret")
def get_webhook_secret(caller: MayWork, resources: Attached, response: Response) -> WebhookSecret:
    """What receivers check signatures with. Every account has its own; whoever runs the service changes all of them by changing
    the setting that they are made of.
    """
    settings = resources.settings
    if not settings.webhook_secret:
        raise NotFound(
            "there is no secret, since webhooks are off",
            code="webhooks_disabled",
            remedy=f"set {PREFIX}WEBHOOK_SECRET and restart (docs/webhooks.md)",
        )
    response.headers["Cache-Control"] = "no-store"
    return WebhookSecret(account=caller.account, secret=secret_of(settings.webhook_secret, caller.account))


@router.get("/jobs/{job_id}/webhook", summary="Show what has become of a job's webhook", operation_id="get_job_webhook")
def get_webhook(caller: MayRead, resources: Attached, job_id: JobId) -> WebhookState:
    """The webhook that was asked for with the job: whether it was delivered, how often that was tried, and what went wrong."""
    read(resources, caller, job_id)
    with resources.database.snapshot() as session:
        row = session.scalar(select(records.Webhook).where(records.Webhook.job_id == job_id))
    if row is None:
        raise NotFound(
            f"no webhook was asked for with {job_id}",
            code="webhook_not_found",
            parameter="job_id",
            remedy="name one as `webhook` when you make the job",
        )
    return WebhookState(
        id=row.id,
        job=row.job_id,
        url=row.url,
        status=row.status,
        attempts=row.attempts,
        next_at=row.next_at if row.status is WebhookStatus.PENDING else None,
        error=row.error,
        ended_at=row.ended_at,
    )
