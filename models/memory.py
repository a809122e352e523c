"""Memory that ran out on a device: how to tell, and how to give back what can be given back."""

from __future__ import annotations

import gc

import torch

# What PyTorch says where it raises a plain RuntimeError: the CPU's allocator, and the libraries under CUDA.
WORDS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the error says that a device had no memory left, so that less of the same may work."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in WORDS)


def release_memory(device: torch.device | str) -> None:
    """Give the device back what PyTorch keeps for reuse; call it outside of `except`, whose traceback holds tensors."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
