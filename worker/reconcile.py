"""The reconciler: takes jobs from workers that are gone, ends those that are too late, rings for what is queued and forgotten,
sweeps up after writers."""

from __future__ import annotations

import logging
import threading

from store import jobs
from store.errors import StoreError
from store.resources import Resources, status_notice

log = logging.getLogger(__name__)


def reconcile(resources: Resources, *, owner: str | None = None) -> None:
    """Puts every job with an expired lease back into the line, or ends it, cancels what missed its deadline, and rings for
    all that is queued.

    Args:
        resources: what to look through.
        owner: a worker known to be dead, whose jobs are taken at once. None: leases decide.
    """
    database = resources.database
    with database.transaction() as session:
        now = database.now(session)
        late = jobs.end_late(session, now=now)  # first, so that none of them goes back into the line
        recovered = jobs.recover(session, now=now, max_attempts=resources.settings.max_attempts, owner=owner)
        lanes = jobs.lanes_waiting(session)
    for job in recovered:
        log.warning("%s %s was recovered from a worker that is gone: %s", job.kind.value, job.id, job.status.value)
    resources.tell(*(status_notice(job) for job in {job.id: job for job in (*late, *recovered)}.values()))
    resources.ring(*sorted(lanes))


class Reconciler:
    """Reconciles at intervals, on a thread of its own. Several at once do no harm."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="reconciler", daemon=True)

    def start(self) -> None:
        """Begins; the first round is at once."""
        self._thread.start()

    def stop(self) -> None:
        """Ends after the round in progress."""
        self._ended.set()
        self._thread.join()

    def _go_on(self) -> None:
        while True:
            try:
                reconcile(self._resources)
                self._resources.blobs.sweep()
            except StoreError as error:
                log.warning("this round of reconciling was missed: %s", error)
            if self._ended.wait(self._resources.settings.reconcile_s):
                return
