"""The accuracy of an exported network, with its meaning."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from budgetnas.bundle.chosen import Chosen, Part
from budgetnas.bundle.contents import Metrics
from budgetnas.bundle.retraining import Weights
from budgetnas.experiments.final_results import FIRST_TEST_SEED, binomial_error, final_seeds
from budgetnas.experiments.published import recorded_run
from budgetnas.experiments.replay_results import replay_result
from budgetnas.metrics import ACCURACY, ClassAccuracy, ClassCounts, Measure, by_class, by_class_words
from budgetnas.storage import SEARCHED, Records, Role, State


def metrics_of(chosen: Chosen, weights: Weights, records: Records) -> Metrics:
    """Return the accuracy of an exported network, with its meaning."""
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
        *_class_sentences(final.test_classes, final.winner.test_by_class, "test", final.measure),
        f"Mean {final.measure.on('test')} of {len(test)} networks with this architecture and recipe, trained on "
        f"train + validation with fresh seeds; this network alone has {test[0]:.2%}. Nothing was chosen by these "
        "figures.",
        "The standard deviation is between these networks.",
        *_error_sentence(final.binomial_error, final.test_images),
        *([final.mixed] if final.mixed else []),
        *_readings_sentence(final.readings),
    ]
    return _metrics(
        chosen,
        weights,
        split="test",
        images=final.test_images,
        accuracy=statistics.fmean(test),
        standard_deviation=statistics.stdev(test) if len(test) > 1 else None,
        seeds=tuple(final_seeds(FIRST_TEST_SEED, final.protocol))[: len(test)],
        sentences=sentences,
        details={"final": final.to_dict(), "this_network": test[0]},
    )


def _of_tested(chosen: Chosen, weights: Weights, records: Records) -> Metrics:
    """Return the figures of a final's network that is not shipped: its test accuracy if there is one."""
    study, measure = chosen.run.study or "", chosen.measure
    tested = [(final, records.test_results(final.id).get(chosen.run.id)) for final in reversed(records.finals(study))]
    final, result = next(((final, result) for final, result in tested if result is not None), (None, None))
    sentence = "A single network of a final, trained on train + validation"
    if final is None or result is None:
        sentences = [f"{sentence}; it was not evaluated on the test split."]
        return _metrics(chosen, weights, split=None, accuracy=None, sentences=sentences)
    classes = records.class_counts(chosen.identity.digest(), "test")
    rows, accuracy, images = by_class(classes, [result.correct]), result.value(measure), final.test_images
    sentences = [
        *_class_sentences(classes, rows, "test", measure),
        f"{sentence}; no spread is known.",
        "It is not the network that the study's last final recommends: if it was chosen by its test accuracy, that is "
        "optimistic.",
        *_error_sentence(binomial_error(accuracy, rows, images, measure), images),
        *_readings_sentence(records.finals_read(study)),
    ]
    return _metrics(chosen, weights, split="test", images=images, accuracy=accuracy, sentences=sentences)


def _of_validated(chosen: Chosen, weights: Weights, records: Records) -> Metrics:
    run, epoch = chosen.run, weights.again or weights.recorded
    runs = records.runs(study=run.study)
    searched = [other for other in runs if other.role in SEARCHED and other.state is State.COMPLETE]
    classes = records.class_counts(chosen.identity.digest(), "validation")
    measure = chosen.measure
    sentences = _class_sentences(classes, by_class(classes, [epoch.eval_correct]), "validation", measure)
    measured = measure.on("validation").capitalize()
    sentences.append(f"{measured} after the last epoch of a single run; no spread is known.")
    if run.role in SEARCHED:
        sentences.append(
            f"A single run of {len(searched)} in a search: if it was chosen for being the best, its accuracy is "
            "optimistic; `budgetnas finish` gives an unbiased figure."
        )
    sentences.append("It was not evaluated on the test split.")
    return _metrics(
        chosen,
        weights,
        split="validation",
        images=None if classes is None else sum(classes.images),
        accuracy=measure.of(epoch),
        sentences=sentences,
        details={"epoch": epoch.epoch, "train_accuracy": epoch.train_accuracy, "trainings": len(searched)},
    )


def _of_replay(chosen: Chosen, weights: Weights, records: Records) -> Metrics:
    result = replay_result(recorded_run(chosen.run.label), chosen.run, records)
    sentences = [
        "Test accuracy after the last epoch of a single run; no spread is known.",
        "The report's protocol evaluates on the test split after every epoch, but chose nothing by it.",
    ]
    if result.warning:
        sentences.append(f"Compared with the report: {result.warning}.")
    return _metrics(
        chosen,
        weights,
        split="test",
        accuracy=result.curve[-1].eval_accuracy,
        sentences=sentences,
        details={"beside_the_report": result.comparison()},
    )


def _error_sentence(error: float | None, images: int | None) -> list[str]:
    if error is None:
        return []
    return [f"The finite test split ({images:,} images) leaves a standard error of {100 * error:.2f} points."]


def _readings_sentence(readings: int) -> list[str]:
    if readings < 2:
        return []
    return [f"This study was evaluated on the test split {readings} times; only the first evaluation is unbiased."]


def _class_sentences(
    classes: ClassCounts | None, rows: Sequence[ClassAccuracy], split: str, measure: Measure
) -> list[str]:
    """Return the share of the commonest class, the accuracy of always naming it, and the accuracy of each class."""
    if classes is None:
        return []
    name, share = classes.commonest
    words, balanced = by_class_words(rows, most=100), ""
    if measure != ACCURACY:
        balanced = f" Always predicting it has a {measure.words} of {measure.of_one_class(classes):.2%}."
    return [
        f"The commonest class, {name}, has {share:.2%} of the {split} images: the accuracy of always predicting it."
        f"{balanced}",
        *([f"{words[:1].upper()}{words[1:]}."] if words else []),
    ]


def _metrics(
    chosen: Chosen,
    weights: Weights,
    *,
    split: str | None,
    accuracy: float | None,
    sentences: list[str],
    images: int | None = None,
    standard_deviation: float | None = None,
    seeds: tuple[int, ...] = (),
    details: dict[str, Any] | None = None,
) -> Metrics:
    if not weights.equal:
        sentences = [*sentences, f"The weights were {weights.describe()}."]
        if not (split == "validation" and weights.again):
            sentences.append("The accuracy is that of the record, not of these weights.")
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
        images=images,
        measure="accuracy" if chosen.measure == ACCURACY else "balanced accuracy",
        trained_again=weights.to_dict(),
    )
