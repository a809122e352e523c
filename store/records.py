"""The rows: data sets, models, jobs, images, API keys."""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Enum,
    ForeignKey,
    Index,
    String,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedColumn, mapped_column


class UtcDateTime(TypeDecorator[datetime]):
    """A moment with its time zone; SQLite keeps none, so it is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Any zone is stored as UTC; a moment without a zone is a bug."""
        if value is not None and value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """What the database kept, in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _now() -> datetime:
    return datetime.now(UTC)


def _words(values: type[enum.Enum]) -> Enum:
    # Stored as plain words: a new member then needs no migration of a database type.
    return Enum(
        values, native_enum=False, create_constraint=False, length=16, values_callable=lambda e: [m.value for m in e]
    )


class Record(DeclarativeBase):
    """Base of every row."""

    _json = JSON(none_as_null=True)
    type_annotation_map = {
        dict[str, Any]: _json,
        list[str]: _json,
        list[dict[str, Any]]: _json,
        datetime: UtcDateTime,
    }


class JobKind(enum.StrEnum):
    """What a job does."""

    IMPORT = "import"
    TRAIN = "train"
    SAMPLE = "sample"
    EVALUATE = "evaluate"
    EXPORT = "export"
    IMPORT_MODEL = "import-model"


class JobStatus(enum.StrEnum):
    """Where a job stands; store/jobs.py holds the steps between."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class JobPriority(enum.StrEnum):
    """How soon a job's turn comes; store/jobs.py says what that means in the line."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class WebhookStatus(enum.StrEnum):
    """How far a webhook is."""

    PENDING = "pending"  # its job has not ended, or another attempt will come
    DELIVERED = "delivered"
    FAILED = "failed"


class DatasetStatus(enum.StrEnum):
    """Whether a data set can be trained on."""

    IMPORTING = "importing"
    READY = "ready"
    FAILED = "failed"


class ModelStatus(enum.StrEnum):
    """Whether a model is still learning; one with a checkpoint can generate in any status."""

    TRAINING = "training"
    READY = "ready"
    FAILED = "failed"


class Scope(enum.StrEnum):
    """What an API key may do; store/keys.py says which implies which."""

    READ = "read"
    GENERATE = "generate"
    TRAIN = "train"
    ADMIN = "admin"


DEFAULT_ACCOUNT = "default"  # the first admin key's, and of rows from before there were accounts
LONGEST_ACCOUNT = 40  # characters


def _account() -> MappedColumn[str]:
    """Whose row it is. The database fills it in for workers of an older release, which know no accounts."""
    return mapped_column(String(LONGEST_ACCOUNT), default=DEFAULT_ACCOUNT, server_default=DEFAULT_ACCOUNT)


class Dataset(Record):
    """Pictures that were uploaded and prepared; their pixels and manifest are blobs under `datasets/{id}/`."""

    __tablename__ = "datasets"
    __table_args__ = (Index("ix_datasets_account", "account", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account: Mapped[str] = _account()
    name: Mapped[str] = mapped_column(String(200))
    status: Mapped[DatasetStatus] = mapped_column(_words(DatasetStatus), default=DatasetStatus.IMPORTING)
    created_at: Mapped[datetime] = mapped_column(default=_now)
    image_count: Mapped[int] = mapped_column(default=0)
    refused_count: Mapped[int] = mapped_column(default=0)
    resolution: Mapped[int | None]  # side of the prepared squares, px; None until ready
    channels: Mapped[int | None]  # 1 or 3
    classes: Mapped[list[dict[str, Any]] | None]  # [{"name", "count"}] by index; None when unlabelled
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0)


class Model(Record):
    """A generator in training or trained; its weights are blobs under `models/{id}/`."""

    __tablename__ = "models"
    __table_args__ = (Index("ix_models_account", "account", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account: Mapped[str] = _account()
    name: Mapped[str] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(40))
    status: Mapped[ModelStatus] = mapped_column(_words(ModelStatus), default=ModelStatus.TRAINING)
    created_at: Mapped[datetime] = mapped_column(default=_now)
    dataset_id: Mapped[str | None] = mapped_column(String(40))  # what it learned from; may be deleted by now
    dataset_name: Mapped[str | None] = mapped_column(String(200))
    resolution: Mapped[int]
    channels: Mapped[int]
    classes: Mapped[list[str] | None]  # names by label index; None when unconditional
    options: Mapped[dict[str, Any]]
    seed: Mapped[int] = mapped_column(BigInteger)
    images_seen: Mapped[int] = mapped_column(BigInteger, default=0)
    metrics: Mapped[dict[str, Any]] = mapped_column(default=dict)
    checkpoint: Mapped[str | None] = mapped_column(
        String(200)
    )  # blob prefix of the weights that it samples from; None before the first
    preview: Mapped[str | None] = mapped_column(String(200))  # blob key of the newest fixed-seed grid
    promoted: Mapped[int | None] = mapped_column(
        BigInteger
    )  # images_seen of the weights chosen; None: always the newest
    init_from: Mapped[dict[str, Any] | None]  # {"model", "name", "images_seen"} that its training began with


class TrainingMetric(Record):
    """What a training had to say at one moment: a point of its learning curves."""

    __tablename__ = "training_metrics"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    images_seen: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    elapsed_s: Mapped[float]  # of training, over all attempts
    images_per_s: Mapped[float]
    losses: Mapped[dict[str, Any]]
    gauges: Mapped[dict[str, Any] | None]  # what else there was to watch; None where nothing was
    scores: Mapped[dict[str, Any] | None]  # of the averaged generator; None where it was not measured


class TrainingCheckpoint(Record):
    """Weights that a training kept on its way; the newest also holds all that it needs to go on."""

    __tablename__ = "training_checkpoints"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    images_seen: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    blob: Mapped[str] = mapped_column(String(200))  # prefix of its files
    scores: Mapped[dict[str, Any] | None]  # of its averaged generator; None: not measured
    created_at: Mapped[datetime] = mapped_column(default=_now)


class TrainingPreview(Record):
    """A fixed-seed grid that a training kept on its way."""

    __tablename__ = "training_previews"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    images_seen: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    blob: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(default=_now)


HAS_DEADLINE = text("deadline_at IS NOT NULL")


class Job(Record):
    """A long action, its state and its progress; the row is the truth (docs/jobs.md)."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_claim", "status", "kind", "turn_at", "id"),
        Index("ix_jobs_late", "status", "deadline_at", sqlite_where=HAS_DEADLINE, postgresql_where=HAS_DEADLINE),
        Index("ix_jobs_model", "model_id", "status"),
        Index("ix_jobs_account", "account", "id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account: Mapped[str] = _account()
    kind: Mapped[JobKind] = mapped_column(_words(JobKind))
    status: Mapped[JobStatus] = mapped_column(_words(JobStatus), default=JobStatus.QUEUED)
    request: Mapped[dict[str, Any]]
    dataset_id: Mapped[str | None] = mapped_column(String(40), index=True)
    model_id: Mapped[str | None] = mapped_column(String(40))
    checkpoint: Mapped[str | None] = mapped_column(String(200))  # weights that a job is pinned to
    idempotency_key: Mapped[str | None] = mapped_column(
        String(200), unique=True
    )  # the client's, with its account and route
    idempotency_hash: Mapped[str | None] = mapped_column(String(64))  # of the body that came with it
    request_id: Mapped[str | None] = mapped_column(String(64))  # of the HTTP request that made it, as the logs name it
    created_at: Mapped[datetime] = mapped_column(default=_now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    # The line
    priority: Mapped[JobPriority] = mapped_column(_words(JobPriority), default=JobPriority.INTERACTIVE)
    turn_at: Mapped[datetime] = mapped_column(
        default=_now
    )  # when its turn is due, earlier first; later than now: it yields
    deadline_at: Mapped[datetime | None]  # ended as canceled if it has not succeeded by then; None: no matter when

    # The lease
    owner: Mapped[str | None] = mapped_column(String(200))
    lease_until: Mapped[datetime | None]
    fence: Mapped[int] = mapped_column(default=0)  # grows with each claim; a late worker's number no longer fits
    attempts: Mapped[int] = mapped_column(default=0)  # claims since the last committed progress
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    put_back_at: Mapped[datetime | None]  # first time in a row that it was put back for no fault of its own
    needs: Mapped[int] = mapped_column(default=1, server_default=text("1"))  # what its worker must understand

    # Progress and end
    cursor: Mapped[int] = mapped_column(BigInteger, default=0)  # work committed for good: images stored, or images seen
    done: Mapped[float] = mapped_column(default=0.0)
    total: Mapped[float | None]
    unit: Mapped[str] = mapped_column(String(16), default="images")
    rate: Mapped[float | None]  # units a second
    eta_s: Mapped[float | None]
    result: Mapped[dict[str, Any] | None]
    error_code: Mapped[str | None] = mapped_column(String(40))
    error_message: Mapped[str | None] = mapped_column(String(2000))
    error_retryable: Mapped[bool | None]


class Webhook(Record):
    """Somebody who is to be told of a job's end."""

    __tablename__ = "webhooks"
    __table_args__ = (
        Index(
            "ix_webhooks_due",
            "next_at",
            sqlite_where=text("status = 'pending'"),
            postgresql_where=text("status = 'pending'"),
        ),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), unique=True)
    url: Mapped[str] = mapped_column(String(2000))
    status: Mapped[WebhookStatus] = mapped_column(_words(WebhookStatus), default=WebhookStatus.PENDING)
    attempts: Mapped[int] = mapped_column(default=0)  # begun
    next_at: Mapped[datetime]  # no attempt before this moment
    error: Mapped[str | None] = mapped_column(String(500))  # why the last attempt came to nothing
    created_at: Mapped[datetime] = mapped_column(default=_now)
    ended_at: Mapped[datetime | None]


class Image(Record):
    """A generated picture; its PNG is a blob."""

    __tablename__ = "images"
    __table_args__ = (UniqueConstraint("job_id", "position"), Index("ix_images_account", "account", "id"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account: Mapped[str] = _account()  # its job's
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    position: Mapped[int]  # 0-based place within its job
    model_id: Mapped[str] = mapped_column(String(40), index=True)
    checkpoint: Mapped[str] = mapped_column(String(200))
    seed: Mapped[int] = mapped_column(BigInteger)
    label: Mapped[str | None] = mapped_column(String(255))  # class name
    recipe: Mapped[dict[str, Any] | None]  # what it was made of besides seed and label; None: nothing
    width: Mapped[int]
    height: Mapped[int]
    blob: Mapped[str] = mapped_column(String(200))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(default=_now)


# What a key may have its own limit of.
KEY_LIMITS = ("requests_per_minute", "images_per_day", "queued_jobs", "trainings", "stored_bytes")


class ImageUsage(Record):
    """Images that an account asked for on one day, whatever became of them; written where they are limited."""

    __tablename__ = "image_usage"

    account: Mapped[str] = mapped_column(String(LONGEST_ACCOUNT), primary_key=True)
    day: Mapped[str] = mapped_column(String(10), primary_key=True)  # of UTC, as 2026-01-05
    images: Mapped[int] = mapped_column(BigInteger)


class ApiKey(Record):
    """A key to the HTTP face; its secret was shown once and is kept nowhere."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    account: Mapped[str] = mapped_column(String(LONGEST_ACCOUNT), index=True)
    scopes: Mapped[list[str]]
    limits: Mapped[dict[str, Any] | None]  # its own in place of the settings': KEY_LIMITS; None: it has none
    hash: Mapped[str] = mapped_column(String(64))  # SHA-256 of the whole key, in hexadecimal
    created_at: Mapped[datetime] = mapped_column(default=_now)
    expires_at: Mapped[datetime | None]  # None: never
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]  # to a minute or so; None: never
