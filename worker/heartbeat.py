"""The heartbeat: one thread that keeps a worker's leases alive and looks for cancellations."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType

from store import jobs
from store.errors import StoreError
from store.jobs import Claim
from store.resources import Resources

log = logging.getLogger(__name__)

LOOK_S = 0.5  # how soon a cancellation is seen


class Heartbeat:
    """Renews the leases that it was given, and knows which of their jobs were canceled or lost."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._lock = threading.Lock()
        self._claims: dict[str, Claim] = {}
        self._canceled: set[str] = set()
        self._lost: set[str] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def hold(self, claim: Claim) -> None:
        """Renews this claim from now on."""
        with self._lock:
            self._claims[claim.job_id] = claim

    def drop(self, claim: Claim) -> None:
        """Forgets the claim: its job has ended or was handed back."""
        with self._lock:
            self._claims.pop(claim.job_id, None)
            self._canceled.discard(claim.job_id)
            self._lost.discard(claim.job_id)

    def held(self) -> list[Claim]:
        """The claims that are renewed now."""
        with self._lock:
            return list(self._claims.values())

    def is_canceled(self, claim: Claim) -> bool:
        """Whether the job's cancellation was asked for."""
        with self._lock:
            return claim.job_id in self._canceled

    def is_lost(self, claim: Claim) -> bool:
        """Whether another worker owns the job by now."""
        with self._lock:
            return claim.job_id in self._lost

    def _beat_on(self) -> None:
        settings = self._resources.settings
        last_renewal = time.monotonic()
        while not self._ended.wait(LOOK_S):
            renew = time.monotonic() - last_renewal >= settings.heartbeat_s
            try:
                self._beat(renew=renew)
            except StoreError as error:
                # The lease outlasts a short absence of the database; after that the fence keeps order.
                log.warning("a heartbeat was missed: %s", error)
                continue
            except Exception:  # a worker without a heartbeat would lose all its work
                log.exception("a heartbeat failed")
                continue
            if renew:
                last_renewal = time.monotonic()

    def _beat(self, *, renew: bool) -> None:
        claims = self.held()
        if not claims:
            return
        database = self._resources.database
        if renew:
            with database.transaction() as session:
                lease_s = self._resources.settings.lease_s
                flags = jobs.renew(session, claims, now=database.now(session), lease_s=lease_s)
        else:
            with database.snapshot() as session:
                flags = jobs.cancel_flags(session, claims)
        with self._lock:
            for claim in claims:
                if self._claims.get(claim.job_id) != claim:
                    continue  # dropped meanwhile
                if claim.job_id not in flags:
                    self._lost.add(claim.job_id)
                elif flags[claim.job_id]:
                    self._canceled.add(claim.job_id)
