"""Where and in which precision a training runs: part of its record, for its bits depend on it."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, fields, replace
from typing import Final, Literal

import torch

from budgetnas import __version__
from budgetnas.errors import InputError
from budgetnas.training.cuda_graphs import can_capture
from budgetnas.training.memory import keep_freed_memory

Precision = Literal["float32", "bf16"]
Layout = Literal["channels-last", "contiguous"]
_VERSIONS: Final = ("budgetnas", "torch", "python", "device_name")
PRECISIONS: Final = ("auto", "float32", "bf16")


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """What a training's bits depend on beside its candidate, data and seed.

    Attributes:
        device: ``cpu`` or ``cuda:N``.
        precision: ``float32``, or ``bf16``: matrix products in bfloat16 over float32 weights.
        threads: Threads of a CPU operation.
        micro_batch: Most images in one forward pass, of at least 2 (with 2, the last of an odd batch has 3);
            nothing: the recipe's batch.
        graphs: Whether steps are captured as CUDA graphs and replayed.
        layout: How activations lie in memory: the channels of a pixel together, or each channel for itself.
    """

    device: str
    precision: Precision
    threads: int
    micro_batch: int | None = None
    graphs: bool = False
    layout: Layout = "channels-last"

    @property
    def torch_device(self) -> torch.device:
        """The device as PyTorch names it."""
        return torch.device(self.device)

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout as PyTorch names it."""
        return torch.channels_last if self.layout == "channels-last" else torch.contiguous_format

    def with_micro_batch(self, images: int) -> RuntimeConfig:
        """Return the same with another micro-batch."""
        return replace(self, micro_batch=images)

    @classmethod
    def from_json(cls, environment: str) -> RuntimeConfig:
        """Return the runtime that a record keeps."""
        known = json.loads(environment)
        return cls(**{one.name: known[one.name] for one in fields(cls) if one.name in known})

    def to_json(self) -> str:
        """Return the runtime with the device's name and all versions, as a record keeps it."""
        versions = {
            "budgetnas": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device_name": device_name(self.torch_device),
        }
        return json.dumps(asdict(self) | versions, sort_keys=True)


def choose_runtime(device: str = "auto", precision: str = "auto") -> RuntimeConfig:
    """Return the runtime for what the user asked for, on this machine.

    Args:
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto`` (bfloat16 where the device computes in it), ``float32`` or ``bf16``.

    Raises:
        InputError: If the device is not there, or a name is unknown.
    """
    if precision not in PRECISIONS:
        raise InputError("--precision", precision, f"must be one of {', '.join(PRECISIONS)}")
    chosen = _device(device)
    on_gpu = chosen.type == "cuda"
    torch.backends.cudnn.benchmark = on_gpu
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32; who wants speed has bf16
    if not on_gpu:
        keep_freed_memory()
    in_bf16 = precision == "bf16" or (precision == "auto" and gains_from_bf16(chosen))
    return RuntimeConfig(
        str(chosen),
        "bf16" if in_bf16 else "float32",
        torch.get_num_threads(),
        graphs=on_gpu and can_capture(chosen),
    )


def alternatives(runtime: RuntimeConfig, precision: str = "auto") -> tuple[RuntimeConfig, ...]:
    """Return the runtimes worth timing beside `runtime`: nothing but the clock can tell which is the fastest.

    On a CPU with instructions for bfloat16 it is slower than float32 for some networks; several threads are slower
    than one for small networks, or on a busy machine; and with several threads the contiguous layout is faster for
    some networks, with one it is for none that was tried. On a GPU there is nothing to choose.

    Args:
        runtime: What `choose_runtime` returned.
        precision: What the user asked for.
    """
    if runtime.device != "cpu":
        return ()
    both = precision == "auto" and runtime.precision == "bf16"
    precisions: tuple[Precision, ...] = ("bf16", "float32") if both else (runtime.precision,)
    ways: set[tuple[int, Layout]] = {(runtime.threads, "channels-last"), (1, "channels-last")}
    if runtime.threads > 1:
        ways.add((runtime.threads, "contiguous"))
    everything = (
        replace(runtime, precision=one, threads=number, layout=layout)
        for one in precisions
        for number, layout in sorted(ways)
    )
    return tuple(one for one in everything if one != runtime)


def gains_from_bf16(device: torch.device) -> bool:
    """Return whether `device` has instructions for bfloat16; without them it is emulated and many times slower."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def runtime_to_resume(environment: str, here: RuntimeConfig) -> RuntimeConfig:
    """Return the runtime in which a training goes on that was begun in another process.

    The one it was begun in, if its device and versions are those of this process: its bits are then what they would
    have been. Else this process's own.

    Args:
        environment: What it was begun in, as its record has it.
        here: The runtime of this process.
    """
    recorded, known = RuntimeConfig.from_json(environment), json.loads(environment)
    same = recorded.torch_device.type == here.torch_device.type
    mine = json.loads(here.to_json())
    if not same or any(known.get(name) != mine[name] for name in _VERSIONS):
        return here
    return replace(recorded, device=here.device)


def device_name(device: torch.device) -> str:
    """Return the name of the GPU or of the processor's instruction set."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _device(name: str) -> torch.device:
    kind, _, index = name.partition(":")
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if kind != "cuda" or (index and not (index.isascii() and index.isdigit())) or name.endswith(":"):
        raise InputError("--device", name, "must be auto, cpu, cuda or cuda:N")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found <= int(index or 0):
        there = f"{found} GPU{'s' if found != 1 else ''}" if found else "no GPU that PyTorch can use"
        raise InputError("--device", name, f"is not there: this machine has {there}", "use --device auto or cpu")
    return torch.device("cuda", int(index or 0))
