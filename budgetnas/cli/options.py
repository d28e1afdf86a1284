"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout.")]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="Database: sqlite:///FILE.db or postgresql+psycopg://...",
        envvar="BUDGETNAS_STORAGE",
        show_default="sqlite:///budgetnas.db",
    ),
]

StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="Name of a study, as budgetnas studies lists it.")]
StudyFileArgument = Annotated[
    str | None, typer.Argument(metavar="[STUDY_FILE]", help="A study file, or the name of a shipped one.")
]
StudyDataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="folder:DIR, if the study's data are a folder.",
        envvar="BUDGETNAS_DATA",
        show_default="the study's",
    ),
]
DataOption = Annotated[str, typer.Option(help="cifar10, ... or folder:DIR.", envvar="BUDGETNAS_DATA")]
DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder of downloaded archives.", envvar="BUDGETNAS_DATA_DIR")
]

BudgetOption = Annotated[
    str | None, typer.Option(help="Limit on parameters: 5e6, 5M or 5_000_000.", envvar="BUDGETNAS_BUDGET")
]
MaxMacsOption = Annotated[
    str | None,
    typer.Option(help="Limit on multiply-accumulates per image, e.g. 600M.", envvar="BUDGETNAS_MAX_MACS"),
]
MaxActivationsOption = Annotated[
    str | None,
    typer.Option(help="Limit on activations per image, e.g. 600e3.", envvar="BUDGETNAS_MAX_ACTIVATIONS"),
]

BlockOption = Annotated[
    str | None, typer.Option(help="basic or bottleneck, with --blocks and --widths.", show_default="basic")
]
StemWidthOption = Annotated[int | None, typer.Option(help="Channels of the stem.", show_default="64")]
StemKernelOption = Annotated[int | None, typer.Option(help="Side of the stem's convolution.", show_default="3")]
StridesOption = Annotated[str | None, typer.Option(help="Stride of each stage.", show_default="1,2,2,...")]
InChannelsOption = Annotated[int, typer.Option(help="Channels of an image.")]
SizeOption = Annotated[int, typer.Option(help="Side of an image in pixels.")]
ClassesOption = Annotated[int, typer.Option(help="Number of classes.")]

BatchSizeOption = Annotated[int, typer.Option("--batch-size", "--batch", help="Images in one optimiser step.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", envvar="BUDGETNAS_DEVICE")]
PrecisionOption = Annotated[str, typer.Option(help="auto, float32, bf16 or fp16.", envvar="BUDGETNAS_PRECISION")]
TimeoutOption = Annotated[str | None, typer.Option(help="Stop after this time: 90s, 15m, 2h.")]
