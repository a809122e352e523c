"""The devices of this host, and the variables that pin a process to one of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from store.errors import SettingsError

COUNT = "import torch; print(torch.cuda.device_count())"


@dataclass(frozen=True)
class Device:
    """`cpu`, or CUDA device `index` among those that this process may see."""

    index: int | None

    @property
    def name(self) -> str:
        """As in settings and worker names: `cpu`, `cuda:1`."""
        return "cpu" if self.index is None else f"cuda:{self.index}"

    @property
    def torch_name(self) -> str:
        """What a pinned process calls it: it sees no other device."""
        return "cpu" if self.index is None else "cuda"

    def pin(self, visible: str | None) -> dict[str, str]:
        """Return the variables that leave a child this device alone; they must be set before it imports torch.

        Args:
            visible: this process's own CUDA_VISIBLE_DEVICES, which numbers the devices; None when unset.
        """
        if self.index is None:
            # Threads that wait for each other should sleep, not spin: on cores that others use as well, spinning costs a
            # training most of its speed (OMP_WAIT_POLICY, OpenMP 5.2, environment variables). And of the heaps that glibc has
            # for each thread, one that is just too small for a layer is had from the system anew for each batch, page by page.
            return {"CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "PASSIVE", "MALLOC_ARENA_MAX": "1"}
        names = visible.split(",") if visible else None
        return {
            "CUDA_VISIBLE_DEVICES": names[self.index].strip() if names else str(self.index),
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        }


CPU = Device(None)


@dataclass(frozen=True)
class Pinned:
    """What one process has to itself: a device, or several CUDA devices that train together.

    Args:
        devices: at least one; of several, all are CUDA's.
    """

    devices: tuple[Device, ...]

    @property
    def name(self) -> str:
        """As in worker names: `cpu`, `cuda1`, `cuda0+1`."""
        if len(self.devices) == 1:
            return self.devices[0].name.replace(":", "")
        return "cuda" + "+".join(str(device.index) for device in self.devices)

    @property
    def torch_names(self) -> list[str]:
        """What the process calls them: it sees no others."""
        if len(self.devices) == 1:
            return [self.devices[0].torch_name]
        return [f"cuda:{number}" for number in range(len(self.devices))]

    def pin(self, visible: str | None) -> dict[str, str]:
        """Return the variables that leave a child these devices alone; as for Device.pin."""
        each = [device.pin(visible) for device in self.devices]
        return {**each[0], "CUDA_VISIBLE_DEVICES": ",".join(one["CUDA_VISIBLE_DEVICES"] for one in each)}


def chosen(setting: Sequence[str], cuda_count: int) -> list[Device]:
    """Return the devices to use.

    Args:
        setting: `["auto"]`, `["cpu"]`, or names such as `["cuda:0", "cuda:1"]`.
        cuda_count: how many CUDA devices there are.

    Raises:
        SettingsError: a named device is not there.
    """
    if list(setting) == ["cpu"]:
        return [CPU]
    if list(setting) == ["auto"]:
        return [Device(index) for index in range(cuda_count)] or [CPU]
    devices = [Device(int(name.removeprefix("cuda:"))) for name in setting]
    for device in devices:
        if device.index is not None and device.index >= cuda_count:
            raise SettingsError(
                f"DARKROOM_DEVICES names {device.name}, but PyTorch sees {cuda_count} CUDA device(s) here; "
                "use DARKROOM_DEVICES=auto, or check the driver with nvidia-smi"
            )
    return devices


def count_cuda() -> int:
    """Return how many CUDA devices PyTorch sees. A child asks, so that this process never holds a CUDA context."""
    answer = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    return int(answer.stdout.strip().splitlines()[-1])


def visible_devices() -> str | None:
    """This process's CUDA_VISIBLE_DEVICES; it is CUDA's variable, not a setting of ours."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")
