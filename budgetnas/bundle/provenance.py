"""The origin of an exported network: record, data, splits, versions."""

from __future__ import annotations

import hashlib
import json
import platform
from typing import Any

import numpy as np
import onnx
import onnxruntime
import safetensors
import torch

from budgetnas import __version__
from budgetnas.bundle.chosen import Chosen, Part
from budgetnas.data import Data, Images
from budgetnas.experiments.plain import plain_fields


def provenance_of(chosen: Chosen, data: Data) -> dict[str, Any]:
    """Return the origin of a network, as plain JSON."""
    run, (architecture, recipe) = chosen.run, chosen.run.candidate.key
    splits = ("train", "validation", *(["all_train"] if chosen.part is Part.ALL_TRAIN else []))
    return {
        "run": {
            "number": run.id,
            **plain_fields(run, "study", "role", "trial", "label", "seed"),
            "architecture_digest": architecture,
            "recipe_digest": recipe,
            **plain_fields(run, "started_at", "ended_at"),
        },
        "trained_in": json.loads(run.environment),
        "exported_with": _versions(),
        "study_specification_digest": None if chosen.specification is None else chosen.specification.digest,
        "data": {
            **data.identity.model_dump(mode="json"),
            "digest": data.identity.digest(),
            "trained_on": chosen.part.value,
            "splits": {name: _split(getattr(data, name)) for name in splits},
            "test_images": None if chosen.final is None else chosen.final.test_images,
            "notices": _notices(data),
        },
    }


def data_sentences(chosen: Chosen, data: Data) -> tuple[str, ...]:
    """Return the data of a network, in words."""
    sizes = {Part.TRAIN: len(data.train), Part.ALL_TRAIN: len(data.all_train)}
    images = sizes.get(chosen.part, len(data.train) + len(data.validation))
    return (
        f"{data.identity.label()}, {data.in_channels} x {data.resolution} x {data.resolution} pixels, "
        f"{len(data.classes)} classes; SHA-256 of the content {data.identity.content_hash}",
        f"Trained on {chosen.part.value}: {images:,} images.",
        *(f"Note: {notice}." for notice in _notices(data)),
        "The hashes of the training and validation images are in provenance.json. This folder contains no images.",
    )


def environment_sentence(chosen: Chosen) -> str:
    """Return the training environment of a network, in words."""
    known = json.loads(chosen.run.environment)
    precision = known.get("precision", "float32")
    note = " (matrix products; the weights and this bundle are float32)" if precision in ("bf16", "fp16") else ""
    name, version = known.get("device_name", known.get("device")), known.get("torch")
    return f"Trained on {name} in {precision}{note} with PyTorch {version}."


def _notices(data: Data) -> list[str]:
    """Return the notices on the data, without those on options, which name folders of this machine."""
    return [notice for notice in data.notices if not notice.startswith("--")]


def _split(images: Images) -> dict[str, Any]:
    """Return size and hash of a split: SHA-256 over its pixels (N, C, H, W) and then its labels, int64."""
    content = hashlib.sha256(np.ascontiguousarray(images.images).tobytes())
    content.update(images.labels.astype("<i8").tobytes())
    return {"images": len(images), "sha256": content.hexdigest()}


def _versions() -> dict[str, str]:
    return {
        "budgetnas": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "onnx": str(onnx.__version__),
        "onnxruntime": str(onnxruntime.__version__),
        "safetensors": str(safetensors.__version__),
        "numpy": str(np.__version__),
    }
