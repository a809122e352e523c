"""Telling those who asked of the ends of jobs, on a thread of its own in the io worker. Several at once do no harm."""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime
from importlib.metadata import version

import anyio
import anyio.to_thread

from store import signatures, webhooks
from store.addresses import Reach
from store.errors import StoreError
from store.resources import Resources
from store.webhooks import Delivery
from worker.posting import ATTEMPT_S, Post, PostFailed, Resolve, post, resolve

log = logging.getLogger(__name__)

LOOK_S = 1.0  # how often it is looked for jobs that have ended
LEAST_IDLE = 20  # times as long as a look took, until the next: many may wait for jobs that have not ended
MOST_AT_ONCE = 32  # deliveries under way
GONE = 410  # the receiver wants no more


class Messenger:
    """Delivers what is due.

    Args:
        resources: with the rows, and the settings of webhooks.
        resolve: finds a host's addresses.
    """

    def __init__(self, resources: Resources, *, resolve: Resolve = resolve) -> None:
        settings = resources.settings
        self._resources, self._resolve = resources, resolve
        self._secret = settings.webhook_secret
        self._reach = Reach(settings.webhook_allowed, settings.webhook_ports)
        self._ended = threading.Event()
        self._under_way = 0
        self._pause_s = 0.0
        self._thread = threading.Thread(target=lambda: anyio.run(self._go_on), name="messenger", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends at once; what is under way is sent again by another, or after the next start."""
        self._ended.set()
        self._thread.join()

    async def _go_on(self) -> None:
        async with anyio.create_task_group() as deliveries:
            while not await anyio.to_thread.run_sync(self._ended.wait, self._pause_s):
                for one in await anyio.to_thread.run_sync(self._claimed):
                    self._under_way += 1
                    deliveries.start_soon(self._deliver, one)
            deliveries.cancel_scope.cancel()

    def _claimed(self) -> list[Delivery]:
        free, database = MOST_AT_ONCE - self._under_way, self._resources.database
        began = time.monotonic()
        try:
            with database.snapshot() as session:  # which takes no lock, as mostly nothing is due
                is_any_due = free > 0 and webhooks.is_any_due(session, now=database.now(session))
            self._pause_s = max(LOOK_S, LEAST_IDLE * (time.monotonic() - began))
            if not is_any_due:
                return []
            with database.transaction() as session:
                return webhooks.claim(session, now=database.now(session), limit=free)
        except StoreError as error:
            log.warning("webhooks wait: %s", error)
            return []

    async def _deliver(self, one: Delivery) -> None:
        try:
            key = signatures.key_of(signatures.secret_of(self._secret, one.account))
            headers = {
                "Content-Type": "application/json",
                "User-Agent": f"Darkroom/{version('darkroom')}",
                **signatures.signed(key, one.webhook_id, one.body, at=datetime.now(UTC)),
            }
            error, final = None, False
            try:
                status = await post(Post(one.url, headers, one.body), self._reach, resolve=self._resolve)
                if not 200 <= status < 300:
                    error, final = f"the answer was {status}", status == GONE
            except PostFailed as failed:
                error = str(failed)
            await anyio.to_thread.run_sync(self._settle, one, error, final)
        finally:
            self._under_way -= 1

    def _settle(self, one: Delivery, error: str | None, final: bool) -> None:
        try:
            database = self._resources.database
            with database.transaction() as session:
                row = webhooks.settle(session, one, now=database.now(session), error=error, final=final)
        except StoreError as broken:  # it is claimed until then, and sent again
            log.warning("that %s was delivered is not written: %s", one.webhook_id, broken)
            return
        if error is not None:
            end = row.status.value if row is not None else "of no matter"
            log.warning("%s of %s, attempt %d: %s (%s)", one.webhook_id, one.job_id, one.attempt, error, end)


assert ATTEMPT_S < webhooks.CLAIM_S, "another would begin before this attempt has ended"
