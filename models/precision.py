"""The precision that networks compute with while they learn: weights, losses and penalties are float32 always.

Under `bf16` the networks' convolutions and products take and give bfloat16 (automatic mixed precision); what leaves a network
is float32 again, so that no loss is summed in eight bits. bfloat16 has float32's range, so no losses need scaling.

Source: Micikevicius et al. 2018, Mixed Precision Training, arXiv:1710.03740, §3.1; Kalamkar et al. 2019, A Study of BFLOAT16
for Deep Learning Training, arXiv:1905.12322.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models.options import Precision

BFLOAT16_OF_CPUS = ("amx_bf16", "avx512_bf16", "bf16")  # instructions that multiply it: Intel's, AMD's, Arm's
LEAST_GAIN = 1.1  # in speed, for which half of the digits are given up


def computing(precision: Precision, device: torch.device) -> torch.autocast:
    """A context in which networks compute with this precision; `auto`, which nobody has settled, is fp32."""
    # Without its cache: what is cast where no gradients are wanted would be found again where they are.
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)


def is_lowered(device: torch.device) -> bool:
    """Whether networks compute with fewer digits just now."""
    return torch.is_autocast_enabled(device.type)


def lowered(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors of one device as networks take them just now: what autocast does for PyTorch's own operations, for ours."""
    (device,) = {tensor.device for tensor in tensors}
    return tuple(tensor.bfloat16() for tensor in tensors) if is_lowered(device) else tensors


def in_full(device: torch.device) -> torch.autocast:
    """A context in which networks compute in float32 all the same: differences, and slopes of slopes, need all digits."""
    return torch.autocast(device.type, enabled=False)


def candidates(device: torch.device) -> tuple[Precision, ...]:
    """What a device may gain from, fp32 first; without instructions for bfloat16 a CPU is slower with it by far."""
    if device.type == "cuda":
        multiplies = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older releases of PyTorch can't say
        multiplies = any(able.get(instructions) for instructions in BFLOAT16_OF_CPUS)
    return ("fp32", "bf16") if multiplies else ("fp32",)


def fastest(images_per_s: Mapping[str, float]) -> str:
    """The precision to train with: fp32, unless another is clearly faster."""
    best = max(images_per_s, key=lambda precision: images_per_s[precision])
    return best if images_per_s[best] >= LEAST_GAIN * images_per_s["fp32"] else "fp32"
