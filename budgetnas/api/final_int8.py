"""``finish --int8``: the int8 file of a finished study's network, evaluated on the test split once."""

from __future__ import annotations

from collections.abc import Callable

from budgetnas.errors import BudgetnasError
from budgetnas.experiments.final_results import FinalResult, final_result
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.reopen import DataPlace
from budgetnas.storage import Records


def evaluate_int8_of_final(
    study: str, place: DataPlace, records: Records, stopper: Stopper, on_progress: Callable[[str], None]
) -> FinalResult:
    """Quantise the exported network of a study's last final, and evaluate it on the test split if nobody has.

    Returns:
        The result of the final, with `int8`.

    Raises:
        InputError: If the study has no final, or its data are not given or differ.
        BudgetnasError: If ONNX Runtime cannot quantise the network.
        Interrupted: If a stop was requested.
    """
    from budgetnas.bundle.chosen import ExportRequest, choose_run
    from budgetnas.bundle.contents import sha256
    from budgetnas.bundle.export import int8_file_of
    from budgetnas.bundle.onnx_file import predicted_classes
    from budgetnas.experiments.final_int8 import evaluate_int8
    from budgetnas.runs.reopen import load_study_data

    chosen = choose_run(records, ExportRequest(place, study))
    assert chosen.specification is not None and chosen.final is not None, "a study's final chose it"
    if chosen.final.int8 is None:
        on_progress("quantising to int8")
        data, request = load_study_data(chosen.specification, study, place)
        weights = records.weights(chosen.run.id)
        if weights is None:
            raise BudgetnasError(f"the weights of run {chosen.run.id} are not stored, so no int8 file can be evaluated")
        content = int8_file_of(chosen, data, weights)
        stopper.check()
        on_progress("evaluating the int8 file on the test split")
        evaluate_int8(
            records,
            chosen.final.number,
            chosen.run,
            request,
            data.identity,
            sha256(content),
            lambda pixels: predicted_classes(content, pixels, as_defined=True),
        )
    result = final_result(records, study)
    assert result is not None, "it has one"
    return result
