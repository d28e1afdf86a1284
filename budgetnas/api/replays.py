"""Replays of the recorded runs of the source report."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from budgetnas.api.arguments import as_path
from budgetnas.api.calls import long_call
from budgetnas.api.wording import python_words
from budgetnas.data import DataRequest
from budgetnas.errors import BudgetnasError, InputError, check_flag, check_out
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import DEFAULT_STORAGE, parse_storage

if TYPE_CHECKING:
    from budgetnas.experiments.replay_results import ReplayResult


@python_words(**{"NAME": "names", "--all": "all_runs"})
def replay(
    *names: str,
    all_runs: bool = False,
    epochs: int | None = None,
    t_max: int | None = None,
    subset: int | None = None,
    subset_eval: int | None = None,
    data: str = "cifar10",
    data_dir: str | Path | None = None,
    storage: str | Path | None = None,
    precision: str = "float32",
    seed: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    progress: bool = True,
) -> tuple[ReplayResult, ...]:
    """Retrain runs of the source report by its protocol, and compare them with its printed figures.

    Complete replays are not repeated; the same call resumes.

    Args:
        names: Names of recorded runs, e.g. ``v2-sgd``.
        all_runs: Replay all recorded runs, instead of naming them.
        epochs: Number of epochs, by default the report's; the cosine scales with it.
        t_max: Length of the cosine in epochs, by default the report's.
        subset: Number of training images, a stratified subsample.
        subset_eval: Number of test images, a stratified subsample.
        data: ``cifar10``, another named set, or ``folder:DIR``.
        data_dir: Folder of downloaded archives.
        storage: Database; ``sqlite:///budgetnas.db`` by default.
        precision: ``float32`` (the report's), ``bf16``, ``fp16`` or ``auto``.
        seed: Seed of initial weights, order and augmentation.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        out: HTML file to write, with all replays of the storage; None for no file.
        progress: Whether progress is shown.

    Returns:
        The result of each run: its `record`, and `comparison()` with the printed figures. `why_not` has the reasons if
        the figures are not comparable.

    Raises:
        InputError: If an argument breaks a rule.
        BudgetnasError: If a run fails; the others are recorded.
        KeyboardInterrupt: If the user stops it.
    """
    from budgetnas.api.progress.trainings import ReplayProgress
    from budgetnas.experiments.replay import ReplayRequest, names_of, recorded_results, replay
    from budgetnas.report.page import write_replay_report

    check_flag("all_runs", all_runs)
    if not isinstance(data, str):
        hint = 'images of your own are data="folder:DIR"'
        raise InputError("data", type(data).__name__, "must be the name of a data set or folder:DIR", hint)
    folder = None if data_dir is None else as_path("data_dir", data_dir, 'write e.g. data_dir="downloads"')
    request = ReplayRequest(
        names_of(names, everything=all_runs),
        DataRequest(data, folder, subset=subset, subset_eval=subset_eval),
        epochs=epochs,
        t_max=t_max,
        seed=seed,
    )
    request.runs()
    page = None if out is None else check_out(as_path("out", out, 'write e.g. out="replay.html"').expanduser())
    url = parse_storage(str(storage or DEFAULT_STORAGE))
    with long_call(progress=progress) as call:
        rules = call.runtime(device, precision)
        outcome = replay(request, rules, lambda: open_records(url), call.stopper, ReplayProgress(call.lines))
    with closing(outcome.records) as records:
        if page is not None:
            write_replay_report(recorded_results(records), page)
    if outcome.failed:
        raise BudgetnasError(f"{', '.join(outcome.failed)} failed; {len(outcome.results)} replays are recorded")
    return outcome.results
