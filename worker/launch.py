"""The launcher, `python -m worker.launch`: one pinned set of workers for each device, restarted when they die."""

from __future__ import annotations

import logging
import secrets
import socket
import sys

from store.errors import SettingsError, StoreError
from store.processes import Program, Supervisor, ending
from store.queue import Lane
from store.resources import Resources
from store.settings import Settings, load_settings
from worker.devices import CPU, Device, Pinned, chosen, count_cuda, visible_devices
from worker.reconcile import reconcile

log = logging.getLogger(__name__)


def main() -> int:
    """Keeps this host's workers running until SIGTERM; returns the exit status."""
    try:
        settings = load_settings()
        devices = chosen(settings.devices, 0 if settings.devices == ["cpu"] else count_cuda())
    except SettingsError as error:
        sys.exit(str(error))
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s launcher: %(message)s")
    log.info("devices: %s", ", ".join(device.name for device in devices))
    resources = Resources.open(settings)
    try:
        Supervisor(programs(settings, resources, devices), grace_s=settings.drain_s, together=True).run()
    finally:
        resources.close()
    return 0


def programs(settings: Settings, resources: Resources, devices: list[Device]) -> list[Program]:
    """Return the workers of this host: io without a device, then a sampler and a trainer for each device, or a sampler for
    each and one trainer for all."""
    io = [_program(resources, Lane.IO, Pinned((CPU,)), number) for number in range(settings.io_workers)]
    each = [Pinned((device,)) for device in devices]
    if settings.train_devices == "all":
        samplers = [_program(resources, Lane.SAMPLE, pinned) for pinned in each]
        return [*io, *samplers, _program(resources, Lane.TRAIN, Pinned(tuple(devices)))]
    return io + [_program(resources, lane, pinned) for pinned in each for lane in (Lane.SAMPLE, Lane.TRAIN)]


def _program(resources: Resources, lane: Lane, pinned: Pinned, number: int = 0) -> Program:
    kind = f"{lane.value}-{number}" if lane is Lane.IO else f"{lane.value}-{pinned.name}"

    def argv() -> list[str]:
        # A name of its own for each start: a lease can tell the dead worker from its successor.
        name = f"{kind}-{secrets.token_hex(4)}@{socket.gethostname()}"
        command = [sys.executable, "-m", "worker.main", "--lane", lane.value]
        command += ["--device", ",".join(pinned.torch_names)]
        command += ["--called", ",".join(device.name for device in pinned.devices)]
        return [*command, "--name", name]

    def on_exit(argv: list[str], code: int) -> None:
        # The lease would run out by itself; why wait, when its holder is known to be dead?
        try:
            reconcile(resources, owner=argv[-1], how=ending(code))
        except StoreError as error:
            log.warning("jobs of %s wait for their leases to run out: %s", argv[-1], error)

    return Program(kind, argv, env=pinned.pin(visible_devices()), on_exit=on_exit)


if __name__ == "__main__":
    sys.exit(main())
