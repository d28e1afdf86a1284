"""The model card: what a person should know before using the network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from budgetnas.architecture import Architecture, count
from budgetnas.bundle.certificate import Certificate
from budgetnas.bundle.contents import Metrics, Preprocessing
from budgetnas.bundle.onnx_file import OnnxCheck
from budgetnas.space.recipe import Recipe

_SHOWN_CLASSES = 200


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What the card tells.

    Attributes:
        title: What the network is called.
        architecture: What it is.
        recipe: How it was trained.
        seed: Seed of its training.
        certificate: Its parameters.
        metrics: How good it is.
        preprocessing: Classes, and how images are prepared.
        data: The data, in sentences.
        environment: Where it was trained, in a sentence.
        onnx: How the ONNX file was checked.
    """

    title: str
    architecture: Architecture
    recipe: Recipe
    seed: int
    certificate: Certificate
    metrics: Metrics
    preprocessing: Preprocessing
    data: Sequence[str]
    environment: str
    onnx: OnnxCheck


def model_card(facts: CardFacts) -> str:
    """Return the card as Markdown."""
    sections = (
        (f"# {escaped(facts.title)}", _what(facts)),
        ("## Parameters", _parameters(facts.certificate)),
        ("## Accuracy", [facts.metrics.describe() + ".", "", *_items(facts.metrics.sentences)]),
        ("## Data", _items(facts.data)),
        ("## Classes", _classes(facts.preprocessing.classes)),
        ("## Use", _use(facts)),
        ("## Limits", _limits(facts)),
    )
    return "\n".join(line for heading, lines in sections for line in (heading, "", *lines, ""))


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    plain = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    inside = re.sub(r"([\\`*_{}\[\]<>#!|~&$])", r"\\\1", plain)
    return re.sub(r"^([-+=:]|\d+(?=[.)]))", _escaped_start, inside)


def _escaped_start(match: re.Match[str]) -> str:
    """Return the start of a line that would begin a list or a rule, as it is shown."""
    return f"&#{ord(match[0][0])};{match[0][1:]}"


def _items(sentences: Sequence[str]) -> list[str]:
    return [f"- {escaped(sentence)}" for sentence in sentences]


def _what(facts: CardFacts) -> list[str]:
    cost, recipe = count(facts.architecture), facts.recipe
    return [
        f"A residual network for image classification: {escaped(facts.architecture.describe())}.",
        f"{cost.params:,} parameters; {cost.macs:,} multiply-accumulates for an image. "
        f"Trained with {escaped(recipe.describe())}, seed {facts.seed}. {escaped(facts.environment)}",
        "",
        "Written by budgetnas. The exact values are in the JSON files beside this one.",
    ]


def _parameters(certificate: Certificate) -> list[str]:
    rows = [
        f"| {one.name} | {one.static:,} | {one.built:,} | {'yes' if one.equal else 'NO'} |"
        for one in (*certificate.parts, certificate.total)
    ]
    return ["| part | counted | built | equal |", "|---|---:|---:|---|", *rows, "", *_budget(certificate)]


def _budget(certificate: Certificate) -> list[str]:
    if not certificate.limits:
        return ["No budget was set."]
    params, *others = certificate.limits
    verb = "keeps" if params.fits else "BREAKS"
    return [f"It {verb} the budget of {params.limit.value:,} parameters.", *(one.sentence() for one in others)]


def _classes(classes: Sequence[str]) -> list[str]:
    shown = [f"{index}. {escaped(name)}" for index, name in enumerate(classes[:_SHOWN_CLASSES])]
    left = len(classes) - len(shown)
    return [*shown, *(["", f"... and {left:,} more, in `preprocessing.json`."] if left else [])]


def _use(facts: CardFacts) -> list[str]:
    return [
        "```python",
        "import budgetnas",
        "",
        'network, preprocess = budgetnas.load("DIR")  # the folder of this file',
        'logits = network(preprocess("image.png"))',
        "```",
        "",
        "`budgetnas predict DIR image.png` prints classes and probabilities. Images are prepared as in training:",
        "",
        *_items(facts.preprocessing.steps),
        "",
        "`network.onnx` needs neither PyTorch nor budgetnas:",
        "",
        *_items(facts.preprocessing.onnx),
        f"- checked in ONNX Runtime: {escaped(facts.onnx.describe())}",
    ]


def _limits(facts: CardFacts) -> list[str]:
    side = facts.preprocessing.resolution
    return _items(
        (
            "It knows its classes and nothing else: an image of none of them gets one of them all the same.",
            "Its probabilities are the softmax of the logits; they were not calibrated.",
            f"It sees a square of {side} x {side} pixels from the centre of an image; what lies outside is cut off.",
            "Images unlike those it was trained on (another camera, light, background) were not measured.",
            "Terms of the data it was trained on may bind its use.",
        )
    )
