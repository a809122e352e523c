"""Each device has a sampler; trainers have one device each, or one has them all."""

from __future__ import annotations

import pytest

from store.resources import Resources
from worker.devices import CPU, Device
from worker.launch import programs


def _started(resources: Resources, devices: list[Device], train_devices: str) -> list[tuple[str, str, str]]:
    """Name, --device and CUDA_VISIBLE_DEVICES of each worker."""
    settings = resources.settings.model_copy(update={"train_devices": train_devices})
    found = []
    for program in programs(settings, resources, devices):
        argv = program.argv()
        found.append((program.name, argv[argv.index("--device") + 1], program.env["CUDA_VISIBLE_DEVICES"]))
    return found


def test_every_device_has_a_sampler_and_a_trainer(resources: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert _started(resources, [Device(0), Device(1)], "each") == [
        ("io-0", "cpu", ""),
        ("sample-cuda0", "cuda", "0"),
        ("train-cuda0", "cuda", "0"),
        ("sample-cuda1", "cuda", "1"),
        ("train-cuda1", "cuda", "1"),
    ]


def test_one_trainer_has_all_devices_on_request(resources: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given GPUs 4, 6 and 7 of which the first and the last are ours, I expect a trainer that sees 4 and 7 alone."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert _started(resources, [Device(0), Device(2)], "all") == [
        ("io-0", "cpu", ""),
        ("sample-cuda0", "cuda", "4"),
        ("sample-cuda2", "cuda", "7"),
        ("train-cuda0+2", "cuda:0,cuda:1", "4,7"),
    ]


def test_all_devices_of_a_host_without_gpus_are_its_cpu(resources: Resources) -> None:
    assert _started(resources, [CPU], "all") == [
        ("io-0", "cpu", ""),
        ("sample-cpu", "cpu", ""),
        ("train-cpu", "cpu", ""),
    ]
