"""The API behind a real server on a free port, with a real SQLite file and blobs, and hands that play the worker."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import delete

from app import serve
from app.main import create_app
from app.news import News
from store import jobs, keys, slices
from store.blobs import LocalBlobs
from store.database import Database
from store.events import EventBus, MemoryBus, Notice
from store.identifiers import new_id
from store.jobs import Claim
from store.queue import Lane, MemoryQueue, Queue
from store.records import (
    DEFAULT_ACCOUNT,
    ApiKey,
    Dataset,
    DatasetStatus,
    Image,
    Job,
    JobKind,
    Model,
    ModelStatus,
    Scope,
)
from store.resources import Resources, status_notice
from store.settings import Settings

PNG = b"\x89PNG\r\n\x1a\n" + b"not really a picture"
MAX_UPLOAD_BYTES = 300_000


class AudibleQueue(MemoryQueue):
    """Bells that a thread can wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.rung = threading.Event()
        self.announced: list[str] = []

    def ring(self, lane: Lane) -> None:
        super().ring(lane)
        self.rung.set()

    def announce(self, lane: Lane, what: str) -> None:
        super().announce(lane, what)
        self.announced.append(what)


class Worker:
    """Does a worker's steps by hand, through the same functions.

    Args:
        resources: with the rows.
        png: what each of its pictures begins with; None: PNG.
    """

    def __init__(self, resources: Resources, png: bytes | None = None) -> None:
        self._resources, self._png = resources, png

    def claim(self, kind: JobKind) -> Claim:
        """Claims the oldest job of a kind."""
        database = self._resources.database
        with database.transaction() as session:
            (claim,) = jobs.claim(session, [kind], owner="hands", now=database.now(session), lease_s=60)
            job = session.get_one(Job, claim.job_id)
        self._resources.tell(status_notice(job))
        return claim

    def report(self, claim: Claim, done: float, total: float) -> None:
        """Shows progress."""
        with self._resources.database.transaction() as session:
            jobs.report(session, claim, done=done, total=total, rate=10.0, eta_s=1.0)
        self._resources.tell(Notice(claim.job_id, "progress", {"done": done, "total": total}))

    def succeed(self, claim: Claim, result: dict[str, Any], *, tells: bool = True) -> None:
        """Ends a job well."""
        database = self._resources.database
        with database.transaction() as session:
            job = jobs.succeed(session, claim, now=database.now(session), result=result)
        if tells:
            self._resources.tell(status_notice(job))

    def fail(self, claim: Claim, code: str, *, retryable: bool) -> None:
        """Ends a job badly."""
        database = self._resources.database
        with database.transaction() as session:
            now = database.now(session)
            job = jobs.fail(session, claim, now=now, code=code, message=f"{code} happened", retryable=retryable)
        self._resources.tell(status_notice(job))

    def sample(self) -> None:
        """Makes every queued image."""
        database, blobs = self._resources.database, self._resources.blobs
        with database.transaction() as session:
            now = database.now(session)
            batch = slices.claim_slices(session, [], owner="hands", now=now, lease_s=60, max_images=1000)
        made = []
        for part in batch:
            images = []
            for position in range(part.start, part.start + part.count):
                content = (self._png or PNG) + part.claim.job_id.encode() + position.to_bytes(2)
                key = f"images/{part.claim.job_id}/{position:06d}.png"
                blobs.put(key, content)
                images.append(
                    Image(
                        id=new_id("img"),
                        job_id=part.claim.job_id,
                        position=position,
                        model_id=part.claim.model_id,
                        checkpoint=part.claim.checkpoint,
                        seed=part.claim.request["seed"] + position,
                        label=None,
                        width=32,
                        height=32,
                        blob=key,
                        size_bytes=len(content),
                        sha256=hashlib.sha256(content).hexdigest(),
                        created_at=now,
                    )
                )
            made.append((part, images))
        with database.transaction() as session:
            ended = slices.commit_slices(session, made, now=database.now(session), images_per_s=100.0)
            rows = [session.get_one(Job, outcome.job_id) for outcome in ended]
        self._resources.tell(*map(status_notice, rows))


@dataclass(frozen=True)
class Service:
    """A running API and everything behind it."""

    url: str
    admin_key: str | None  # `http` sends it; None where none is needed
    http: httpx.Client
    app: FastAPI
    resources: Resources
    queue: AudibleQueue
    worker: Worker

    @property
    def key(self) -> str:
        """An administrator's key."""
        assert self.admin_key is not None
        return self.admin_key

    @property
    def news(self) -> News:
        """What its waiters listen to."""
        news: News = self.app.state.news
        return news

    def make_key(
        self,
        *scopes: str,
        account: str = DEFAULT_ACCOUNT,
        lifetime: timedelta | None = None,
        limits: dict[str, int] | None = None,
    ) -> str:
        """Makes an API key, and returns it."""
        return make_key(self.resources.database, *scopes, account=account, lifetime=lifetime, limits=limits)

    @contextmanager
    def client(self, *scopes: str, account: str = DEFAULT_ACCOUNT, key: str | None = None) -> Iterator[httpx.Client]:
        """A client that sends this key, or a new one with these scopes; without either none."""
        sent = key if key is not None or not scopes else self.make_key(*scopes, account=account)
        with client_of(self.url, sent) as http:
            yield http

    def add_dataset(
        self,
        *,
        resolution: int = 64,
        classes: tuple[str, ...] | None = ("cat", "dog"),
        account: str = DEFAULT_ACCOUNT,
    ) -> str:
        """Adds a data set that is ready, and returns its id."""
        dataset = Dataset(
            id=new_id("ds"),
            account=account,
            name="pets",
            status=DatasetStatus.READY,
            image_count=20,
            refused_count=2,
            resolution=resolution,
            channels=3,
            classes=[{"name": name, "count": 10} for name in classes] if classes is not None else None,
            size_bytes=1000,
        )
        refused = [{"path": f"cat/{number}.png", "reason": "not an image"} for number in range(2)]
        manifest = {
            "images": [{"path": f"{name}/{number}.png"} for name in ("cat", "dog") for number in range(2, 12)],
            "refused": refused,
            "skipped": 3,
            "duplicates": {"exact": [[0, 1], [4, 5, 6]], "near": [[0, 1, 2]]},
        }
        self.resources.blobs.put(f"datasets/{dataset.id}/manifest.json", json.dumps(manifest).encode())
        self.resources.blobs.put(f"datasets/{dataset.id}/images.u8", b"pixels")
        with self.resources.database.transaction() as session:
            session.add(dataset)
        return dataset.id

    def add_model(
        self,
        *,
        classes: tuple[str, ...] | None = ("cat", "dog"),
        has_weights: bool = True,
        account: str = DEFAULT_ACCOUNT,
    ) -> str:
        """Adds a model, and returns its id."""
        model_id = new_id("mdl")
        model = Model(
            id=model_id,
            account=account,
            name="pets 32",
            kind="gan-dcgan",
            status=ModelStatus.READY if has_weights else ModelStatus.TRAINING,
            resolution=32,
            channels=3,
            classes=list(classes) if classes is not None else None,
            options={},
            seed=0,
            images_seen=1000,
            metrics={"losses": {"D": 0.5}},
            checkpoint=f"models/{model_id}/000000001000-1" if has_weights else None,
            preview=f"models/{model_id}/previews/000000001000-1.png" if has_weights else None,
        )
        if has_weights:
            self.resources.blobs.put(f"models/{model_id}/previews/000000001000-1.png", PNG)
        with self.resources.database.transaction() as session:
            session.add(model)
        return model_id

    def clear(self) -> None:
        """Makes it as new."""
        with self.resources.database.transaction() as session:
            for record in (Image, Job, Model, Dataset):
                session.execute(delete(record))
            session.execute(delete(ApiKey).where(ApiKey.id != keys.id_of(self.key)))
        for top in ("datasets", "uploads", "models", "images"):
            if self.resources.blobs.keys(top):
                self.resources.blobs.delete(top)
        for lane in Lane:
            self.queue.take(lane, 0)
        self.queue.rung.clear()
        self.queue.announced.clear()
        for report in self.resources.reports.current():
            self.resources.reports.withdraw(report.name)

    def blob_files(self) -> list[str]:
        """Every file below the blobs' directory, the unfinished ones as well."""
        root = self.resources.settings.resolved_blobs_dir
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def make_key(
    database: Database,
    *scopes: str,
    account: str = DEFAULT_ACCOUNT,
    lifetime: timedelta | None = None,
    limits: dict[str, int] | None = None,
) -> str:
    """Makes an API key, and returns it."""
    with database.transaction() as session:
        given = {Scope(scope) for scope in scopes}
        made = keys.create(
            database, session, name="a test's", scopes=given, account=account, lifetime=lifetime, limits=limits
        )
        return made[1]


def client_of(url: str, key: str | None) -> httpx.Client:
    """A client that sends this key; None: none."""
    headers = {"Authorization": f"Bearer {key}"} if key is not None else None
    return httpx.Client(base_url=url, headers=headers, timeout=20, trust_env=False)


class _Announced(serve.Server):
    """Says when it serves."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.serves = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.serves.set()


@contextmanager
def serving(resources: Resources) -> Iterator[tuple[str, FastAPI, serve.Server]]:
    """The API on a free port while the block lasts."""
    app = create_app(resources)
    server = _Announced(app, serve.server(app, resources.settings).config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server")
        thread.start()
        try:
            assert server.serves.wait(10)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", app, server
        finally:
            server.should_exit = True
            thread.join(15)
            assert not thread.is_alive()


@contextmanager
def running(
    directory: Path, *, bus: EventBus | None = None, queue: Queue | None = None, **changes: Any
) -> Iterator[Service]:
    """A service with a fresh data directory, with another bus, queue and settings where they are given."""
    (directory / "imports").mkdir(exist_ok=True)
    values: dict[str, Any] = {
        "data_dir": directory,
        "import_root": directory / "imports",
        "max_upload_bytes": MAX_UPLOAD_BYTES,
        "max_images_per_request": 500,
        "max_wait_s": 10.0,
        "rate_failures_per_address": 0,  # tests send many wrong keys, all from one address
    }
    settings = Settings(_env_file=None, **{**values, **changes})
    database = Database(settings.resolved_database_url)
    database.migrate()
    key = make_key(database, "admin") if settings.auth == "on" else None
    audible = AudibleQueue()
    blobs = LocalBlobs(settings.resolved_blobs_dir)
    resources = Resources(settings, database, blobs, bus or MemoryBus(), queue or audible)
    with (
        serving(resources) as (url, app, _),
        client_of(url, key) as http,
    ):
        yield Service(url, key, http, app, resources, audible, Worker(resources))
    resources.close()


@pytest.fixture(scope="session")
def _service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture
def service(_service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    """An empty service; the server is shared by all tests. Only news wakes those who wait, never the clock."""
    monkeypatch.setattr("app.jobs.REREAD_S", 60.0)
    monkeypatch.setattr("app.events.REREAD_S", 60.0)
    _service.clear()
    return _service


@contextmanager
def at_the_same_time(work: Callable[[], object]) -> Iterator[None]:
    """Runs `work` on another thread, and raises here what it raised there."""
    raised: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=guarded, name="at the same time")
    thread.start()
    try:
        yield
    finally:
        thread.join(20)
        assert not thread.is_alive()
    if raised:
        raise raised[0]


def eventually(condition: Callable[[], bool]) -> None:
    """Waits for what nobody announces, five seconds at most."""
    pause, deadline = threading.Event(), time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        pause.wait(0.005)


def zip_of(**files: bytes) -> bytes:
    """A zip with these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def assert_problem(response: httpx.Response, status: int, code: str, parameter: str | None = None) -> dict[str, Any]:
    """Checks an error's shape, and returns it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["type"] == f"urn:darkroom:problem:{code}"
    assert (body["status"], body["code"], body["parameter"]) == (status, code, parameter)
    assert body["title"]
    assert body["detail"]
    assert body["instance"] == response.request.url.path
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["error"]["message"] == body["detail"]
    assert (body["error"]["code"], body["error"]["param"]) == (code, parameter)
    return body
