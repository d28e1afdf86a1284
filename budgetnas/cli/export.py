"""``budgetnas export``: a trained network as a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from budgetnas.cli.console import print_json, stderr, stdout, table
from budgetnas.cli.options import DataDirOption, JsonFlag, StorageOption, StudyDataOption
from budgetnas.errors import Interrupted

if TYPE_CHECKING:
    from budgetnas.bundle.export import Exported


def export_command(
    study: Annotated[
        str | None, typer.Argument(metavar="STUDY", help="Name of a study: the winner of its final is exported.")
    ] = None,
    run: Annotated[int | None, typer.Option(help="Another run of the study, by the number of its record.")] = None,
    replay: Annotated[str | None, typer.Option(help="Instead of a study: the newest complete replay so named.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write.", show_default="STUDY-bundle")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an older bundle there.")] = False,
    data: StudyDataOption = None,
    data_dir: DataDirOption = None,
    storage: StorageOption = None,
    device: Annotated[
        str,
        typer.Option(help="Where weights that were not kept are trained again.", envvar="BUDGETNAS_DEVICE"),
    ] = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Write a trained network as a folder: weights, ONNX file, certificate of parameters, figures, model card.

    Example: budgetnas export cifar10-5M
    """
    from budgetnas.bundle.chosen import ExportRequest
    from budgetnas.bundle.export import export
    from budgetnas.cli.progress import ExportProgress, Lines
    from budgetnas.runs.interrupts import Stopper
    from budgetnas.runs.reopen import DataPlace
    from budgetnas.storage.opening import look_at_records
    from budgetnas.storage.urls import DEFAULT_STORAGE, parse_storage

    request = ExportRequest(DataPlace(data, data_dir), study, run, replay, out, force, device)
    request.check()
    records, stopper = look_at_records(parse_storage(storage or DEFAULT_STORAGE)), Stopper()
    try:
        with Lines() as lines, stopper.listening():
            exported = export(request, records, stopper, ExportProgress(lines))
    except Interrupted:
        stderr().print("stopped; nothing was exported", markup=False)
        raise
    if as_json:
        print_json(exported.to_dict())
    else:
        _print(exported)


def _print(exported: Exported) -> None:
    console, bundle, run = stdout(), exported.bundle, exported.chosen.run
    certificate = bundle.certificate
    rows = [
        (one.name, f"{one.static:,}", f"{one.built:,}", "yes" if one.equal else "NO")
        for one in (*certificate.parts, certificate.total)
    ]
    console.print(f"{exported.chosen.name}: {run.architecture.describe()}", markup=False, soft_wrap=True)
    console.print(table("", ("parameters of", "counted", "built", "equal"), rows))
    for one in certificate.limits:
        verdict, others = "within" if one.fits else "OVER", f" {one.limit.words}: {one.count:,}, {one.counted}"
        tail = "" if one.limit.quantity == "params" else others
        console.print(f"{verdict} the budget of {one.limit.value:,}{tail}", markup=False)
    lines = [
        f"weights of run {run.id}: {exported.weights.describe()}",
        f"accuracy: {bundle.metrics.describe()}",
        *(f"  {one}" for one in bundle.metrics.sentences),
        f"ONNX beside the network: {bundle.onnx.describe()}",
        f"\nbundle: {bundle.folder} ({sum(bundle.files.values()) / 1e6:,.1f} MB)",
        f"  in Python: network, preprocess = budgetnas.load({str(bundle.folder)!r})",
    ]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
