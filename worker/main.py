"""One worker process: `python -m worker.main --lane sample --device cuda:0 --name …`; worker/launch.py starts them."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import time
from collections.abc import Sequence

from celery import signals

from store.database import Database
from store.errors import NewerSchema, SettingsError, StorageFull, Unavailable
from store.queue import Lane, celery_app
from store.resources import Resources
from store.settings import Settings, load_settings
from worker.heartbeat import Heartbeat
from worker.reconcile import Reconciler
from worker.running import Station
from worker.statistics import Reporter, WorkerStatistics
from worker.tasks import register
from worker.webhooks import Messenger

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Works through one lane until SIGTERM; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m worker.main", description=__doc__)
    parser.add_argument("--lane", type=Lane, choices=list(Lane), required=True, help="which jobs to work on")
    parser.add_argument(
        "--device",
        default="cpu",
        help="cpu, cuda for the one CUDA device that is visible, or cuda:0,cuda:1 to train on all",
    )
    parser.add_argument("--called", help="what this host calls the device, for people (default: as --device)")
    parser.add_argument("--name", required=True, help="the worker's unique name; leases carry it")
    arguments = parser.parse_args(argv)
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.exit(str(error))
    logging.basicConfig(
        level=settings.log_level.upper(), format=f"%(asctime)s %(levelname)s {arguments.name}: %(message)s"
    )
    for chatty in ("celery.worker.strategy", "celery.app.trace"):  # a line for each bell says nothing
        logging.getLogger(chatty).setLevel(logging.WARNING)
    resources = Resources.open(settings)
    try:
        await_schema(resources.database)
        device, *further = arguments.device.split(",")
        statistics = WorkerStatistics(arguments.name, arguments.lane.value, arguments.called or arguments.device)
        with Heartbeat(resources) as heartbeat, Reporter(resources.reports, statistics):
            station = Station(
                arguments.name,
                resources,
                heartbeat,
                device,
                further=tuple(further),
                threads=divide_threads(settings, arguments.lane, device),
                statistics=statistics,
            )
            work(station, arguments.lane)
    finally:
        resources.close()
    return 0


def await_schema(database: Database, look_s: float = 3.0) -> None:
    """Returns once the database is as this release needs it; nothing is claimed before that.

    Args:
        database: maybe away, or just being migrated.
        look_s: seconds between two looks.

    Raises:
        SystemExit: a later release has migrated it.
    """
    while True:
        try:
            return database.check_schema()
        except NewerSchema as error:
            sys.exit(f"This worker does not start: {error}")
        except (Unavailable, StorageFull) as error:
            log.warning("waits for the database: %s", error)
            time.sleep(look_s)


def work(station: Station, lane: Lane) -> None:
    """Hears the lane's bells until SIGTERM."""
    settings = station.resources.settings
    app = celery_app(settings.redis_url)
    register(app, lane, station)

    gc.freeze()  # what the start has made is never garbage: no collection need walk through PyTorch again

    reconciler = Reconciler(station.resources) if lane is Lane.IO else None
    messenger = Messenger(station.resources) if lane is Lane.IO and settings.webhook_secret else None

    def keep_logging(**_: object) -> None:
        """Celery leaves logging alone when someone listens here."""

    def drain(**_: object) -> None:
        station.draining.set()

    def ready(**_: object) -> None:
        log.info("ready for %s jobs on %s", lane.value, ", ".join([station.device, *station.further]))
        station.resources.ring(lane)  # whatever was queued while nobody listened
        if reconciler is not None:
            reconciler.start()
        if messenger is not None:
            messenger.start()

    # Weak references would let go of these functions at once.
    signals.setup_logging.connect(keep_logging, weak=False)
    signals.worker_shutting_down.connect(drain, weak=False)
    signals.worker_ready.connect(ready, weak=False)
    app.Worker(
        hostname=station.owner,
        queues=[lane.queue_name],
        pool="solo",
        concurrency=1,
        loglevel=settings.log_level.upper(),
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    ).start()
    if reconciler is not None:
        reconciler.stop()
    if messenger is not None:
        messenger.stop()


def divide_threads(settings: Settings, lane: Lane, device: str) -> int:
    """Sets how many threads share one tensor operation; returns among how many others a sampler shares its batches out."""
    if lane is Lane.IO:  # it has no tensors, and need not import PyTorch
        return 1
    import torch

    threads = settings.torch_threads or torch.get_num_threads()
    alone = lane is Lane.SAMPLE and device == "cpu"
    torch.set_num_threads(1 if alone else threads)
    return threads if alone else 1


if __name__ == "__main__":
    sys.exit(main())
