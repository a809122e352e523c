"""The reconciler: takes jobs from workers that are gone, ends those that are too late, rings for what is queued and forgotten,
sweeps up after writers, lets go what is older than the settings keep it, warns of a disk that fills up."""

from __future__ import annotations

import logging
import math
import threading
import time

from store import jobs
from store.errors import DatabaseUnavailable, StoreError
from store.resources import Resources, status_notice
from store.retention import BATCH, retire

log = logging.getLogger(__name__)

TIDY_EVERY_S = 60.0
SOON_S = 0.5  # after a lease has run out


def reconcile(resources: Resources, *, owner: str | None = None, how: str | None = None) -> float:
    """Puts every job with an expired lease back into the line, or ends it, cancels what missed its deadline, and rings for
    all that is queued.

    Args:
        resources: what to look through.
        owner: a worker known to be dead, whose jobs are taken at once. None: leases decide.
        how: how it died, as "signal SIGKILL"; None: nobody saw it.

    Returns:
        When to look again, in seconds: soon after the next lease runs out, but at the usual interval at the latest.
    """
    database = resources.database
    with database.transaction() as session:
        now = database.now(session)
        late = jobs.end_late(session, now=now)  # first, so that none of them goes back into the line
        recovered = jobs.recover(session, now=now, max_attempts=resources.settings.max_attempts, owner=owner, how=how)
        expiry = jobs.next_expiry(session)
        lanes = jobs.lanes_waiting(session)
    for job in recovered:
        log.warning("%s %s was recovered from a worker that is gone: %s", job.kind.value, job.id, job.status.value)
    resources.tell(*(status_notice(job) for job in {job.id: job for job in (*late, *recovered)}.values()))
    resources.ring(*sorted(lanes))
    due_s = resources.settings.reconcile_s
    return due_s if expiry is None else min(due_s, max(SOON_S, (expiry - now).total_seconds() + SOON_S))


def tidy(resources: Resources) -> bool:
    """Deletes what is older than the settings keep it, a batch of each sort, and warns where little disk is left.

    Returns:
        Whether there may be more to delete.
    """
    gone = retire(resources.database, resources.blobs, resources.settings)
    if gone:
        log.info("deleted because of their age: %s", ", ".join(f"{count} {name}" for name, count in gone.items()))
    free_bytes, least_bytes = resources.settings.free_bytes(), resources.settings.min_free_bytes
    if free_bytes < least_bytes:
        log.warning(
            "only %d MiB are left in %s, less than DARKROOM_MIN_FREE_BYTES; free some space: `darkroom gc`, or "
            "the DARKROOM_KEEP_…_DAYS settings",
            free_bytes // 2**20,
            resources.settings.resolved_blobs_dir,
        )
    return any(count >= BATCH for count in gone.values())


class Reconciler:
    """Reconciles at intervals, on a thread of its own. Several at once do no harm."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._ended = threading.Event()
        self._tidied_at = -math.inf  # monotonic seconds
        self._thread = threading.Thread(target=self._go_on, name="reconciler", daemon=True)

    def start(self) -> None:
        """Begins; the first round is at once."""
        self._thread.start()

    def stop(self) -> None:
        """Ends after the round in progress."""
        self._ended.set()
        self._thread.join()

    def _go_on(self) -> None:
        settings, was_away = self._resources.settings, False
        while True:
            due_s = settings.reconcile_s
            try:
                if was_away:
                    # Nobody could renew a lease meanwhile: all get the time to, before any counts as run out.
                    self._resources.database.ping()
                    if self._ended.wait(min(settings.heartbeat_s, settings.reconcile_s)):
                        return
                due_s = reconcile(self._resources)
                was_away = False
                self._resources.blobs.sweep()
                if time.monotonic() - self._tidied_at >= TIDY_EVERY_S:
                    self._tidied_at = -math.inf if tidy(self._resources) else time.monotonic()
            except DatabaseUnavailable as error:
                was_away = True
                log.warning("this round of reconciling was missed: %s", error)
            except StoreError as error:
                log.warning("this round of reconciling was missed: %s", error)
            except Exception:  # lost work would stay lost without it
                log.exception("this round of reconciling failed")
            if self._ended.wait(due_s):
                return
