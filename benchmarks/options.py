"""Options that several benchmarks take, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BudgetOption = Annotated[str, typer.Option(help="Limit on parameters.")]
SamplerOption = Annotated[str, typer.Option(help="One of those of a search.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the draws.", min=0, max=2**31 - 1)]

DataOption = Annotated[str, typer.Option(help="cifar10, ... or folder:DIR.", envvar="BUDGETNAS_DATA")]
DataDirOption = Annotated[Path | None, typer.Option(help="Where archives lie.", envvar="BUDGETNAS_DATA_DIR")]
ResolutionOption = Annotated[int | None, typer.Option(help="Side of the images.", show_default="the data's")]
SubsetOption = Annotated[int | None, typer.Option(help="Training images, stratified.", show_default="all")]
SubsetEvalOption = Annotated[int | None, typer.Option(help="Validation images.", show_default="all")]

BlocksOption = Annotated[str, typer.Option(help="Blocks of each stage.")]
WidthsOption = Annotated[str, typer.Option(help="Width of each stage.")]
StemWidthOption = Annotated[int, typer.Option(help="Channels of the stem.")]
SeOption = Annotated[bool, typer.Option("--se", help="Squeeze-and-excitation in every block.")]
BatchOption = Annotated[int, typer.Option(help="Images in one optimiser step.", min=2)]
EpochsOption = Annotated[int, typer.Option(help="Epochs of each training.", min=1)]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda:N or mps.")]
PrecisionOption = Annotated[str, typer.Option(help="auto, float32, bf16 or fp16.")]
FirstSeedOption = Annotated[int, typer.Option(help="Sampler seed of the first search.", min=0)]
SummaryFlag = Annotated[bool, typer.Option("--summary", help="Train nothing; print what is there.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]
