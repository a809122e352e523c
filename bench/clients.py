"""Clients that get their jobs whatever happens to the service: each try carries the same Idempotency-Key."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench.wishes import Wish

CLIENTS = 8
GIVE_UP_S = 180.0
LONGEST_PAUSE_S = 5.0  # between two tries, whatever Retry-After says


@dataclass
class Acknowledged:
    """What the service promised: each job that it answered for with 2xx."""

    jobs: dict[str, Wish] = field(default_factory=dict)  # by id
    canceled: set[str] = field(default_factory=set)  # ids whose cancellation it took
    ids_of: dict[str, set[str]] = field(default_factory=dict)  # by Idempotency-Key; more than one is a job made twice
    refused: list[str] = field(default_factory=list)  # wishes that it never took, and why
    retries: int = 0


class Clients:
    """Threads that ask for wishes."""

    def __init__(self, url: str, archives: Mapping[str, bytes]) -> None:
        self.acknowledged = Acknowledged()
        self._http = httpx.Client(base_url=url, timeout=httpx.Timeout(30.0, connect=5.0), trust_env=False)
        self._archives = archives
        self._pool = ThreadPoolExecutor(CLIENTS, thread_name_prefix="client")
        self._asked: list[Future[None]] = []
        self._lock = threading.Lock()

    def ask(self, wishes: Sequence[Wish]) -> None:
        """Has these asked for, soon."""
        self._asked += [self._pool.submit(self._ask, wish) for wish in wishes]

    def settle(self) -> None:
        """Returns when all that was to be asked for has been answered."""
        for asked in self._asked:
            asked.result()

    def close(self) -> None:
        """Lets go of threads and connections."""
        self._pool.shutdown(cancel_futures=True)
        self._http.close()

    def submit(self, wish: Wish) -> str | None:
        """The id of the job that the wish has become; None where it was refused for good."""
        answer = self._send(lambda: self._post(wish))
        if answer is None or answer.status_code >= 300:
            with self._lock:
                said = "no answer" if answer is None else f"{answer.status_code} {answer.text[:300]}"
                self.acknowledged.refused.append(f"{wish.key} {wish.kind}: {said}")
            return None
        job_id: str = answer.json()["id"]
        with self._lock:
            self.acknowledged.jobs[job_id] = wish
            self.acknowledged.ids_of.setdefault(wish.key, set()).add(job_id)
        return job_id

    def _ask(self, wish: Wish) -> None:
        time.sleep(wish.pause_s)
        twin = threading.Thread(target=self.submit, args=(wish,)) if wish.twice else None
        if twin is not None:
            twin.start()
        job_id = self.submit(wish)
        if twin is not None:
            twin.join()
        if job_id is not None and wish.cancel_after_s is not None:
            time.sleep(wish.cancel_after_s)
            answer = self._send(lambda: self._http.post(f"/v1/jobs/{job_id}/cancel"))
            if answer is not None and answer.status_code < 300:
                with self._lock:
                    self.acknowledged.canceled.add(job_id)

    def _post(self, wish: Wish) -> httpx.Response:
        headers: dict[str, str] = {"Idempotency-Key": wish.key}
        if wish.kind != "import":
            return self._http.post(wish.path, json=dict(wish.body), headers=headers)
        fields = {name: str(value) for name, value in wish.body.items() if name != "archive"}
        upload = ("squares.zip", self._archives[wish.body["archive"]], "application/zip")
        return self._http.post(wish.path, data=fields, files={"file": upload}, headers=headers)

    def _send(self, send: Callable[[], httpx.Response]) -> httpx.Response | None:
        """The first answer that is for good; None where there was none for long."""
        deadline, pause_s = time.monotonic() + GIVE_UP_S, 0.2
        while time.monotonic() < deadline:
            try:
                answer = send()
            except httpx.TransportError:
                pass
            else:
                if answer.status_code < 500 and answer.status_code != 429:
                    return answer
                pause_s = float(answer.headers.get("Retry-After", pause_s))
            with self._lock:
                self.acknowledged.retries += 1
            time.sleep(min(pause_s, LONGEST_PAUSE_S))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        return None


def ended_well(http: httpx.Client, job_id: str) -> Mapping[str, Any]:
    """The job once it has ended; for the time before anything is broken. Raises RuntimeError where it did not succeed."""
    while True:
        job: dict[str, Any] = http.get(f"/v1/jobs/{job_id}").raise_for_status().json()
        if job["status"] in {"failed", "canceled"}:
            raise RuntimeError(f"{job_id} did not succeed: {json.dumps(job['error'])}")
        if job["status"] == "succeeded":
            return job
        time.sleep(0.1)
