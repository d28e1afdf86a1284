"""The runtime config of a training: device, precision, threads and layout, chosen by rules and recorded with the run.

The rules depend on facts known before a training starts, never on a clock, so the same command gives bitwise identical
results. The measurements behind them are in docs/performance.md ("How a training is set up").
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Final, Literal

import torch

from budgetnas import __version__
from budgetnas.architecture import Architecture, count
from budgetnas.errors import InputError
from budgetnas.training.capture_probe import capture_problem, no_graphs
from budgetnas.training.gpu import MPS, choose_device
from budgetnas.training.memory import keep_freed_memory

Precision = Literal["float32", "bf16", "fp16"]
Layout = Literal["channels-last", "contiguous"]
Capability = tuple[int, int]
"""Compute capability of a GPU, major and minor: (7, 5) for a T4."""
DTYPES: Final[Mapping[Precision, torch.dtype]] = {
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
PRECISIONS: Final = ("auto", *DTYPES)
BF16_CAPABILITY: Final = (8, 0)
"""From here on GPUs have bfloat16 instructions; older ones emulate them."""
FP16_CAPABILITY: Final = (7, 0)
"""From here on GPUs multiply fp16 matrices on tensor cores; on older ones fp16 gains little or nothing."""
SMALLEST_BF16_SIDE: Final = 16
"""Images with fewer pixels on a side train faster in float32 on every CPU that was measured."""
NARROW_STEM: Final = 16
"""A narrower stem trains faster in the contiguous layout with several threads."""
ONE_THREAD_MACS: Final = 500_000
"""A network with fewer MACs per image does not gain from a second thread."""
BENCHMARK_SECONDS: Final = 20.0
"""A shorter training on a GPU does not repay the start-up that ``cudnn.benchmark`` costs."""
GPU_MACS_PER_SECOND: Final = 1.7e13
"""Forward MACs per second of V2 in training (bf16, batch 128, one H200)."""
_VERSIONS: Final = ("budgetnas", "torch", "python", "device_name")
_ISAS_WITHOUT_BF16: Final = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")


@dataclass(frozen=True, slots=True)
class CpuFacts:
    """What the rules know about the processor."""

    # Whether oneDNN computes with bfloat16 instructions; without them it emulates bfloat16, many times slower.
    bf16: bool
    threads: int  # cores that this process may use

    @classmethod
    def of_this_process(cls) -> CpuFacts:
        """Return the facts here, with the limits that ONEDNN_MAX_CPU_ISA, OMP_NUM_THREADS and affinity set."""
        limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", ""))
        instructions = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        return cls(uses_bf16(bool(instructions), limit), torch.get_num_threads())


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """Settings that affect the bitwise result of a training, besides candidate, data and seed."""

    device: str  # ``cpu``, ``cuda:N`` or ``mps``
    # ``float32``, ``bf16`` or ``fp16``: the last two compute matrix products in 16 bits over float32 weights, fp16 with
    # loss scaling.
    precision: Precision
    threads: int  # threads of a CPU operation
    # Largest number of images in a forward pass, at least 2 (with 2, the last piece of an odd batch has 3); None for
    # the whole batch.
    micro_batch: int | None = None
    graphs: bool = False  # whether steps are captured as CUDA graphs and replayed
    # Memory layout of activations: the channels of a pixel adjacent, or each channel by itself.
    layout: Layout = "channels-last"
    benchmark: bool = False  # whether cuDNN times its algorithms first (``torch.backends.cudnn.benchmark``)

    @property
    def torch_device(self) -> torch.device:
        """The device as PyTorch names it."""
        return torch.device(self.device)

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout as PyTorch names it."""
        return torch.channels_last if self.layout == "channels-last" else torch.contiguous_format

    def runtime_for(self, architecture: Architecture, *, images: int = 0) -> RuntimeConfig:
        """Return this config for any network: the user fixed it, or it was timed."""
        return self

    @classmethod
    def from_json(cls, environment: str) -> RuntimeConfig:
        """Return the config in a record."""
        known = json.loads(environment)
        return cls(**{field.name: known[field.name] for field in fields(cls) if field.name in known})

    def to_json(self) -> str:
        """Return the config, the device's name and all versions, as a record stores them."""
        versions = {
            "budgetnas": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device_name": device_name(self.torch_device),
        }
        return json.dumps(asdict(self) | versions, sort_keys=True)


@dataclass(frozen=True, slots=True)
class RuntimeRules:
    """Rules that choose the runtime config of each network from facts known beforehand."""

    device: str  # ``cpu``, ``cuda:N`` or ``mps``
    precision: str  # what the user asked for: ``auto``, ``float32``, ``bf16`` or ``fp16``
    cpu: CpuFacts
    capability: Capability | None = None  # compute capability of an NVIDIA GPU, else None
    graphs: bool = False  # whether the device can capture CUDA graphs
    # Sentences that the user should see: GPUs that are not used, and why there are no CUDA graphs.
    notes: tuple[str, ...] = ()

    @property
    def torch_device(self) -> torch.device:
        """The device as PyTorch names it."""
        return torch.device(self.device)

    @property
    def fastest_precision(self) -> Precision:
        """The half precision that the device has fast instructions for, or float32: what ``auto`` means here."""
        if self.capability is None:
            return "bf16" if self.cpu.bf16 and self.device == "cpu" else "float32"
        return next(iter(half_precisions(self.capability)), "float32")

    def computes_in(self, precision: Precision) -> bool:
        """Return whether the device has fast instructions for a precision."""
        half = (self.fastest_precision,) if self.capability is None else half_precisions(self.capability)
        return precision == "float32" or precision in half

    def with_threads(self, threads: int) -> RuntimeRules:
        """Return the rules for a process that may use only `threads` cores."""
        return replace(self, cpu=replace(self.cpu, threads=threads))

    def runtime_for(self, architecture: Architecture, *, images: int = 0) -> RuntimeConfig:
        """Return the runtime config of a training. A pure function of the arguments and these rules.

        Args:
            architecture: The network.
            images: Images of the whole training, each counted in every epoch; decides whether cuDNN times its
                algorithms first.
        """
        if self.device == MPS:  # no layout but the plain one is known to work there with every operation
            return RuntimeConfig(MPS, "float32", self.cpu.threads, layout="contiguous")
        macs = count(architecture).macs
        if self.device != "cpu":
            seconds = macs * images / GPU_MACS_PER_SECOND
            return RuntimeConfig(
                self.device,
                self._asked(self.fastest_precision),
                self.cpu.threads,
                graphs=self.graphs,
                benchmark=seconds >= BENCHMARK_SECONDS,
            )
        threads = 1 if macs < ONE_THREAD_MACS else self.cpu.threads
        narrow = architecture.stem_width < NARROW_STEM
        return RuntimeConfig(
            self.device,
            self._asked(self.fastest_precision if architecture.size >= SMALLEST_BF16_SIDE else "float32"),
            threads,
            layout="contiguous" if narrow and threads > 1 else "channels-last",
        )

    def alternatives(self, architecture: Architecture) -> tuple[RuntimeConfig, ...]:
        """Return the configs that ``--tune-setup`` times, the rules' choice first; on a GPU it is the only one."""
        ruled = self.runtime_for(architecture)
        if self.device != "cpu":
            return (ruled,)
        precisions = {"float32", self.fastest_precision} if self.precision == "auto" else {ruled.precision}
        layouts: tuple[Layout, ...] = ("channels-last", "contiguous")
        others = [
            replace(ruled, precision=precision, threads=threads, layout=layout)
            for precision in sorted(precisions)
            for threads in sorted({1, self.cpu.threads})
            for layout in layouts
        ]
        return (ruled, *(other for other in others if other != ruled))

    def _asked(self, auto: Precision) -> Precision:
        """Return the requested precision; `auto` if the user left it open."""
        return next((name for name in DTYPES if name == self.precision), auto)


Runtime = RuntimeRules | RuntimeConfig
"""How the runtime config of each network is chosen: by rules, or the same for all."""


def runtime_rules(device: str = "auto", precision: str = "auto", *, cpu: CpuFacts | None = None) -> RuntimeRules:
    """Return the rules for the device and precision that the user asked for.

    Args:
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``auto``, ``float32``, ``bf16`` or ``fp16``.
        cpu: The processor; None for this one.

    Raises:
        InputError: If the device is missing or cannot compute in that precision, or a name is unknown.
    """
    if precision not in PRECISIONS:
        raise InputError("--precision", precision, f"must be one of {', '.join(PRECISIONS)}")
    choice, cpu = choose_device(device), cpu or CpuFacts.of_this_process()
    if choice.device == "cpu":
        keep_freed_memory()
        return RuntimeRules("cpu", precision, cpu, notes=choice.notes)
    if choice.device == MPS:
        if precision in ("bf16", "fp16"):
            raise InputError(
                "--precision", precision, "is not for mps, which trains in float32", "use --precision auto"
            )
        return RuntimeRules(MPS, precision, cpu, notes=choice.notes)
    chosen = torch.device(choice.device)
    capability = torch.cuda.get_device_capability(chosen)
    check_precision(precision, choice.device, capability)
    problem = capture_problem(chosen)  # first: a GPU in exclusive mode takes a single process at a time
    torch.cuda.set_device(chosen)  # some calls use the current GPU whatever their tensors' GPU is
    notes = choice.notes if not problem else (*choice.notes, no_graphs(chosen, problem))
    return RuntimeRules(choice.device, precision, cpu, capability, graphs=not problem, notes=notes)


def half_precisions(capability: Capability) -> tuple[Precision, ...]:
    """Return the 16-bit precisions that speed up training on a GPU of this capability, the preferred first."""
    if capability >= BF16_CAPABILITY:
        return "bf16", "fp16"
    return ("fp16",) if capability >= FP16_CAPABILITY else ()


def check_precision(precision: str, device: str, capability: Capability) -> None:
    """Raise `InputError` if a GPU of this capability emulates the requested precision instead of computing in it."""
    if precision == "bf16" and capability < BF16_CAPABILITY:
        rule = f"needs a GPU of compute capability 8.0 or later; {device} has {capability[0]}.{capability[1]}"
        raise InputError("--precision", precision, rule, "use --precision auto")


def uses_bf16(has_instructions: bool, isa_limit: str) -> bool:
    """Return whether oneDNN uses bfloat16 instructions under a limit such as ``ONEDNN_MAX_CPU_ISA=AVX2``."""
    return has_instructions and isa_limit.upper() not in _ISAS_WITHOUT_BF16


def runtime_to_resume(environment: str, here: RuntimeConfig) -> RuntimeConfig:
    """Return the config in which to resume a training that another process may have begun.

    It is the recorded config if device and versions match this process: the result is then bitwise the same. Otherwise
    it is `here`.

    Args:
        environment: The config that the training began in, from its record.
        here: The config of this process.
    """
    recorded, known = RuntimeConfig.from_json(environment), json.loads(environment)
    same = recorded.torch_device.type == here.torch_device.type
    versions = json.loads(here.to_json())
    if not same or any(known.get(name) != versions[name] for name in _VERSIONS):
        return here
    return replace(recorded, device=here.device)


def device_name(device: torch.device) -> str:
    """Return the name of the GPU or of the processor's instruction set."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type == MPS:
        return torch.backends.mps.get_name()
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
