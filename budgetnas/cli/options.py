"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from budgetnas.cli.completion import study_file_names, study_names
from budgetnas.errors import InputError


def option(
    help: str,
    envvar: str | None = None,
    *,
    default: str | bool = True,
    autocompletion: Callable[..., list[str]] | None = None,
) -> Any:
    """Return an option; `default` has the default in words where the value is None."""
    return typer.Option(help=help, envvar=envvar, show_default=default, autocompletion=autocompletion)


def is_from_environment(context: typer.Context, name: str) -> bool:
    """Return whether an environment variable set a parameter."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "ENVIRONMENT"


def out_option(help: str, metavar: str, *, default: str | bool = True, argument: str = "--out") -> Any:
    """Return the option of a path to write, with ``~`` expanded and ``-`` refused."""

    def output_path(text: str) -> Path:
        if text == "-":
            raise InputError(argument, text, "is not a file name: nothing is written to standard output", "name a file")
        return Path(text).expanduser()

    return typer.Option(argument, parser=output_path, metavar=metavar, help=help, show_default=default)


JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout.")]
StorageOption = Annotated[
    str | None,
    option(
        "Database: sqlite:///FILE.db or postgresql+psycopg://...", "BUDGETNAS_STORAGE", default="sqlite:///budgetnas.db"
    ),
]

StudyArgument = Annotated[
    str,
    typer.Argument(metavar="STUDY", help="Name of a study, as budgetnas studies lists it.", autocompletion=study_names),
]
StudyFileArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[STUDY_FILE]", help="A study file, or the name of a shipped one.", autocompletion=study_file_names
    ),
]
StudyDataOption = Annotated[
    str | None, option("folder:DIR, if the study's data are a folder.", "BUDGETNAS_DATA", default="the study's")
]
DataOption = Annotated[str, option("cifar10, ... or folder:DIR.", "BUDGETNAS_DATA")]
DataDirOption = Annotated[Path | None, option("Folder of downloaded archives.", "BUDGETNAS_DATA_DIR")]

BudgetOption = Annotated[str | None, option("Limit on parameters: 5e6, 5M or 5_000_000.", "BUDGETNAS_BUDGET")]
MaxMacsOption = Annotated[
    str | None, option("Limit on multiply-accumulates per image, e.g. 600M.", "BUDGETNAS_MAX_MACS")
]
MaxActivationsOption = Annotated[
    str | None, option("Limit on activations per image, e.g. 600e3.", "BUDGETNAS_MAX_ACTIVATIONS")
]

MaxWeightsOption = Annotated[
    str | None,
    option("Limit on int8 weights with scales and biases, in KB of 1,024 bytes.", "BUDGETNAS_MAX_WEIGHTS_KB"),
]
MaxRamOption = Annotated[
    str | None, option("Limit on int8 activations alive at once, in KB of 1,024 bytes.", "BUDGETNAS_MAX_RAM_KB")
]

BlockOption = Annotated[str | None, option("basic or bottleneck, with --blocks and --widths.", default="basic")]
StemWidthOption = Annotated[int | None, option("Channels of the stem.", default="64")]
StemKernelOption = Annotated[int | None, option("Side of the stem's convolution.", default="3")]
StemStrideOption = Annotated[
    int | None, option("Factor by which the stem reduces the image: 1, 2 or 4.", default="1; above 48 pixels 2 or 4")
]
SeOption = Annotated[bool, typer.Option("--se", help="Squeeze-and-excitation in every block.")]
StridesOption = Annotated[str | None, option("Stride of each stage.", default="1,2,2,...")]
InChannelsOption = Annotated[int, option("Channels of an image.")]
SizeOption = Annotated[int, option("Side of an image in pixels.")]
ClassesOption = Annotated[int, option("Number of classes.")]

BatchSizeOption = Annotated[int, typer.Option("--batch-size", "--batch", help="Images in one optimiser step.")]
DeviceOption = Annotated[str, option("auto, cpu, cuda, cuda:N or mps.", "BUDGETNAS_DEVICE")]
PrecisionOption = Annotated[str, option("auto, float32, bf16 or fp16.", "BUDGETNAS_PRECISION")]
TimeoutOption = Annotated[str | None, option("Stop after this time: 90s, 15m, 2h.")]
