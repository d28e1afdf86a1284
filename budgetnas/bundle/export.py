"""Export: choose the record, load its data, get its weights, write the bundle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from budgetnas.bundle.chosen import Chosen, ExportRequest, Part, choose_run
from budgetnas.bundle.contents import BundleSource, Int8Images, Preprocessing
from budgetnas.bundle.figures import metrics_of
from budgetnas.bundle.onnx_file import check_exporter, to_onnx
from budgetnas.bundle.provenance import data_sentences, environment_sentence, provenance_of
from budgetnas.bundle.retraining import ExportCallbacks, Weights, normalisation_of, weights_of
from budgetnas.bundle.write import WrittenBundle, check_place, write_bundle
from budgetnas.data import Data, load_data
from budgetnas.errors import InputError
from budgetnas.metrics import ACCURACY
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.reopen import data_request, load_study_data
from budgetnas.storage import Records
from budgetnas.training.gpu import check_device
from budgetnas.training.weights import from_safetensors

MAX_CHECKED_IMAGES: Final = 1_000


@dataclass(frozen=True, slots=True)
class Exported:
    """A written bundle and its source."""

    chosen: Chosen
    weights: Weights
    bundle: WrittenBundle

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        bundle, run = self.bundle, self.chosen.run
        return {
            "bundle": str(bundle.folder),
            "run": run.id,
            "study": run.study,
            "role": run.role.value,
            "weights": self.weights.describe(),
            "certificate": bundle.certificate.to_dict(),
            "metrics": bundle.metrics.model_dump(mode="json"),
            "onnx_check": bundle.onnx.to_dict(),
            "int8": None if bundle.int8 is None else bundle.int8.to_dict(),
            "files": bundle.files,
        }


def export(request: ExportRequest, records: Records, stopper: Stopper, callbacks: ExportCallbacks) -> Exported:
    """Write the bundle of a run.

    Raises:
        InputError: If the request is invalid.
        BudgetnasError: If the installed packages cannot export, or a check of the bundle fails; its files are removed.
        RunFailedError: If a retraining fails.
        Interrupted: If a stop was requested.
    """
    check_device(request.device)  # also where stored weights need no device
    chosen = choose_run(records, request)
    folder = check_place(chosen.folder(request.out), replace=request.replace, pt=request.pt, int8=request.int8)
    check_exporter()
    callbacks.on_progress("loading data")
    data = _data(chosen, request)
    weights = weights_of(chosen, data, request.device, records, stopper, callbacks)
    if not weights.equal:
        callbacks.on_message(f"weights of run {chosen.run.id}: {weights.describe()}")
    source = BundleSource(
        title=chosen.name,
        architecture=chosen.run.architecture,
        recipe=chosen.run.recipe,
        seed=chosen.run.seed,
        weights=weights.tensors,
        preprocessing=_preprocessing(chosen, data),
        budget=None if chosen.specification is None else chosen.specification.budget,
        metrics=metrics_of(chosen, weights, records),
        provenance=provenance_of(chosen, data),
        data=data_sentences(chosen, data),
        environment=environment_sentence(chosen),
        images=_evenly_spaced(data.validation.images),
        int8=_int8_images(chosen, data) if request.int8 else None,
    )

    def report(step: str) -> None:
        stopper.check()
        callbacks.on_progress(step)

    bundle = write_bundle(source, folder, replace=request.replace, pt=request.pt, report=report)
    return Exported(chosen, weights, bundle)


def _data(chosen: Chosen, request: ExportRequest) -> Data:
    if chosen.specification is not None:
        assert chosen.run.study is not None, "a run of a study names it"
        return load_study_data(chosen.specification, chosen.run.study, request.place)[0]
    owner = f"replay {chosen.run.label!r}"
    data = load_data(data_request(chosen.identity, owner, request.place))
    if data.identity != chosen.identity:
        rule = f"differ from the data of {owner} ({chosen.identity.label()})"
        raise InputError("--data", data.identity.label(), rule, "name the same data with --data and --data-dir")
    return data


def _preprocessing(chosen: Chosen, data: Data) -> Preprocessing:
    side, grey = data.resolution, data.in_channels == 1
    constants = normalisation_of(chosen, data)
    bits = data.identity.bit_depth
    reduced = "reduce 16 bits to 8" + (f" (levels 0 to {(1 << bits) - 1:,} to 0 to 255)" if bits else "")
    mean, std = (", ".join(f"{value:.6g}" for value in values) for values in (constants.mean, constants.std))
    return Preprocessing(
        classes=data.classes,
        channels=1 if grey else 3,
        resolution=side,
        normalisation=constants,
        bit_depth=bits,
        steps=(
            f"rotate by the EXIF orientation; draw transparency on white; {reduced}; convert to RGB",
            f"scale the square at the centre to {side} x {side} pixels (Pillow, bicubic, antialiased)",
            *(["convert to grey (ITU-R 601-2 luma)"] if grey else []),
            f"divide by 255, subtract the mean ({mean}), divide by the standard deviation ({std}), for each channel",
            f"lay out as float32 (batch, {data.in_channels}, {side}, {side})",
        ),
    )


def int8_file_of(chosen: Chosen, data: Data, weights: bytes) -> bytes:
    """Return the int8 file of a run, as `export` writes it.

    Raises:
        BudgetnasError: If the installed packages cannot make it.
    """
    from budgetnas.bundle.int8_file import to_int8  # slow to import

    check_exporter()
    preprocessing = _preprocessing(chosen, data)
    exported = to_onnx(from_safetensors(chosen.run.architecture, weights), preprocessing)
    return to_int8(exported, _int8_images(chosen, data).calibration, preprocessing)


def _int8_images(chosen: Chosen, data: Data) -> Int8Images:
    from budgetnas.bundle.int8_file import calibration_images  # slow to import

    return Int8Images(
        calibration=calibration_images(data.train.images, chosen.run.seed),
        seed=chosen.run.seed,
        pixels=data.validation.images,
        labels=data.validation.labels,
        trained_on=chosen.part is not Part.TRAIN,
        test=chosen.final.int8 if chosen.is_shipped and chosen.final is not None else None,
        balanced=chosen.measure != ACCURACY,
    )


def _evenly_spaced(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return at most `MAX_CHECKED_IMAGES` images, evenly spaced, so that a sorted set keeps every class."""
    if len(images) <= MAX_CHECKED_IMAGES:
        return images
    return images[np.linspace(0, len(images) - 1, MAX_CHECKED_IMAGES).astype(np.int64)]
