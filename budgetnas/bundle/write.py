"""Writing a bundle: beside its place first, checked there as a user would load it, then moved."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budgetnas.architecture import Architecture
from budgetnas.architecture.budget import Budget
from budgetnas.bundle import contents
from budgetnas.bundle.card import CardFacts, model_card
from budgetnas.bundle.certificate import Certificate, certify
from budgetnas.bundle.contents import Manifest, Metrics, Preprocessing, sha256
from budgetnas.bundle.loading import is_bundle, load
from budgetnas.bundle.onnx_file import OnnxCheck, check_onnx, onnx_words, to_onnx
from budgetnas.bundle.preparing import Preprocessor
from budgetnas.errors import BudgetnasError, InputError, unwritable
from budgetnas.space.recipe import Recipe
from budgetnas.training.weights import from_safetensors

_OURS = {*contents.HASHED, contents.MANIFEST}


@dataclass(frozen=True, slots=True)
class BundleSource:
    """What a bundle is written from.

    Attributes:
        title: What the network is called in the card.
        architecture: What it is.
        recipe: How it was trained.
        seed: Seed of its training.
        weights: Its weights, a safetensors file.
        preprocessing: Classes, and how images are prepared.
        budget: The limits; nothing where there were none.
        metrics: How good it is.
        provenance: Where it comes from, as plain JSON.
        data: The data, in sentences.
        environment: Where it was trained, in a sentence.
        images: Real images to check the ONNX file with, (N, C, side, side), of 0 to 255.
    """

    title: str
    architecture: Architecture
    recipe: Recipe
    seed: int
    weights: bytes
    preprocessing: Preprocessing
    budget: Budget | None
    metrics: Metrics
    provenance: Mapping[str, Any]
    data: tuple[str, ...]
    environment: str
    images: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class WrittenBundle:
    """A bundle that lies in its place.

    Attributes:
        folder: Where.
        certificate: Its parameters.
        metrics: How good its network is.
        onnx: How its ONNX file was checked.
        files: Size of each file in bytes, by name.
    """

    folder: Path
    certificate: Certificate
    metrics: Metrics
    onnx: OnnxCheck
    files: dict[str, int]


def check_place(folder: Path, *, replace: bool) -> Path:
    """Return where a bundle shall lie, if it can lie there.

    Args:
        folder: There.
        replace: Whether an older bundle may be replaced.

    Raises:
        InputError: If its parent is missing, or there is anything but a bundle that may be replaced.
    """
    place = Path(os.path.abspath(folder))
    if not place.parent.is_dir():
        raise InputError("--out", str(folder), f"folder {place.parent} does not exist", "create it first")
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise InputError("--out", str(folder), f"folder {place.parent} cannot be written", "name another")
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise InputError("--out", str(folder), "is there and is no folder", "name another")
    inside = sorted(one.name for one in place.iterdir()) if place.is_dir() else []
    if not inside:
        return place
    if not is_bundle(place):
        raise InputError("--out", str(folder), "holds files and is no bundle", "name an empty or a new folder")
    foreign = [name for name in inside if name not in _OURS]
    if foreign:
        rule = f"is a bundle with other files in it ({', '.join(foreign[:3])})"
        raise InputError("--out", str(folder), rule, "name another folder: they are not deleted")
    if not replace:
        raise InputError("--out", str(folder), "holds a bundle already", "replace it with --force, or name another")
    return place


def write_bundle(
    source: BundleSource, folder: Path, *, replace: bool, tell: Callable[[str], None] = lambda _: None
) -> WrittenBundle:
    """Write the bundle of `source` to `folder`; if anything fails, nothing is left.

    Args:
        source: What to write.
        folder: Where.
        replace: Whether an older bundle there may be replaced.
        tell: Told what is being done, which takes a while.

    Raises:
        InputError: If it cannot lie there.
        BudgetnasError: If a check fails: the certificate's, the weights' or the ONNX file's; or the disk is full.
    """
    place = check_place(folder, replace=replace)
    try:
        aside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    except OSError as error:
        raise unwritable("--out", folder, error, "name another") from None
    try:
        certificate, onnx = _fill(source, aside, tell)
        _let_others_read(aside)
        check_place(folder, replace=replace)
        _move(aside, place)
    except OSError as error:
        raise unwritable("--out", folder, error, "name another") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    sizes = {name: (place / name).stat().st_size for name in (*contents.HASHED, contents.MANIFEST)}
    return WrittenBundle(place, certificate, source.metrics, onnx, sizes)


def _fill(source: BundleSource, folder: Path, tell: Callable[[str], None]) -> tuple[Certificate, OnnxCheck]:
    network = from_safetensors(source.architecture, source.weights)
    certificate = certify(source.architecture, network, source.budget)
    certificate.check()
    preprocessing = source.preprocessing.model_copy(update={"onnx": onnx_words(source.preprocessing)})
    tell("writing the ONNX file")
    exported = to_onnx(network, preprocessing)
    tell("checking the ONNX file on validation images")
    onnx = check_onnx(exported, network, Preprocessor(preprocessing), source.images)
    onnx.check()
    card = CardFacts(
        title=source.title,
        architecture=source.architecture,
        recipe=source.recipe,
        seed=source.seed,
        certificate=certificate,
        metrics=source.metrics,
        preprocessing=preprocessing,
        data=source.data,
        environment=source.environment,
        onnx=onnx,
    )
    files = {
        contents.ARCHITECTURE: _json(source.architecture.to_dict()),
        contents.RECIPE: _json(source.recipe.model_dump(mode="json")),
        contents.WEIGHTS: source.weights,
        contents.CERTIFICATE: _json(certificate.to_dict()),
        contents.METRICS: _json(source.metrics.model_dump(mode="json")),
        contents.PROVENANCE: _json({**source.provenance, "onnx_check": onnx.to_dict()}),
        contents.PREPROCESSING: _json(preprocessing.model_dump(mode="json")),
        contents.ONNX: exported,
        contents.CARD: model_card(card).encode(),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    manifest = Manifest(files={name: sha256(content) for name, content in files.items()})
    (folder / contents.MANIFEST).write_bytes(_json(manifest.model_dump(mode="json")))
    _check_loaded(folder, source, network)
    return certificate, onnx


def _check_loaded(folder: Path, source: BundleSource, network: Any) -> None:
    """Check that what `budgetnas.load` gives is, to the bit, what was exported."""
    loaded = load(folder).network.state_dict()
    state = network.state_dict()
    if loaded.keys() != state.keys() or not all(bool((loaded[name] == one).all()) for name, one in state.items()):
        raise BudgetnasError(f"the weights of {source.title} are not read back as they were; nothing was exported")


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _let_others_read(folder: Path) -> None:
    """Give the folder the rights of any other new one; a temporary one is its owner's alone."""
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)


def _move(aside: Path, place: Path) -> None:
    """Put the folder in its place; an older bundle there is moved away first, and back if that fails."""
    if not place.exists():
        aside.rename(place)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{place.name}.old.", dir=place.parent))
    place.rename(old)  # onto an empty folder
    try:
        aside.rename(place)
    except OSError:
        old.rename(place)
        raise
    for name in _OURS:
        (old / name).unlink(missing_ok=True)
    old.rmdir()
