"""The figures of an exported network, with what they are of."""

from __future__ import annotations

import statistics
from typing import Any

from budgetnas.bundle.chosen import Chosen, Part
from budgetnas.bundle.contents import Metrics
from budgetnas.bundle.retraining import Weights
from budgetnas.experiments.final_results import FIRST_TEST_SEED, final_seeds
from budgetnas.experiments.published import recorded_run
from budgetnas.experiments.replay_results import comparison, replay_result
from budgetnas.storage import SEARCHED, Records, Role, State
from budgetnas.storage.finals import finals_of, test_accuracies


def metrics_of(chosen: Chosen, weights: Weights, records: Records) -> Metrics:
    """Return how good an exported network is, and what that number is of."""
    if chosen.run.role is Role.REPLAY:
        return _of_replay(chosen, weights, records)
    if chosen.is_shipped:
        return _of_winner(chosen, weights)
    if chosen.part is Part.TRAIN_AND_VALIDATION:
        return _of_tested(chosen, weights, records)
    return _of_validated(chosen, weights, records)


def _of_winner(chosen: Chosen, weights: Weights) -> Metrics:
    final = chosen.final
    assert final is not None and final.winner is not None, "a shipped run has a final with a winner"
    test = final.winner.test
    sentences = [
        f"The mean test accuracy of {len(test)} networks of this architecture and recipe, trained on train + "
        f"validation with fresh seeds; this one alone has {test[0]:.2%}. Nothing was chosen by these figures.",
        "The standard deviation is that between these networks.",
    ]
    if final.binomial_error is not None:
        error = 100 * final.binomial_error
        sentences.append(
            f"The finite test split ({final.test_images:,} images) leaves a standard error of {error:.2f} points."
        )
    if final.readings > 1:
        sentences.append(f"The test split was read {final.readings} times for this study: this is not a first look.")
    return _metrics(
        chosen,
        weights,
        split="test",
        accuracy=statistics.fmean(test),
        standard_deviation=statistics.stdev(test) if len(test) > 1 else None,
        seeds=tuple(final_seeds(FIRST_TEST_SEED, final.protocol))[: len(test)],
        sentences=sentences,
        details={"final": final.to_dict(), "this_network": test[0]},
    )


def _of_tested(chosen: Chosen, weights: Weights, records: Records) -> Metrics:
    """Return the figures of a network of a final that was not shipped: on the test split, if that was read for it."""
    read = [test_accuracies(records, one.id).get(chosen.run.id) for one in finals_of(records, chosen.run.study or "")]
    accuracy = next((one for one in reversed(read) if one is not None), None)
    sentence = "One network of a final, trained on train + validation"
    end = "; the test split was not read for it." if accuracy is None else "; one network has no spread."
    return _metrics(
        chosen, weights, split=None if accuracy is None else "test", accuracy=accuracy, sentences=[sentence + end]
    )


def _of_validated(chosen: Chosen, weights: Weights, records: Records) -> Metrics:
    run, epoch = chosen.run, weights.again or weights.recorded
    made = records.runs(study=run.study)
    searched = [one for one in made if one.role in SEARCHED and one.state is State.COMPLETE]
    sentences = ["Validation accuracy after the last epoch of one training; one network has no spread."]
    if run.role in SEARCHED:
        sentences.append(
            f"One of {len(searched)} trainings of a search. A single run which was chosen for being best looks better "
            "than it is; a final with fresh seeds tells how good it is."
        )
    sentences.append("The test split was not read for it.")
    return _metrics(
        chosen,
        weights,
        split="validation",
        accuracy=epoch.eval_accuracy,
        sentences=sentences,
        details={"epoch": epoch.epoch, "train_accuracy": epoch.train_accuracy, "trainings": len(searched)},
    )


def _of_replay(chosen: Chosen, weights: Weights, records: Records) -> Metrics:
    result = replay_result(recorded_run(chosen.run.label), chosen.run, records)
    sentences = [
        "Test accuracy after the last epoch of one training; one network has no spread.",
        "The report's protocol looks at the test split after every epoch; nothing here was chosen by it.",
    ]
    if result.warning:
        sentences.append(f"Beside the report's figures: {result.warning}.")
    return _metrics(
        chosen,
        weights,
        split="test",
        accuracy=result.curve[-1].eval_accuracy,
        sentences=sentences,
        details={"beside_the_report": comparison(result).to_dict()},
    )


def _metrics(
    chosen: Chosen,
    weights: Weights,
    *,
    split: str | None,
    accuracy: float | None,
    sentences: list[str],
    standard_deviation: float | None = None,
    seeds: tuple[int, ...] = (),
    details: dict[str, Any] | None = None,
) -> Metrics:
    if not weights.equal:
        sentences = [*sentences, f"The weights were {weights.describe()}."]
        if not (split == "validation" and weights.again):
            sentences.append("The figure is the record's, not that of these weights.")
    seeds = seeds or (chosen.run.seed,)
    return Metrics(
        kind=chosen.run.role.value,
        split=split,
        accuracy=accuracy,
        standard_deviation=standard_deviation,
        n=0 if accuracy is None else len(seeds),
        seeds=seeds,
        sentences=tuple(sentences),
        details=details or {},
        trained_again=weights.to_dict(),
    )
