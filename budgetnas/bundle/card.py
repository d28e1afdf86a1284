"""The model card of a bundle, in Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from budgetnas.architecture import count
from budgetnas.bundle.certificate import Certificate
from budgetnas.bundle.contents import INT8, BundleSource, Preprocessing
from budgetnas.bundle.onnx_file import OnnxCheck

if TYPE_CHECKING:
    from budgetnas.bundle.int8_file import Int8Result

_SHOWN_CLASSES = 200


def model_card(
    source: BundleSource,
    certificate: Certificate,
    onnx: OnnxCheck,
    int8: Int8Result | None = None,
    *,
    pt: bool = False,
) -> str:
    """Return the card as Markdown."""
    sections = (
        (f"# {escaped(source.title)}", _network(source)),
        ("## Parameters", _parameters(certificate)),
        ("## Accuracy", [source.metrics.describe() + ".", "", *_items(source.metrics.sentences)]),
        *([("## int8", _int8(int8))] if int8 else []),
        ("## Data", _items(source.data)),
        ("## Classes", _classes(source.preprocessing.classes)),
        ("## Use", _use(source.preprocessing, onnx, "model.pt" if pt else "weights.safetensors")),
        ("## Limits", _limits(source.preprocessing.resolution)),
    )
    return "\n".join(line for heading, lines in sections for line in (heading, "", *lines, ""))


def escaped(text: str) -> str:
    """Return text escaped for Markdown, on a single line."""
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    inside = re.sub(r"([\\`*_{}\[\]<>#!|~&$])", r"\\\1", plain)
    return re.sub(r"^([-+=:]|\d+(?=[.)]))", _escaped_start, inside)


def _escaped_start(match: re.Match[str]) -> str:
    """Escape the start of a line that Markdown would read as a list or a rule."""
    return f"&#{ord(match[0][0])};{match[0][1:]}"


def _items(sentences: Sequence[str]) -> list[str]:
    return [f"- {escaped(sentence)}" for sentence in sentences]


def _network(source: BundleSource) -> list[str]:
    cost = count(source.architecture)
    return [
        f"A residual network for image classification: {escaped(source.architecture.describe())}.",
        f"{cost.params:,} parameters; {cost.macs:,} multiply-accumulates per image. "
        f"Trained with {escaped(source.recipe.describe())}, seed {source.seed}. {escaped(source.environment)}",
        "",
        "Written by budgetnas. The exact values are in the JSON files of this folder.",
    ]


def _parameters(certificate: Certificate) -> list[str]:
    rows = [
        f"| {part.name} | {part.static:,} | {part.built:,} | {'yes' if part.equal else 'NO'} |"
        for part in (*certificate.parts, certificate.total)
    ]
    return ["| part | counted | built | equal |", "|---|---:|---:|---|", *rows, "", *_budget(certificate)]


def _budget(certificate: Certificate) -> list[str]:
    if not certificate.limits:
        return ["No budget was set."]
    params, *others = certificate.limits
    verb = "keeps" if params.fits else "BREAKS"
    return [f"It {verb} the budget of {params.limit.value:,} parameters.", *(limit.sentence() for limit in others)]


def _int8(int8: Int8Result) -> list[str]:
    sizes = int8.sizes
    return [
        f"`{INT8}` has int8 weights and activations. It takes the same input as `network.onnx`.",
        "",
        *_items(int8.sentences),
        "",
        "| bytes | predicted | measured |",
        "|---|---:|---:|",
        f"| float file | | {sizes.float_file:,} |",
        f"| int8 file | | {sizes.file:,} |",
        f"| of it weights, scales and biases | {sizes.weights_counted:,} | {sizes.weights_in_file:,} |",
        f"| peak of activations in RAM | {sizes.ram_counted:,} | |",
    ]


def _classes(classes: Sequence[str]) -> list[str]:
    shown = [f"{index}. {escaped(name)}" for index, name in enumerate(classes[:_SHOWN_CLASSES])]
    left = len(classes) - len(shown)
    return [*shown, *(["", f"... and {left:,} more, in `preprocessing.json`."] if left else [])]


def _use(preprocessing: Preprocessing, onnx: OnnxCheck, weights: str) -> list[str]:
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
        *_items(preprocessing.steps),
        "",
        "In plain PyTorch, without budgetnas:",
        "",
        "```python",
        "import torch",
        "import model  # the file model.py in this folder",
        "",
        f'network = model.load("{weights}")',
        f"images = torch.zeros(1, {preprocessing.channels}, {preprocessing.resolution}, {preprocessing.resolution}, "
        "dtype=torch.uint8)",
        "logits = network(model.normalised(images))",
        "```",
        "",
        "Without squeeze-and-excitation, the parameters have the names of the usual CIFAR ResNets, so they load there "
        "with `strict=True`.",
        "",
        "`network.onnx` needs neither PyTorch nor budgetnas:",
        "",
        *_items(preprocessing.onnx),
        f"- checked in ONNX Runtime: {escaped(onnx.describe())}",
    ]


def _limits(side: int) -> list[str]:
    return _items(
        (
            "It always predicts one of its classes, even for an image of none of them.",
            "Its probabilities are the softmax of the logits; they are not calibrated.",
            f"It sees the square at the centre of an image, scaled to {side} x {side} pixels; the rest is cut off.",
            "It was not evaluated on images that differ from the training data, e.g. in camera, light or background.",
            "The terms of its training data may restrict its use.",
        )
    )
