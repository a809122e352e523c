"""Every setting of the service: one typed object, read once from `DARKROOM_*` variables and `.env`."""

from __future__ import annotations

import ipaddress
import shutil
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from store.errors import SettingsError
from store.signatures import key_of

PREFIX = "DARKROOM_"
DATABASE_URLS = "postgresql+psycopg://user:password@host/name, or nothing for a SQLite file in the data directory"
SECRET = {"database_url", "redis_url", "webhook_secret"}  # they hold passwords, and messages are logged
GIB = 2**30


class Settings(BaseSettings):
    """What an operator may change. docs/settings.md lists the same fields; a test keeps the two equal."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    # Where state lives
    data_dir: Path = Field(Path("data"), description="Directory of all state: SQLite file, blobs, Redis file, scratch.")
    database_url: str = Field(
        "",
        repr=False,
        description="SQLAlchemy URL of PostgreSQL (`postgresql+psycopg://…`). Empty: a SQLite file in the data directory.",
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        repr=False,
        description="Redis that carries doorbells and events. `darkroom up` starts its own and sets this.",
    )
    blobs_dir: Path | None = Field(
        None, description="Directory of images, checkpoints and prepared data. Empty: `blobs` in the data directory."
    )
    import_root: Path | None = Field(
        None,
        description="Folder on the workers' disks that imports by `path` may read. Empty: imports by path are refused.",
    )

    # The HTTP face
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port the API listens on.")
    auth: Literal["on", "off"] = Field(
        "on",
        description="Whether requests need an API key. `off`: whoever reaches the port may do everything; on loopback only.",
    )
    allowed_hosts: Annotated[list[str], NoDecode] = Field(
        ["localhost", "127.0.0.1", "[::1]"],
        description="Host names that requests may name (comma-separated); others are refused, against DNS rebinding.",
    )
    max_upload_bytes: int = Field(4 * GIB, ge=1, description="Largest upload accepted, in bytes.")
    max_images_per_request: int = Field(
        10_000, ge=1, description="Most images that one generation request may ask for."
    )
    max_queued_images: int = Field(
        100_000,
        ge=1,
        description="Most images that may wait to be generated, over all requests; "
        "more are answered with 429 and `Retry-After`.",
    )
    max_wait_s: float = Field(60.0, ge=0, description="Longest time that `Prefer: wait=n` is honoured, in seconds.")

    # Limits
    rate_per_key: int = Field(
        300_000,
        ge=0,
        description="Most requests a minute by one API key that has no rate of its own. 0: any number.",
    )
    rate_failures_per_address: int = Field(
        60,
        ge=0,
        description="Most wrong API keys a minute from one address (of IPv6, one /64 network); beyond that keys are not even "
        "looked up for it. 0: any number.",
    )
    quota_images_per_day: int = Field(
        0, ge=0, description="Most images that an account may ask for in a day (UTC). 0: any number."
    )
    quota_queued_jobs: int = Field(0, ge=0, description="Most jobs of an account that may wait. 0: any number.")
    quota_trainings: int = Field(
        0, ge=0, description="Most trainings of an account that may wait or run at once. 0: any number."
    )
    quota_stored_bytes: int = Field(
        0,
        ge=0,
        description="Most bytes of pictures and data sets that an account may keep before it makes more. 0: any number.",
    )

    # Webhooks
    webhook_secret: str = Field(
        "",
        repr=False,
        description="What each account's secret of webhooks is made of: `whsec_` and the base64 of 24 to 64 random bytes. "
        "Empty: none are sent.",
    )
    webhook_allowed: Annotated[list[str], NoDecode] = Field(
        [],
        description="Hosts, addresses, networks (`10.0.0.0/8`) that webhooks may reach beside public ones (comma-separated).",
    )
    webhook_ports: Annotated[list[int], NoDecode] = Field(
        [80, 443], description="Ports that webhooks may go to (comma-separated)."
    )

    # Jobs
    lease_s: float = Field(
        30.0, gt=0, description="A worker that has not renewed its lease for this long lost its job."
    )
    heartbeat_s: float = Field(10.0, gt=0, description="How often a worker renews its leases; well below the lease.")
    reconcile_s: float = Field(
        10.0, gt=0, description="How often expired leases are released and forgotten bells rung."
    )
    max_attempts: int = Field(
        3, ge=1, description="Times that a job may lose its worker without progress between before it fails."
    )

    keep_trying_s: float = Field(
        24 * 3600.0,
        ge=0,
        description="How long a job is put back into the line again and again, without getting further, because a disk is full "
        "or the database, Redis or blobs are away, before it fails.",
    )

    # How long things stay
    keep_images_days: float = Field(
        0.0,
        ge=0,
        description="Days after which generated images are deleted, unless their job is unfinished. 0: never.",
    )
    keep_jobs_days: float = Field(
        0.0,
        ge=0,
        description="Days after their end that jobs are deleted, once their images are gone; what belongs to a model stays as "
        "long as the model. 0: never.",
    )
    keep_checkpoints_days: float = Field(
        0.0,
        ge=0,
        description="Days after which checkpoints of ended trainings are deleted; the newest, the best, the one that the model "
        "samples from, and those that unfinished jobs need stay. 0: never.",
    )
    keep_exports_days: float = Field(
        0.0, ge=0, description="Days after which exported files and their jobs are deleted; export again. 0: never."
    )
    keep_failed_days: float = Field(
        30.0,
        ge=0,
        description="Days after which data sets whose import failed, and models whose training failed before its first "
        "checkpoint, are deleted: nothing is in them. 0: never.",
    )
    min_free_bytes: int = Field(
        GIB, ge=0, description="Warn in `darkroom status`, `/v1/system` and the log when less disk is left for blobs."
    )

    # Workers
    devices: Annotated[list[str], NoDecode] = Field(
        ["auto"],
        description="Devices to pin workers to: `auto` (every CUDA device, else the CPU), `cpu`, or a list `cuda:0,cuda:1`.",
    )
    train_devices: Literal["each", "all"] = Field(
        "each",
        description="`each`: every device trains a model of its own. `all`: the host's CUDA devices train one model together, "
        "each batch shared among them.",
    )
    io_workers: int = Field(1, ge=1, description="Processes that import data sets, on each host.")
    drain_s: float = Field(
        20.0, gt=0, description="Time that workers get to finish or hand back their work at SIGTERM."
    )
    max_batch: int = Field(64, ge=1, le=1024, description="Most images in one forward pass of a sampler.")
    generator_cache_bytes: int = Field(2 * GIB, ge=0, description="Memory for loaded generators, per sampler.")
    rewrite_generators: bool = Field(
        True,
        description="Rewrite generators when a sampler loads them, so that pictures cost less; off: as they were trained, "
        "to the last bit.",
    )
    checkpoint_interval_s: float = Field(30.0, gt=0, description="Seconds of training between checkpoints.")
    preview_interval_s: float = Field(10.0, gt=0, description="Seconds of training between preview grids.")
    evaluation_share: float = Field(
        0.05,
        ge=0,
        le=0.5,
        description="Share of a training's time, at most, for measuring FD-domain, KID and coverage while it goes on. 0: none.",
    )
    evaluation_interval_s: float = Field(
        30.0, ge=0, description="Seconds of training, at least, before the first such measurement and between two."
    )
    tensorboard: bool = Field(
        True,
        description="Write TensorBoard event files of trainings, a folder for each model, where its package is installed.",
    )
    tensorboard_dir: Path | None = Field(
        None, description="Folder for them, on the workers' disks. Empty: `tensorboard` in the data directory."
    )
    torch_threads: int = Field(
        0, ge=0, description="Threads of a CPU worker's tensor operations. 0: PyTorch's own choice."
    )
    inception_file: Path | None = Field(
        None,
        description="File of torch-fidelity's Inception weights: evaluations then give FID and IS too (extra `fid`). "
        "Empty: neither.",
    )
    provenance: bool = Field(
        True,
        description="Write into every PNG that it is generated: seed and model, IPTC source type, and the AIGC label.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")

    @field_validator("allowed_hosts", "devices", "webhook_allowed", "webhook_ports", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("devices")
    @classmethod
    def _known_devices(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in {"auto", "cpu"} and not (name.startswith("cuda:") and name[5:].isdigit()):
                raise ValueError(f"{name!r} is no device; write auto, cpu, or cuda:0,cuda:1")
        if not value or (len(value) > 1 and {"auto", "cpu"} & set(value)):
            raise ValueError("write auto, cpu, or a list of CUDA devices such as cuda:0,cuda:1")
        return value

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str) -> str:
        if not value:
            return value
        try:
            url = make_url(value)
        except ArgumentError as error:
            raise ValueError(f"this is no URL of a database; write {DATABASE_URLS}") from error
        backend = url.get_backend_name() if url.drivername != "postgres" else "postgresql"
        if backend == "postgresql" and "+" not in url.drivername:
            # What other programs call postgresql://… is what we can speak: our one driver is implied.
            return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        if url.drivername not in {"sqlite", "postgresql+psycopg"}:
            raise ValueError(f"{url.drivername}:// is not supported; write {DATABASE_URLS}")
        if backend == "sqlite" and url.database in {None, "", ":memory:"}:
            raise ValueError("a database in memory can't be shared by several processes; name a file")
        return value

    @field_validator("redis_url")
    @classmethod
    def _known_redis(cls, value: str) -> str:
        if not value.startswith(("redis://", "rediss://")):
            raise ValueError("this is no URL of a Redis; write redis://:password@host:6379/0")
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _known_secret(cls, value: str) -> str:
        if value:
            key_of(value)
        return value

    @field_validator("blobs_dir", "import_root", "inception_file", "tensorboard_dir", mode="before")
    @classmethod
    def _none_if_empty(cls, value: object) -> object:
        return None if value == "" else value  # and not the directory that we happen to run in

    @field_validator("data_dir", "blobs_dir", "import_root", "inception_file", "tensorboard_dir")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        # Children of the launcher may run elsewhere, so a relative path is fixed once, here.
        return value.expanduser().resolve() if value is not None else None

    @model_validator(mode="after")
    def _together(self) -> Settings:
        if self.heartbeat_s * 2 > self.lease_s:
            raise ValueError(
                f"{PREFIX}HEARTBEAT_S={self.heartbeat_s:g} must be at most half of {PREFIX}LEASE_S={self.lease_s:g}"
            )
        if self.auth == "off" and not self.is_local:
            raise ValueError(
                f"{PREFIX}HOST={self.host} is not a loopback address, and with {PREFIX}AUTH=off whoever reaches it may do "
                f"everything; listen on 127.0.0.1, or leave {PREFIX}AUTH on"
            )
        return self

    @cached_property
    def is_local(self) -> bool:
        """Whether only this machine reaches the API."""
        return _is_loopback(self.host)

    @cached_property
    def resolved_database_url(self) -> str:
        """The URL in use: the given one, else SQLite in the data directory."""
        return self.database_url or f"sqlite:///{self.data_dir / 'darkroom.db'}"

    @cached_property
    def resolved_blobs_dir(self) -> Path:
        """The blob directory in use."""
        return self.blobs_dir or self.data_dir / "blobs"

    @cached_property
    def resolved_tensorboard_dir(self) -> Path:
        """The folder of event files in use."""
        return self.tensorboard_dir or self.data_dir / "tensorboard"

    @cached_property
    def scratch_dir(self) -> Path:
        """Where workers keep files of running jobs; may be emptied while nothing runs."""
        return self.data_dir / "scratch"

    def free_bytes(self) -> int:
        """How much disk is left where blobs live."""
        return shutil.disk_usage(_existing(self.resolved_blobs_dir)).free

    def disk_bytes(self) -> int:
        """How large that disk is."""
        return shutil.disk_usage(_existing(self.resolved_blobs_dir)).total


def _existing(directory: Path) -> Path:
    while not directory.exists():  # before the first blob
        directory = directory.parent
    return directory


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def load_settings(**said: Any) -> Settings:
    """Return the settings of this process's environment.

    Args:
        said: fields given on a command line; each goes before its variable.

    Raises:
        SettingsError: a value is wrong; the message names each variable and what would be right.
    """
    try:
        return Settings(**said)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            place = ".".join(str(part) for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")
            given = f" (given: {problem['input']!r})" if place not in SECRET else ""
            lines.append(f"{PREFIX}{place.upper()}: {message}{given}" if place else message)
        raise SettingsError("These settings can't be used:\n  " + "\n  ".join(lines)) from error
