"""A client of the HTTP API: what the command line speaks through, and Python programs may too.

It knows the routes and the shape of errors; of databases, queues and models it knows nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast
from urllib.parse import quote, urlsplit

import httpx

from app.wire import ClientError, Counted, Event, JsonObject, object_of, parse_events

__all__ = ["DEFAULT_URL", "Client", "ClientError", "Event", "JsonObject", "parse_events"]

DEFAULT_URL = "http://127.0.0.1:8000"
PAGE_LENGTH = 100
QUIET_S = 45.0  # an event stream without a byte for this long is taken for dead; the server sends comments more often
GIVE_UP_S = 60.0  # how long a watcher tries to reach a service that went away
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 3.0  # between two tries
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
ENDED = frozenset({"succeeded", "failed", "canceled"})


class Client:
    """A connection to one service; close it, or use it in a `with` block.

    Every method raises ClientError.
    """

    def __init__(
        self, url: str = DEFAULT_URL, *, api_key: str | None = None, transport: httpx.BaseTransport | None = None
    ) -> None:
        """Connects when it is first used.

        Args:
            url: where the service is, without `/v1`.
            api_key: what lets us in; None: nothing is sent.
            transport: what carries the requests; None: the network.
        """
        self.url = url.rstrip("/")
        self.headers = {"Authorization": f"Bearer {api_key}"} if api_key is not None else {}  # of every request
        self._http = httpx.Client(
            base_url=self.url,
            headers=self.headers,
            transport=transport,
            timeout=httpx.Timeout(30.0, connect=5.0),
            trust_env=urlsplit(url).hostname not in LOOPBACK,  # a proxy can't reach this machine's own loopback
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes every connection."""
        self._http.close()

    # Service

    def ready(self) -> JsonObject:
        """What `/readyz` says once the database, Redis and blobs are within reach."""
        return self._json("GET", "/readyz")

    def system(self) -> JsonObject:
        """What waits, which workers there are, and how fast they are."""
        return self._json("GET", "/v1/system")

    def kinds(self) -> list[JsonObject]:
        """What can be trained: kinds with their options and bounds."""
        return self._page_of(self._json("GET", "/v1/kinds"))

    def create_key(self, name: str, *, scopes: Sequence[str], account: str, **further: Any) -> JsonObject:
        """Makes an API key, with `expires_in_s` and `limits` where they are given; its `key` is shown this once."""
        body = {"name": name, "scopes": list(scopes), "account": account, **_given(further)}
        return self._json("POST", "/v1/keys", json=body)

    def keys(self) -> list[JsonObject]:
        """Every API key, newest first, without secrets."""
        return list(self._all("/v1/keys"))

    def revoke_key(self, key_id: str) -> None:
        """Makes an API key good for nothing."""
        self._send("DELETE", f"/v1/keys/{quote(key_id, safe='')}")

    # Data sets

    def datasets(self) -> list[JsonObject]:
        """Every data set, newest first."""
        return list(self._all("/v1/datasets"))

    def dataset(self, name_or_id: str) -> JsonObject:
        """One data set, by id or by a name that only one has."""
        return self._find("datasets", "ds_", name_or_id)

    def upload(
        self,
        archive: BinaryIO,
        *,
        name: str,
        resolution: int | None = None,
        duplicates: str | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> JsonObject:
        """Sends an archive of pictures, piece by piece, and returns the job that imports it.

        Args:
            archive: a zip or a tar, open at any place, seekable.
            name: what to call the data set.
            resolution: side of the prepared squares, px; None: the service chooses.
            duplicates: a catalog.DuplicatePolicy; None: they are kept.
            on_progress: told how many bytes of the archive have been sent.
        """
        options = {"resolution": resolution, "duplicates": duplicates}
        fields = {"name": name} | {field: str(value) for field, value in options.items() if value is not None}
        file = cast(BinaryIO, Counted(archive, on_progress)) if on_progress is not None else archive
        return self._upload("/v1/datasets", fields, file)

    def upload_model(self, archive: BinaryIO, *, name: str) -> JsonObject:
        """Sends the zip of a native export, and returns the job that checks it."""
        return self._upload("/v1/models", {"name": name}, archive)

    def _upload(self, path: str, fields: Mapping[str, str], file: BinaryIO) -> JsonObject:
        files = {"file": (f"{_plain(fields['name'])}.zip", file, "application/zip")}
        # The answer comes once the upload is safe on the disk.
        return self._json("POST", path, data=fields, files=files, timeout=httpx.Timeout(300.0, connect=5.0))

    def delete_dataset(self, dataset_id: str) -> None:
        """Deletes a data set that no job uses."""
        self._send("DELETE", f"/v1/datasets/{quote(dataset_id, safe='')}")

    # Training

    def train(
        self,
        dataset_id: str,
        *,
        budget: Mapping[str, float],
        kind: str = "auto",
        preset: str | None = None,
        name: str | None = None,
        resolution: int | None = None,
        options: Mapping[str, Any] | None = None,
        seed: int | None = None,
        patience: int | None = None,
        on_trouble: str | None = None,
        init_from: str | None = None,
        stop_on_memorising: bool | None = None,
        held_out: float | None = None,
        promote_best: bool | None = None,
    ) -> JsonObject:
        """Starts a training and returns its job.

        Args:
            dataset_id: what to learn from.
            budget: `{"images": n}` or `{"seconds": s}`.
            kind: a name from `kinds()`, or `auto`: the service chooses.
            preset: of the kind; None: its defaults.
            name: what to call the model; None: the service chooses.
            resolution: side of the pictures it will make, px; None: the data set's.
            options: the kind's own options.
            seed: of everything random; None: the service chooses.
            patience: measurements without a better FD-domain that end it; None: none do.
            on_trouble: note, stop or rollback; None: the service chooses.
            init_from: id of a model to begin with; None: fresh weights.
            stop_on_memorising: whether it ends before pictures are copied; None: with `init_from`.
            held_out: share of the pictures that are not learned from; None: none.
            promote_best: whether the model ends as its best checkpoint; None: the service chooses.
        """
        body = {"dataset": dataset_id, "kind": kind, "budget": dict(budget), "options": dict(options or {})}
        optional: JsonObject = {"preset": preset, "name": name, "resolution": resolution, "seed": seed}
        optional |= {"patience": patience, "promote_best": promote_best}
        optional |= {"on_trouble": on_trouble, "held_out": held_out}
        optional |= {"init_from": init_from, "stop_on_memorising": stop_on_memorising}
        return self._json("POST", "/v1/trainings", json=body | _given(optional))

    def trainings(self, *, limit: int | None = None) -> list[JsonObject]:
        """Trainings, newest first, at most `limit`."""
        return list(self._all("/v1/trainings", limit=limit))

    def training(self, name_or_id: str) -> JsonObject:
        """One training, by its id, or by its model's id or a name that only one model has."""
        own = name_or_id.startswith(("job_", "mdl_"))
        return self._json("GET", _of_training(name_or_id if own else self.model(name_or_id)["id"]))

    def curves(self, training_id: str, *, points: int) -> JsonObject:
        """A training's learning curves, thinned to about so many points."""
        return self._json("GET", _of_training(training_id, "/metrics"), params={"points": points})

    def previews(self, training_id: str) -> list[JsonObject]:
        """The previews that a training has kept, oldest first."""
        return self._page_of(self._json("GET", _of_training(training_id, "/previews")))

    def preview(self, training_id: str, images_seen: int) -> bytes:
        """One of them as PNG."""
        return self._send("GET", _of_training(training_id, f"/previews/{images_seen}")).content

    def checkpoints(self, training_id: str) -> list[JsonObject]:
        """The checkpoints that a training has kept, oldest first."""
        return self._page_of(self._json("GET", _of_training(training_id, "/checkpoints")))

    def promote(self, training_id: str, images_seen: int) -> JsonObject:
        """Lets the model sample from a checkpoint, and returns the model."""
        return self._json("POST", _of_training(training_id, f"/checkpoints/{images_seen}/promote"))

    def models(self) -> list[JsonObject]:
        """Every model, newest first."""
        return list(self._all("/v1/models"))

    def model(self, name_or_id: str) -> JsonObject:
        """One model, by id or by a name that only one has."""
        return self._find("models", "mdl_", name_or_id)

    def delete_model(self, model_id: str) -> None:
        """Deletes a model and what it has made."""
        self._send("DELETE", f"/v1/models/{quote(model_id, safe='')}")

    def evaluate(
        self, model_id: str, *, n: int | None = None, dataset_id: str | None = None, seed: int | None = None
    ) -> JsonObject:
        """Starts to measure a model and returns the job that does it.

        Args:
            model_id: the generator.
            n: how many pictures to compare; None: the service chooses.
            dataset_id: real pictures to compare with; None: some of those it learned from.
            seed: of the first picture; None: 0.
        """
        body = {"model": model_id, **_given({"n": n, "dataset": dataset_id, "seed": seed})}
        return self._json("POST", "/v1/evaluations", json=body)

    def strips(self, job_id: str) -> bytes:
        """The PNG of an evaluation's most suspicious pictures, each beside the training pictures nearest to it."""
        return self._send("GET", f"/v1/evaluations/{quote(job_id, safe='')}/strips").content

    def export(self, model_id: str, form: str) -> JsonObject:
        """Starts to export a model and returns the job that does it; its result has the `url` to download.

        Args:
            model_id: the generator.
            form: onnx, torch-export or native.
        """
        return self._json("POST", f"/v1/models/{quote(model_id, safe='')}/exports", json={"format": form})

    def download(self, path: str, target: Path) -> None:
        """Saves what is at a path of the service, whole or not at all.

        Args:
            path: of the service, as an answer named it.
            target: the file to write; one of that name is replaced, and folders are made.
        """
        unfinished = target.with_name(f".{target.name}.unfinished")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._http.stream("GET", path) as response, unfinished.open("wb") as file:
                if response.status_code >= 400:
                    response.read()
                    raise _refusal(response)
                for chunk in response.iter_bytes():
                    file.write(chunk)
            unfinished.replace(target)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        except OSError as error:
            raise ClientError("unwritable", f"{target} can't be written: {error.strerror}") from error
        finally:
            with contextlib.suppress(OSError):
                unfinished.unlink()

    # Generation

    def generate(
        self,
        model_id: str,
        *,
        n: int | None = None,
        seed: int | None = None,
        label: str | int | None = None,
        controls: Mapping[str, Any] | None = None,
        priority: str | None = None,
    ) -> JsonObject:
        """Asks for pictures and returns the job that makes them.

        Args:
            model_id: the generator.
            n: how many; picture k has seed + k. None: one, or as many as `controls` say.
            seed: of the first; None: the service chooses.
            label: a class, by name or index; None: any.
            controls: `seeds`, `labels`, `truncation`, `interpolate`, `variations` or `mix`, as docs/sampling.md says.
            priority: `interactive` or `batch`; None: the service chooses.
        """
        given = _given({"n": n, "seed": seed, "label": label, "priority": priority})
        body = {"model": model_id, **given, **(controls or {})}
        return self._json("POST", "/v1/generations", json=body)

    def images(self, job_id: str) -> list[JsonObject]:
        """The pictures that a job has made so far, in order."""
        return list(self._all("/v1/images", [("job", job_id)]))

    def content(
        self, image_id: str, form: str = "png", *, side_px: int | None = None, quality: int | None = None
    ) -> bytes:
        """A picture.

        Args:
            image_id: which one.
            form: png, webp or jpeg.
            side_px: of its longer side; None: as it was made, which for png is the stored file.
            quality: 1 to 100, of webp and jpeg; None: the service chooses.
        """
        params = _given({"format": form, "size": side_px, "quality": quality})
        return self._send("GET", f"/v1/images/{quote(image_id, safe='')}/content", params=params).content

    # Jobs

    def jobs(
        self, *, status: Sequence[str] = (), kind: Sequence[str] = (), limit: int | None = None
    ) -> list[JsonObject]:
        """Jobs, newest first.

        Args:
            status: only in these states; all when empty.
            kind: only of these kinds; all when empty.
            limit: at most so many; None: every one.
        """
        filters = [("status", value) for value in status] + [("kind", value) for value in kind]
        return list(self._all("/v1/jobs", filters, limit))

    def job(self, job_id: str) -> JsonObject:
        """One job."""
        return self._json("GET", f"/v1/jobs/{quote(job_id, safe='')}")

    def cancel(self, job_id: str) -> JsonObject:
        """Asks for a job to be canceled, and returns it."""
        return self._json("POST", f"/v1/jobs/{quote(job_id, safe='')}/cancel")

    def delete_job(self, job_id: str) -> None:
        """Deletes a job that has ended, with its images; raises ClientError while it has not."""
        self._send("DELETE", f"/v1/jobs/{_plain(job_id)}")

    def delete_image(self, image_id: str) -> None:
        """Deletes an image."""
        self._send("DELETE", f"/v1/images/{_plain(image_id)}")

    def events(self, job_id: str) -> Iterator[Event]:
        """Everything that happens to a job until it has ended; a lost connection is taken up where it broke."""
        last: str | None = None
        pause_s, lost_at = FIRST_PAUSE_S, time.monotonic()
        while True:
            try:
                for event in self._stream(job_id, last):
                    last = event.id or last
                    yield event
                    pause_s, lost_at = FIRST_PAUSE_S, time.monotonic()
                    if event.type == "done" or (event.type == "snapshot" and event.data.get("status") in ENDED):
                        return
            except ClientError as error:
                if error.status is not None and error.status < 500:
                    raise
                if time.monotonic() - lost_at > GIVE_UP_S:
                    raise
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def _stream(self, job_id: str, last: str | None) -> Iterator[Event]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
        timeout = httpx.Timeout(QUIET_S, connect=5.0)
        path = f"/v1/jobs/{quote(job_id, safe='')}/events"
        try:
            with self._http.stream("GET", path, headers=headers, timeout=timeout) as response:
                if response.status_code >= 400:
                    response.read()
                    raise _refusal(response)
                yield from parse_events(response.iter_lines())
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    # The wire

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        except httpx.InvalidURL as error:
            raise ClientError("bad_url", f"{self.url} is no address: {error}", remedy=f"try {DEFAULT_URL}") from error
        if response.status_code >= 400:
            raise _refusal(response)
        return response

    def _json(self, method: str, path: str, **options: Any) -> JsonObject:
        response = self._send(method, path, **options)
        try:
            return cast(JsonObject, response.json())
        except ValueError as error:
            raise ClientError(
                "not_darkroom", f"{self.url}{path} did not answer in JSON", remedy="is this Darkroom's address?"
            ) from error

    def _all(
        self, path: str, filters: Sequence[tuple[str, str]] = (), limit: int | None = None
    ) -> Iterator[JsonObject]:
        after: str | None = None
        left = limit
        while left is None or left > 0:
            length = PAGE_LENGTH if left is None else min(left, PAGE_LENGTH)
            query = [*filters, ("limit", str(length)), *([("after", after)] if after else [])]
            page = self._json("GET", path, params=query)
            rows = self._page_of(page)
            yield from rows
            if not rows or not page.get("has_more"):
                return
            after = rows[-1]["id"]
            left = left - len(rows) if left is not None else None

    @staticmethod
    def _page_of(page: JsonObject) -> list[JsonObject]:
        return cast(list[JsonObject], page["data"])

    def _find(self, collection: str, prefix: str, name_or_id: str) -> JsonObject:
        if name_or_id.startswith(prefix):
            try:
                return self._json("GET", f"/v1/{collection}/{quote(name_or_id, safe='')}")
            except ClientError as error:
                if error.status != 404:
                    raise
        noun = collection.removesuffix("s")
        same = [row for row in self._all(f"/v1/{collection}") if row["name"] == name_or_id]
        if len(same) == 1:
            return self._json("GET", f"/v1/{collection}/{same[0]['id']}")
        if same:
            ids = ", ".join(row["id"] for row in same[:5])
            raise ClientError(
                "ambiguous_name", f"{len(same)} {collection} are called {name_or_id!r}", remedy=f"give an id: {ids}"
            )
        raise ClientError(
            f"{noun}_not_found",
            f"there is no {noun} with the id or name {name_or_id!r}",
            remedy=f"`darkroom {noun if noun == 'dataset' else collection} list` shows what there is",
            status=404,
        )

    def _unreachable(self, error: httpx.TransportError) -> ClientError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ClientError(
                "unreachable",
                f"nothing answers at {self.url}",
                remedy="start it with `darkroom up`, or name another address with --url",
            )
        return ClientError(
            "unreachable",
            f"the connection to {self.url} broke: {str(error) or type(error).__name__}",
            remedy="see the service's log, and try again",
        )


def _of_training(training_id: str, end: str = "") -> str:
    return f"/v1/trainings/{quote(training_id, safe='')}{end}"


def _refusal(response: httpx.Response) -> ClientError:
    """The service's problem+json (RFC 9457) as an error; anything else by its status."""
    try:
        body = object_of(response.text)
    except ClientError:
        body = {}
    nested = body.get("error")
    inner: JsonObject = nested if isinstance(nested, dict) else {}
    code = body.get("code") or inner.get("code") or f"http_{response.status_code}"
    message = body.get("detail") or inner.get("message") or body.get("title") or response.reason_phrase
    parameter = body.get("parameter") or body.get("param") or inner.get("param")
    return ClientError(
        str(code),
        str(message),
        remedy=body.get("remedy"),
        status=response.status_code,
        parameter=str(parameter) if parameter else None,
    )


def _given(members: Mapping[str, Any]) -> JsonObject:
    return {name: value for name, value in members.items() if value is not None}


def _plain(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name)[:80] or "upload"
