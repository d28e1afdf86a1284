"""Which device is used, on machines that are described as plain values: none of these tests needs a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import run, study_file

from budgetnas.cli.app import main
from budgetnas.cli.checks.machine import gpus as doctors_gpus
from budgetnas.cli.console import chosen_runtime
from budgetnas.errors import EXIT_BAD_INPUT, EXIT_RESTART, InputError
from budgetnas.runs.interrupts import Stopper
from budgetnas.searching.callbacks import MessageCallbacks
from budgetnas.searching.options import SearchOptions, read_study_file
from budgetnas.searching.session import run_search
from budgetnas.searching.workers.pools import gpus, idle_gpus
from budgetnas.training import CpuFacts, RuntimeRules, runtime_rules
from budgetnas.training.gpu import UNTESTED, AppleGpu, DeviceChoice, Gpu, GpuFacts, choose_device, has_kernels

CUDA_13 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")
CUDA_12_6 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
P100 = Gpu("Tesla P100-PCIE-16GB", (6, 0))
T4 = Gpu("Tesla T4", (7, 5))
H100 = Gpu("NVIDIA H100", (9, 0))
NEXT = Gpu("NVIDIA Next", (13, 0))
TOO_OLD = "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040)"


def machine(*there: Gpu, archs: tuple[str, ...] = CUDA_13, warning: str = "") -> GpuFacts:
    return GpuFacts(there, archs if there else (), "2.11.0+cu130", "13.0", has_driver=True, warning=warning)


NOTHING = replace(machine(), has_driver=False)
APPLE = replace(NOTHING, cuda=None, apple=AppleGpu("Apple M2", 16 << 30), mps_built=True)


@pytest.mark.parametrize(
    ("capability", "archs", "runs"),
    [
        ((7, 5), CUDA_13, True),
        ((8, 9), CUDA_13, True),  # machine code of 8.6
        ((6, 0), CUDA_13, False),
        ((7, 0), CUDA_13, False),
        ((10, 3), CUDA_13, True),
        ((12, 1), CUDA_13, True),
        ((11, 0), CUDA_13, False),
        ((13, 0), CUDA_13, True),  # intermediate code of 12.0
        ((13, 0), CUDA_13[:-1], False),
        ((6, 1), CUDA_12_6, True),
        ((12, 0), CUDA_12_6, False),
        ((9, 0), ("sm_90a",), True),
        ((9, 1), ("sm_90a",), False),
        ((10, 3), ("sm_100f",), True),
        ((9, 0), ("compute_90a",), True),
        ((10, 0), ("compute_90a",), False),
        ((9, 0), ("gfx90a", "gfx942"), True),
        ((9, 0), (), True),
    ],
)
def test_the_kernels_of_a_build(capability: tuple[int, int], archs: tuple[str, ...], runs: bool) -> None:
    assert has_kernels(capability, archs) is runs


def test_auto_takes_the_first_gpu_that_can_be_used() -> None:
    assert choose_device("auto", machine(H100, T4)) == DeviceChoice("cuda:0")
    choice = choose_device("auto", machine(P100, T4))
    assert choice.device == "cuda:1"
    assert choice.notes == (
        f"torch 2.11.0+cu130 has no kernels for Tesla P100-PCIE-16GB (compute capability 6.0), only for "
        f"{', '.join(CUDA_13)}; install torch 2.10 to 2.14 for CUDA 12.6, which has kernels for capability 5.0 to 9.0",
    )


def test_auto_chooses_the_cpu_and_reports_why() -> None:
    assert choose_device("auto", NOTHING) == DeviceChoice("cpu")
    (note,) = choose_device("auto", machine(P100)).notes
    assert note.startswith("training on the CPU: torch 2.11.0+cu130 has no kernels for Tesla P100")
    (note,) = choose_device("auto", machine(NEXT, archs=CUDA_12_6)).notes
    assert note.endswith("install a later torch or its build for a later CUDA")
    (note,) = choose_device("auto", machine(warning=TOO_OLD)).notes
    assert note == (
        "training on the CPU: this machine has a GPU, but torch 2.11.0+cu130 for CUDA 13.0 cannot use it "
        f"({TOO_OLD}); update the GPU's driver, or install torch's build for an older CUDA"
    )
    (note,) = choose_device("auto", replace(machine(), cuda=None, torch="2.11.0+cpu")).notes
    assert note.endswith("torch 2.11.0+cpu is built without CUDA; install a build with CUDA")


@pytest.mark.parametrize(
    ("asked", "facts", "message"),
    [
        ("cuda", machine(P100), "cannot be used: torch 2.11.0+cu130 has no kernels for Tesla P100-PCIE-16GB"),
        ("cuda:1", machine(T4, P100), "which has kernels for capability 5.0 to 9.0, or use --device cpu"),
        ("cuda:1", machine(T4), "is missing: this machine has 1 GPU; use --device auto or cpu"),
        ("cuda", machine(warning=TOO_OLD), "too old (found version 11040)); update the GPU's driver"),
        ("cuda", NOTHING, "is missing: this machine has no GPU that PyTorch can use; use --device auto or cpu"),
        ("cuda:", machine(T4), "must be auto, cpu, cuda, cuda:N or mps"),
        ("cuda:x", machine(T4), "must be auto, cpu, cuda, cuda:N or mps"),
        ("tpu", machine(T4), "must be auto, cpu, cuda, cuda:N or mps"),
        ("mps", NOTHING, "is missing: torch 2.11.0+cu130 is built without MPS; use --device auto or cpu"),
        ("mps", replace(NOTHING, mps_built=True), "is missing: PyTorch sees no Apple GPU here; use --device auto or"),
        ("mps:0", APPLE, "must be auto, cpu, cuda, cuda:N or mps"),
    ],
)
def test_a_gpu_that_was_named_and_cannot_be_used_is_an_error(asked: str, facts: GpuFacts, message: str) -> None:
    with pytest.raises(InputError) as caught:
        choose_device(asked, facts)
    assert str(caught.value).startswith(f"--device '{asked}'")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gpu_that_can_be_used_is_taken() -> None:
    assert choose_device("cuda", machine(T4)) == DeviceChoice("cuda:0")
    assert choose_device("cuda:1", machine(P100, T4)) == DeviceChoice("cuda:1")
    assert choose_device("cpu") == DeviceChoice("cpu")


def test_auto_takes_an_apple_gpu_only_without_cuda() -> None:
    assert choose_device("auto", APPLE) == choose_device("mps", APPLE) == DeviceChoice("mps", (UNTESTED,))
    assert choose_device("auto", replace(machine(T4), apple=APPLE.apple)) == DeviceChoice("cuda:0")
    assert choose_device("cpu", APPLE) == DeviceChoice("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_the_facts_of_a_machine_without_gpus() -> None:
    facts = GpuFacts.of_this_process()
    assert (facts.gpus, facts.archs, facts.usable()) == ((), (), ())
    assert runtime_rules("auto").device == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_the_command_line_ends_with_a_line_and_code_2(tmp_path: Path) -> None:
    done = run(tmp_path, "search", study_file(tmp_path), "--study", "s", "--device", "cuda")
    assert done.returncode == EXIT_BAD_INPUT
    assert done.stderr.startswith("budgetnas: --device 'cuda': is missing: ")
    assert len(done.stderr.splitlines()) == 1


def test_commands_print_why_they_train_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(GpuFacts, "of_this_process", lambda: machine(P100))
    assert chosen_runtime("auto", "auto").device == "cpu"
    out, err = capsys.readouterr()
    assert out == ""
    assert "training on the CPU: torch 2.11.0+cu130 has no kernels for Tesla P100" in err
    assert chosen_runtime("cpu", "auto").notes == ()
    assert capsys.readouterr().err == ""


def test_a_search_says_why_it_trains_on_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(GpuFacts, "of_this_process", lambda: machine(warning=TOO_OLD))
    told: list[str] = []
    options = SearchOptions(study="s", trials=1, epochs=1, storage=f"sqlite:///{tmp_path / 'nas.db'}")
    options = options.over(read_study_file(Path(study_file(tmp_path))))
    result = run_search(options, Stopper(), MessageCallbacks(told.append))
    result.records.close()
    assert result.outcome.finished
    assert [TOO_OLD in text for text in told].count(True) == 1


def test_an_error_of_the_gpu_outside_a_training_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered\nand advice")

    monkeypatch.setattr("budgetnas.cli.app.app", fails)
    assert main(["doctor"]) == EXIT_RESTART
    expected = "budgetnas: the GPU failed (CUDA error: device-side assert triggered); run the command again\n"
    assert capsys.readouterr().err == expected


ON_A_GPU = RuntimeRules("cuda:0", "auto", CpuFacts(bf16=False, threads=2), capability=(9, 0))


def test_workers_are_given_the_gpus_that_can_be_used() -> None:
    assert gpus(None, ON_A_GPU, machine(H100, P100, T4)) == ("cuda:0", "cuda:2")
    assert gpus("cuda:0", ON_A_GPU, machine(H100, T4)) == ("cuda:0",)
    assert gpus(None, replace(ON_A_GPU, device="cpu"), machine(H100, T4)) == ()
    assert gpus(None, replace(ON_A_GPU, device="mps", capability=None), APPLE) == ("mps",)


def test_a_search_says_that_a_gpu_is_idle() -> None:
    two = ("cuda:0", "cuda:1")
    assert idle_gpus(SearchOptions(), two) == "this search uses one of 2 GPUs; --workers 2 uses all of them"
    assert idle_gpus(SearchOptions(), two[:1]) is None
    assert idle_gpus(SearchOptions(workers=1), two) is None
    assert idle_gpus(SearchOptions(per_device=1), two) is None
    assert idle_gpus(SearchOptions(ray="auto"), two) is None


def test_the_doctor_names_each_gpu() -> None:
    usable, unusable = doctors_gpus(machine(replace(H100, memory=80 << 30), P100))
    assert (usable.check, usable.state) == ("cuda:0", "ok")
    assert usable.detail == "NVIDIA H100 (compute capability 9.0), 80.0 GiB memory, fast in bf16 and fp16"
    assert (unusable.check, unusable.state) == ("cuda:1", "warning")
    assert "has no kernels for Tesla P100" in unusable.detail
    assert "CUDA 12.6" in unusable.hint
    (unseen,) = doctors_gpus(machine(warning=TOO_OLD))
    assert (unseen.check, unseen.state, TOO_OLD in unseen.detail) == ("gpu", "warning", True)
    assert list(doctors_gpus(NOTHING)) == []
    (apple,) = doctors_gpus(APPLE)
    assert (apple.check, apple.state, apple.detail) == ("mps", "warning", f"Apple M2, 16.0 GiB memory; {UNTESTED}")
