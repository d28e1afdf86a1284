"""``budgetnas bench``: how fast networks train on this machine, compared with the usual PyTorch loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from budgetnas.architecture import Architecture, named, parse_architecture
from budgetnas.cli.console import chosen_runtime, print_json, stdout, table
from budgetnas.cli.options import (
    BatchSizeOption,
    DataDirOption,
    DataOption,
    DeviceOption,
    JsonFlag,
    StemWidthOption,
    option,
)
from budgetnas.errors import InputError, check_seed

if TYPE_CHECKING:
    from budgetnas.data import Data
    from budgetnas.experiments.bench.summary import BenchSummary


def bench_command(
    arch: Annotated[str, option("v1, v2, resnet18, ..., or custom with --blocks and --widths.")] = "v2",
    blocks: Annotated[str | None, option("Blocks of each stage, e.g. 1,1,1.")] = None,
    widths: Annotated[str | None, option("Width of each stage, e.g. 16,32,64.")] = None,
    stem_width: StemWidthOption = None,
    batch: BatchSizeOption = 128,
    repeats: Annotated[int, option("Trainings of each loop.")] = 5,
    epochs: Annotated[int, option("Epochs of each training; the first is not timed.")] = 2,
    data: DataOption = "cifar10",
    data_dir: DataDirOption = None,
    subset: Annotated[
        int | None, option("Training images.", default="all on a GPU; on a CPU as many as take 8 s")
    ] = None,
    subset_eval: Annotated[int | None, option("Validation images.", default="all on a GPU; on a CPU 1,000")] = None,
    seed: Annotated[int, option("Seed of the first training.")] = 0,
    device: DeviceOption = "auto",
    precision: Annotated[
        str, option("Precision of our loop: auto, float32, bf16 or fp16.", "BUDGETNAS_PRECISION")
    ] = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Time training on this machine in three loops: the usual PyTorch loop, that loop tuned, and budgetnas.

    Example: budgetnas bench --arch v2 --batch-size 128
    """
    _check_at_least("--repeats", repeats, 2, "an interval needs two")
    _check_at_least("--epochs", epochs, 2, "the first is not timed")
    _check_at_least("--batch-size", batch, 2, "batch normalisation of one image has no variance")
    check_seed(seed)
    _network(arch, blocks, widths, stem_width, None)
    from budgetnas.api.progress.lines import TerminalLines
    from budgetnas.data import DataRequest, load_data
    from budgetnas.experiments.bench.protocol import REPORT_IMAGES, BenchRequest, bench
    from budgetnas.experiments.bench.summary import summarise

    rules = chosen_runtime(device, precision)
    with TerminalLines() as lines:
        lines.status("loading data ...")
        loaded = load_data(DataRequest(name=data, data_dir=data_dir, subset=subset, subset_eval=subset_eval))
        architecture = _network(arch, blocks, widths, stem_width, loaded)
        request = BenchRequest(
            architecture=architecture,
            batch=batch,
            repeats=repeats,
            epochs=epochs,
            runtime=rules.runtime_for(architecture, images=REPORT_IMAGES),
            seed=seed,
        )
        result = bench(request, loaded, lines.status)
    summary = summarise(result, loaded)
    if as_json:
        print_json(summary.to_dict())
    else:
        _print(summary)


def _check_at_least(argument: str, value: int, least: int, why: str) -> None:
    if value < least:
        raise InputError(argument, value, f"must be a whole number of at least {least}: {why}")


def _network(
    arch: str, blocks: str | None, widths: str | None, stem_width: int | None, data: Data | None
) -> Architecture:
    inputs: dict[str, Any] = {}
    if data is not None:
        inputs = {"in_channels": data.in_channels, "size": data.resolution, "classes": len(data.classes)}
    stem: dict[str, Any] = {} if stem_width is None else {"stem_width": stem_width}
    if blocks is None and widths is None:
        if stem:
            raise InputError("--stem-width", stem_width, "needs --blocks and --widths instead of a name")
        return named(arch, **inputs)
    return parse_architecture(blocks, widths, **stem, **inputs)


def _print(summary: BenchSummary) -> None:
    console = stdout()
    columns = ("", *(loop.name for loop in summary.loops))
    console.print(table(summary.title, columns, summary.rows()))
    for line in summary.notes():
        console.print(line, soft_wrap=True)
