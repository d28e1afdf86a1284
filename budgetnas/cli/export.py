"""``budgetnas export``: write a trained network as a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from budgetnas.api.progress.terminal import stderr
from budgetnas.cli.completion import study_names
from budgetnas.cli.console import print_json, stdout, table
from budgetnas.cli.options import DataDirOption, JsonFlag, StorageOption, StudyDataOption, option, out_option
from budgetnas.cli.storage import records_to_read
from budgetnas.errors import Interrupted

if TYPE_CHECKING:
    from budgetnas.bundle.export import Exported
    from budgetnas.bundle.int8_file import Int8Result


def export_command(
    study: Annotated[
        str | None,
        typer.Argument(metavar="STUDY", help="Study whose final's winner is exported.", autocompletion=study_names),
    ] = None,
    run: Annotated[int | None, option("Number of another run of the study.")] = None,
    replay: Annotated[str | None, option("Export the newest complete replay of this name.")] = None,
    out: Annotated[Path | None, out_option("Folder to write.", "DIR", default="STUDY-bundle")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an older bundle.")] = False,
    pt: Annotated[bool, typer.Option("--pt", help="Also write the weights as model.pt, for torch.load.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Also write an int8 ONNX file, and its accuracy on all validation images.")
    ] = False,
    data: StudyDataOption = None,
    data_dir: DataDirOption = None,
    storage: StorageOption = None,
    device: Annotated[str, option("Device for retraining weights that were not stored.", "BUDGETNAS_DEVICE")] = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Write a trained network as a folder: weights, ONNX file, certificate of parameters, accuracy, model card.

    Example: budgetnas export cifar10-5M
    """
    from budgetnas.api.progress.lines import TerminalLines
    from budgetnas.api.progress.trainings import ExportProgress
    from budgetnas.bundle.chosen import ExportRequest
    from budgetnas.bundle.export import export
    from budgetnas.runs.interrupts import Stopper
    from budgetnas.runs.reopen import DataPlace

    request = ExportRequest(DataPlace(data, data_dir), study, run, replay, out, force, device, pt, int8)
    request.check()
    records, stopper = records_to_read(storage), Stopper()
    try:
        with TerminalLines() as lines, stopper.listening():
            exported = export(request, records, stopper, ExportProgress(lines))
    except Interrupted:
        stderr().print("Stopped. Nothing was exported.")
        raise
    if as_json:
        print_json(exported.to_dict())
    else:
        _print(exported)


def _print(exported: Exported) -> None:
    console, bundle, run = stdout(), exported.bundle, exported.chosen.run
    certificate = bundle.certificate
    rows = [
        (part.name, f"{part.static:,}", f"{part.built:,}", "yes" if part.equal else "NO")
        for part in (*certificate.parts, certificate.total)
    ]
    console.print(f"{exported.chosen.name}: {run.architecture.describe()}", soft_wrap=True)
    console.print(table("", ("parameters of", "counted", "built", "equal"), rows))
    for certified in certificate.limits:
        verdict, limit = "within" if certified.fits else "OVER", certified.limit
        tail = "" if limit.quantity == "params" else f" {limit.words}: {certified.count:,}, {certified.counted}"
        console.print(f"{verdict} the budget of {limit.value:,}{tail}")
    lines = [
        f"weights of run {run.id}: {exported.weights.describe()}",
        f"accuracy: {bundle.metrics.describe()}",
        *(f"  {sentence}" for sentence in bundle.metrics.sentences),
        f"ONNX file compared with the network: {bundle.onnx.describe()}",
        *_int8_lines(bundle.int8),
        f"\nbundle: {bundle.folder} ({sum(bundle.files.values()) / 1e6:,.1f} MB)",
        f"  in Python: network, preprocess = budgetnas.load({str(bundle.folder)!r})",
    ]
    for line in lines:
        console.print(line, soft_wrap=True)


def _int8_lines(int8: Int8Result | None) -> list[str]:
    if int8 is None:
        return []
    sizes = int8.sizes
    return [
        f"int8 file: {int8.sentences[0]}",
        *(f"  {sentence}" for sentence in int8.sentences[1:]),
        f"  {sizes.file:,} bytes (float: {sizes.float_file:,}); of it weights, scales and biases: "
        f"{sizes.weights_in_file:,}, {sizes.weights_counted:,} counted; RAM: {sizes.ram_counted:,} counted",
    ]
