"""Which device a training uses: the GPUs that this torch can use, and what to do about the others."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from budgetnas.errors import InputError, plural

_DRIVER: Final = Path("/proc/driver/nvidia/version")
_CONTROL: Final = Path("/dev/nvidiactl")
_ARCH: Final = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")
_FIRST_OF_CUDA_13: Final = (7, 5)
_LAST_OF_CUDA_12_6: Final = (9, 0)
MPS: Final = "mps"
"""PyTorch's device for the GPU of an Apple computer (Metal Performance Shaders)."""
DEVICES: Final = "auto, cpu, cuda, cuda:N or mps"
UNTESTED: Final = "training on Apple's GPU has not been tested; --device cpu trains on the CPU"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU."""

    name: str
    capability: tuple[int, int]  # its compute capability, e.g. (7, 5)
    memory: int = 0  # its memory in bytes

    def describe(self) -> str:
        """Return name and capability."""
        return f"{self.name} (compute capability {self.capability[0]}.{self.capability[1]})"


@dataclass(frozen=True, slots=True)
class AppleGpu:
    """The GPU of an Apple computer."""

    name: str
    memory: int = 0  # bytes that Metal recommends as the most to use

    @classmethod
    def of_this_machine(cls) -> AppleGpu:
        """Return the GPU here; there must be one that PyTorch can use."""
        return cls(torch.backends.mps.get_name(), torch.mps.recommended_max_memory())


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What decides which GPUs can be used; a plain value, so that every machine's choice can be tested anywhere."""

    gpus: tuple[Gpu, ...]  # the GPUs that PyTorch sees, in its order
    archs: tuple[str, ...]  # architectures that this torch has kernels for, as ``torch.cuda.get_arch_list`` names them
    torch: str
    cuda: str | None  # CUDA version that this torch is built for; None for a build without CUDA
    has_driver: bool  # whether the machine has a driver of NVIDIA, and the GPUs are not hidden from this process
    warning: str = ""  # what PyTorch said when it looked for GPUs, or empty
    apple: AppleGpu | None = None  # the GPU of an Apple computer, if PyTorch can use it
    mps_built: bool = False  # whether this torch is built for such GPUs

    @classmethod
    def of_this_process(cls) -> GpuFacts:
        """Return the facts here."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
            gpus = tuple(_gpu(index) for index in range(count))
        return cls(
            gpus,
            tuple(torch.cuda.get_arch_list()) if gpus else (),
            torch.__version__,
            torch.version.cuda,
            _has_driver() and not _hidden(),
            "" if gpus or not caught else " ".join(str(caught[0].message).partition(". ")[0].split()),
            AppleGpu.of_this_machine() if torch.backends.mps.is_available() else None,
            torch.backends.mps.is_built(),
        )

    def can_use(self, index: int) -> bool:
        """Return whether this torch has kernels for a GPU."""
        return has_kernels(self.gpus[index].capability, self.archs)

    def usable(self) -> tuple[int, ...]:
        """Return the indices of the GPUs that can be used."""
        return tuple(index for index in range(len(self.gpus)) if self.can_use(index))

    def no_kernels(self, index: int) -> tuple[str, str]:
        """Return a sentence on a GPU that cannot be used, and a hint."""
        gpu = self.gpus[index]
        sentence = f"torch {self.torch} has no kernels for {gpu.describe()}, only for {', '.join(self.archs)}"
        if gpu.capability < _FIRST_OF_CUDA_13:
            # https://github.com/pytorch/pytorch/issues/172352: only the builds for CUDA 12.6 keep these GPUs
            return (
                sentence,
                "install torch 2.10 to 2.14 for CUDA 12.6, which has kernels for capability 5.0 to 9.0",
            )
        build = " or its build for a later CUDA" if gpu.capability > _LAST_OF_CUDA_12_6 else ""
        return sentence, f"install a later torch{build}"

    def no_gpu(self) -> tuple[str, str] | None:
        """Return a sentence on GPUs that PyTorch does not see, and a hint; None if the machine has none."""
        if self.gpus or not self.has_driver:
            return None
        if self.cuda is None:
            return f"this machine has a GPU, but torch {self.torch} is built without CUDA", "install a build with CUDA"
        reason = f" ({self.warning})" if self.warning else ""
        sentence = f"this machine has a GPU, but torch {self.torch} for CUDA {self.cuda} cannot use it{reason}"
        return sentence, "update the GPU's driver, or install torch's build for an older CUDA"


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """The device of a process's trainings."""

    device: str  # ``cpu``, ``cuda:N`` or ``mps``
    notes: tuple[str, ...] = ()  # sentences on the choice: GPUs that are not used, a device that is untested


def has_kernels(capability: tuple[int, int], archs: tuple[str, ...]) -> bool:
    """Return whether a build of torch for `archs` runs on a GPU of this capability.

    Machine code (``sm_XY``) runs on capability X.Z for Z >= Y, and intermediate code (``compute_XY``) on X.Y and all
    later ones; with the suffix ``a`` on X.Y only (CUDA C++ Programming Guide, "Compute Capabilities"). Other names, as
    those of AMD's GPUs, are not judged.
    """
    known = [_ARCH.fullmatch(arch) for arch in archs]
    return not archs or any(match is None or _runs(match, capability) for match in known)


def choose_device(asked: str, facts: GpuFacts | None = None) -> DeviceChoice:
    """Return the device that the user asked for.

    Args:
        asked: ``auto`` (the first GPU that can be used, else Apple's, else the CPU), ``cpu``, ``cuda``, ``cuda:N`` or
            ``mps``.
        facts: The machine; None for this one.

    Raises:
        InputError: If the name is unknown, or the GPU is missing or cannot be used.
    """
    if check_device(asked) == "cpu":
        return DeviceChoice("cpu")
    facts = facts or GpuFacts.of_this_process()
    if asked == MPS:
        return _apple(facts)
    return _automatic(facts) if asked == "auto" else _named(asked, int(asked.partition(":")[2] or 0), facts)


def check_device(asked: object) -> str:
    """Return the name of a device if it is a valid one; the device may be missing.

    Raises:
        InputError: If it is not.
    """
    kind, _, index = asked.partition(":") if isinstance(asked, str) else ("", "", "")
    is_gpu = kind == "cuda" and not str(asked).endswith(":") and (not index or (index.isascii() and index.isdigit()))
    if not isinstance(asked, str) or not (asked in ("auto", "cpu", MPS) or is_gpu):
        rule = f"must be {DEVICES}, not None" if asked is None else f"must be {DEVICES}"
        raise InputError("--device", asked, rule, "leave it out for auto" if asked is None else "")
    return asked


def _automatic(facts: GpuFacts) -> DeviceChoice:
    usable = facts.usable()
    problems = [facts.no_kernels(index) for index in range(len(facts.gpus)) if index not in usable]
    missing = facts.no_gpu()
    notes = [f"{sentence}; {hint}" for sentence, hint in [*problems, *([missing] if missing else [])]]
    if usable:
        return DeviceChoice(f"cuda:{usable[0]}", tuple(notes))
    if facts.apple is not None:
        return DeviceChoice(MPS, (UNTESTED,))
    return DeviceChoice("cpu", tuple(f"training on the CPU: {note}" for note in notes))


def _named(asked: str, index: int, facts: GpuFacts) -> DeviceChoice:
    if index >= len(facts.gpus):
        there = plural(len(facts.gpus), "GPU") if facts.gpus else "no GPU that PyTorch can use"
        problem = facts.no_gpu()
        rule, hint = problem or (f"this machine has {there}", "use --device auto or cpu")
        raise InputError("--device", asked, f"is missing: {rule}", hint)
    if not facts.can_use(index):
        sentence, hint = facts.no_kernels(index)
        raise InputError("--device", asked, f"cannot be used: {sentence}", f"{hint}, or use --device cpu")
    return DeviceChoice(f"cuda:{index}")


def _apple(facts: GpuFacts) -> DeviceChoice:
    if facts.apple is not None:
        return DeviceChoice(MPS, (UNTESTED,))
    there = "PyTorch sees no Apple GPU here" if facts.mps_built else f"torch {facts.torch} is built without MPS"
    raise InputError("--device", MPS, f"is missing: {there}", "use --device auto or cpu")


def _gpu(index: int) -> Gpu:
    properties = torch.cuda.get_device_properties(index)
    return Gpu(properties.name, (properties.major, properties.minor), properties.total_memory)


def _runs(arch: re.Match[str], capability: tuple[int, int]) -> bool:
    kind, major, minor, suffix = arch[1], int(arch[2]), int(arch[3]), arch[4]
    if suffix == "a":
        return capability == (major, minor)
    if kind == "compute" and not suffix:
        return capability >= (major, minor)
    return capability[0] == major and capability[1] >= minor


def _has_driver() -> bool:
    return _DRIVER.exists() or _CONTROL.exists()


def _hidden() -> bool:
    """Return whether the user has hidden all GPUs from this process."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
