from __future__ import annotations

import pytest

from store.errors import SettingsError
from worker.devices import CPU, Device, Pinned, chosen


def test_auto_takes_every_cuda_device_and_else_the_cpu() -> None:
    assert chosen(["auto"], 2) == [Device(0), Device(1)]
    assert chosen(["auto"], 0) == [CPU]
    assert chosen(["cpu"], 4) == [CPU]


def test_named_devices_are_used_as_named() -> None:
    assert chosen(["cuda:1"], 2) == [Device(1)]


def test_a_device_that_is_not_there_is_refused_with_the_remedy() -> None:
    with pytest.raises(SettingsError, match=r"cuda:2.*sees 2 CUDA device.*DARKROOM_DEVICES=auto"):
        chosen(["cuda:2"], 2)


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [
        (CPU, None, ""),
        (Device(1), None, "1"),
        (Device(1), "4,6", "6"),
        (Device(0), "GPU-ab12, GPU-cd34", "GPU-ab12"),
    ],
)
def test_a_child_sees_its_device_alone_also_within_what_we_may_see(
    device: Device, visible: str | None, expected: str
) -> None:
    assert device.pin(visible)["CUDA_VISIBLE_DEVICES"] == expected
    assert device.torch_name == ("cpu" if device.index is None else "cuda")


def test_a_child_with_several_devices_sees_them_alone_and_numbers_them_anew() -> None:
    pinned = Pinned((Device(0), Device(2)))
    assert pinned.pin("4,5,GPU-ab12")["CUDA_VISIBLE_DEVICES"] == "4,GPU-ab12"
    assert pinned.pin(None)["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert pinned.torch_names == ["cuda:0", "cuda:1"]
    assert pinned.name == "cuda0+2"


def test_a_child_with_one_device_is_pinned_to_it() -> None:
    assert Pinned((CPU,)).pin("4,5") == CPU.pin("4,5")
    assert (Pinned((Device(1),)).torch_names, Pinned((Device(1),)).name) == (["cuda"], "cuda1")
