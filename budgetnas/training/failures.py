"""What an error of PyTorch says: memory ran out, or this process can no longer train."""

from __future__ import annotations

from typing import Final

import torch

_OUT_OF_MEMORY: Final = (
    "out of memory",  # CUDA's allocator; also "CUDA error: out of memory" of the driver
    "not enough memory",  # the CPU's allocator on Windows
    "can't allocate memory",  # the CPU's allocator elsewhere
    "bad_alloc",  # C++
    "ALLOC_FAILED",  # cuBLAS, cuDNN, cuSOLVER
    "ALLOCATION_FAILED",  # cuDNN 9
    "unable to find an engine to execute this computation",  # cuDNN without the memory for any algorithm's workspace
)
_DEVICE_LOST: Final = (
    "device-side assert",
    "unspecified launch failure",
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "invalid program counter",
    "hardware stack error",
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "launch timed out",
    "EXECUTION_FAILED",  # cuBLAS, cuDNN
    "GPU is lost",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, on a GPU or a CPU."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(sign in str(error) for sign in _OUT_OF_MEMORY)


def is_device_lost(error: BaseException) -> bool:
    """Return whether no further call to the GPU can succeed in this process.

    After an error within a kernel CUDA refuses every call until the process has ended (CUDA Runtime API, "Error
    Handling"). PyTorch raises such errors as `torch.AcceleratorError`, those of the libraries as `RuntimeError`.
    """
    if is_out_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or any(sign in str(error) for sign in _DEVICE_LOST)


def first_line(error: BaseException) -> str:
    """Return the first line of an error; PyTorch adds advice on debugging."""
    return next(iter(str(error).splitlines()), type(error).__name__).strip()
