"""A study: its trials, its best network, and what can be made of it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

from budgetnas.api.arguments import as_name, as_path, run_number
from budgetnas.api.calls import long_call
from budgetnas.api.tables import html_table
from budgetnas.api.trials import Trial, Trials, trial_of
from budgetnas.api.wording import python_words
from budgetnas.errors import BudgetnasError, check_flag, check_out, plural
from budgetnas.experiments.final_results import FinalResult
from budgetnas.report import StudyTables, study_tables
from budgetnas.report.values import Chosen
from budgetnas.runs.reopen import DataPlace, study_specification
from budgetnas.space.specification import StudySpecification
from budgetnas.storage import SEARCHED, Records, Run, State
from budgetnas.storage.opening import open_records, open_records_read_only
from budgetnas.storage.urls import masked, parse_storage

if TYPE_CHECKING:
    import plotly.graph_objects as go

_RANKED_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Study:
    """A study in its storage. Every access reads the storage again, so a running search shows its new trials.

    Attributes:
        name: Its name.
        storage: Its database.
    """

    name: str
    storage: str = field(repr=False)
    _place: DataPlace = field(repr=False)

    @property
    @python_words(STUDY="study")
    def specification(self) -> StudySpecification:
        """What the study was created with: space, budget, recipes, data and seeds."""
        with self._records() as records:
            return study_specification(records, self.name)

    @property
    @python_words(STUDY="study")
    def trials(self) -> Trials:
        """Its trials in the order of their start, as frozen rows (`Trial`)."""
        with self._records() as records:
            specification = study_specification(records, self.name)
            runs = [run for run in records.runs(study=self.name) if run.role in SEARCHED]
            counted = (run.id for run in runs if run.state in (State.COMPLETE, State.PRUNED))
            values = {run: specification.measure.of(curve[-1]) for run, curve in records.curves(counted).items()}
        rows = (trial_of(run, values.get(run.id), specification.max_params) for run in runs)
        return Trials(tuple(rows), specification.measure)

    @property
    @python_words(STUDY="study")
    def best(self) -> Chosen | None:
        """The network that the study recommends: its final's winner, else its search's; None before any is trained."""
        return self.tables.chosen

    @property
    @python_words(STUDY="study")
    def tables(self) -> StudyTables:
        """Everything that its report shows, as frozen values; ``to_dict()`` gives plain JSON types."""
        with self._records() as records:
            return study_tables(records, self.name)

    def figures(self) -> dict[str, go.Figure]:
        """Return the figures of its report by name, as Plotly figures, which a notebook shows."""
        from budgetnas.report.figures import study_figures

        return {figure.key: figure.titled() for figure in study_figures(self.tables)}

    @python_words()
    def report(self, out: str | Path | None = None) -> Path:
        """Write its report, a single HTML file that works offline.

        Args:
            out: The file; ``STUDY-report.html`` in the current folder by default.

        Returns:
            The file.

        Raises:
            InputError: If the file cannot be written.
        """
        from budgetnas.report.page import report_name, write_study_report

        default = f"{report_name(self.name)}-report.html"
        page = as_path("out", default if out is None else out, 'write e.g. out="report.html"').expanduser()
        with self._records() as records:
            return write_study_report(records, self.name, check_out(page))

    @python_words()
    def finish(
        self,
        *,
        finalists: int | None = None,
        final_seeds: int | None = None,
        final_epochs: int | str | None = None,
        int8: bool = False,
        device: str = "auto",
        precision: str = "auto",
        workers: int | None = None,
        per_device: int | None = None,
        timeout: float | str | None = None,
        progress: bool = True,
    ) -> FinalResult:
        """Retrain its best candidates with fresh seeds, choose the winner, and evaluate it on the test split once.

        The same call resumes, and returns the result of a finished final without training anything.

        Args:
            finalists: Number of finalists; by default the study's, or 3.
            final_seeds: Fresh seeds of each finalist; by default the study's, or 3.
            final_epochs: Epochs of the networks to evaluate on the test split, or ``auto``; by default the study's.
            int8: Also evaluate the exported network's int8 file on the test split, once.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
            precision: ``auto``, ``float32``, ``bf16`` or ``fp16``.
            workers: Processes that train together; 1 by default.
            per_device: Largest number of workers on each GPU.
            timeout: Stop after this time: seconds, or ``"15m"``.
            progress: Whether progress is shown.

        Returns:
            The result: `winner`, `reference` and their `test` accuracies, `difference` with its interval, `entrants`.

        Raises:
            InputError: If an argument breaks a rule, or the study's data are not given or differ.
            BudgetnasError: If the time limit passes; the same call resumes.
            KeyboardInterrupt: If the user stops it; the same call resumes.
        """
        from budgetnas.api.final_int8 import evaluate_int8_of_final
        from budgetnas.api.progress.trainings import FinalProgress
        from budgetnas.experiments.final_plan import FinishRequest
        from budgetnas.searching.options import SearchOptions, choice_protocol, parse_timeout
        from budgetnas.searching.workers.finals import finish_with
        from budgetnas.searching.workers.pools import pool_for

        check_flag("int8", int8)
        given = {"final_epochs": final_epochs, "workers": workers, "per_device": per_device, "device": device}
        options = SearchOptions.parse(given, source="finish")
        protocol = choice_protocol(finalists, final_seeds)
        request = FinishRequest(self.name, self._place, protocol, options.final_epochs)
        limit = parse_timeout(None if timeout is None else str(timeout))
        with long_call(progress=progress, timeout_seconds=limit) as call, self._records_to_write() as records:
            runtime = call.runtime(device, precision)
            records.take_up(self.name)
            view = FinalProgress(call.lines)
            with pool_for(options, records.engine.url, runtime) as pool:
                result = finish_with(pool, request, records, runtime, precision, call.stopper, view)
            if int8:
                return evaluate_int8_of_final(self.name, self._place, records, call.stopper, view.on_progress)
            return result

    @python_words()
    def export(
        self,
        *,
        run: int | Trial | Run | Chosen | None = None,
        out: str | Path | None = None,
        force: bool = False,
        pt: bool = False,
        int8: bool = False,
        device: str = "auto",
        progress: bool = True,
    ) -> Path:
        """Write a trained network as a folder: weights, ONNX file, certificate of parameters, accuracy, model card.

        Args:
            run: A trial or run of the study, `Study.best`, or the number of a run (`Trial.run`); by default the winner
                of its final.
            out: The folder; ``STUDY-bundle`` in the current folder by default.
            force: Replace an older bundle.
            pt: Also write the weights as ``model.pt``, for ``torch.load``.
            int8: Also write an int8 ONNX file, and its accuracy on all validation images.
            device: Device for retraining weights that were not stored.
            progress: Whether progress is shown.

        Returns:
            The folder, for `budgetnas.load`.

        Raises:
            InputError: If the study has no final and no run is named, or the folder exists.
            BudgetnasError: If a check of the bundle fails.
            KeyboardInterrupt: If the user stops it; no bundle is written.
        """
        from budgetnas.api.progress.trainings import ExportProgress
        from budgetnas.bundle.chosen import ExportRequest
        from budgetnas.bundle.export import export

        for name, flag in {"force": force, "pt": pt, "int8": int8}.items():
            check_flag(name, flag)
        folder = None if out is None else as_path("out", out, 'write e.g. out="bundle"').expanduser()
        # The winner of a final has a network of its own, which was trained on the validation images too.
        of_final = isinstance(run, Chosen) and run.by_final and run == self.best
        number = None if of_final else run_number(run)
        request = ExportRequest(self._place, self.name, number, None, folder, force, device, pt, int8)
        with long_call(progress=progress) as call, self._records() as records:
            return export(request, records, call.stopper, ExportProgress(call.lines)).bundle.folder

    @python_words()
    def cancel(self) -> None:
        """Cancel it: its processes requeue their trainings within seconds; a later search of it resumes.

        Raises:
            InputError: If it was deleted or renamed.
        """
        from budgetnas.searching.management import cancel_study

        with self._records_to_write() as records:
            cancel_study(records, self.name)

    @python_words()
    def delete(self) -> None:
        """Delete it with its records, weights and checkpoints, and Optuna's study of the name.

        If it was cancelled, this waits until its processes have stopped.

        Raises:
            InputError: If it is being trained and was not cancelled, or was deleted or renamed.
        """
        from budgetnas.searching.management import delete_study

        with self._records_to_write() as records:
            delete_study(records, self.name, lambda text: None)

    @python_words(OLD="name", NEW="name")
    def rename(self, name: str) -> Study:
        """Rename it, in the records and in Optuna's tables.

        Args:
            name: Its new name.

        Returns:
            The study of that name.

        Raises:
            InputError: If there is a study of that name, or this one is being trained.
        """
        from budgetnas.searching.management import rename_study

        as_name("name", name)
        with self._records_to_write() as records:
            rename_study(records, self.name, name)
        return Study(name, self.storage, self._place)

    def __repr__(self) -> str:
        try:
            standing = _standing(self.tables)
        except BudgetnasError as error:  # e.g. it was deleted
            standing = str(error)
        return f"<Study {self.name!r} in {masked(parse_storage(self.storage))}: {standing}>"

    def _repr_html_(self) -> str:
        try:
            tables = self.tables
        except BudgetnasError as error:  # e.g. it was deleted or renamed
            return f"<p><b>{escape(self.name)}</b>: {escape(str(error))}</p>"
        rows = [
            (ranked.rank, ranked.run.architecture.describe(), f"{ranked.run.params:,}", f"{ranked.accuracy:.2%}")
            for ranked in tables.ranking[:_RANKED_SHOWN]
        ]
        head = f"<p><b>{escape(self.name)}</b>: {escape(_standing(tables))}</p>"
        return head + html_table(("rank", "network", "parameters", tables.specification.measure.on("validation")), rows)

    def _records_to_write(self) -> closing[Records]:
        return closing(open_records(parse_storage(self.storage), must_exist=True))

    def _records(self) -> closing[Records]:
        return closing(open_records_read_only(parse_storage(self.storage)))


def _standing(tables: StudyTables) -> str:
    trained = f"{plural(tables.tallies.trained, 'trial')} trained"
    chosen = tables.chosen
    if chosen is None:
        return trained
    measure, classes = tables.specification.measure, tables.classes
    shares = "" if classes is None else f" ({classes.describe('the images', measure)})"
    share = f"{chosen.accuracy:.2%} {measure.where}{shares}"
    return f"{trained}, the winner has {chosen.run.params:,} parameters and {share}"
