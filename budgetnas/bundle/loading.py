"""Loading a bundle: check the files against their hashes, build the network, read its weights."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import ValidationError

from budgetnas.architecture import Architecture
from budgetnas.bundle.contents import (
    ARCHITECTURE,
    HASHED,
    MANIFEST,
    OPTIONAL,
    PREPROCESSING,
    WEIGHTS,
    Manifest,
    Preprocessing,
    sha256,
)
from budgetnas.bundle.image_sources import pixels_of
from budgetnas.bundle.predicting import Prediction, predict
from budgetnas.bundle.preparing import AnyImage, Preprocessor
from budgetnas.errors import BudgetnasError, InputError, listed
from budgetnas.training.network import ResNet
from budgetnas.training.weights import from_safetensors

_READ = (ARCHITECTURE, PREPROCESSING, WEIGHTS)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded bundle; ``network, preprocess = bundle`` unpacks it.

    Attributes:
        architecture: The architecture.
        network: The network on the CPU in evaluation mode: (N, C, H, W) to logits (N, classes).
        preprocess: From an image (path, Pillow image or array) to (1, C, H, W).
    """

    architecture: Architecture
    network: ResNet
    preprocess: Preprocessor

    def __iter__(self) -> Iterator[Any]:
        yield self.network
        yield self.preprocess

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing as a value."""
        return self.preprocess.preprocessing

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return self.preprocessing.classes

    def predict(self, images: AnyImage | Sequence[AnyImage]) -> list[Prediction]:
        """Return the prediction for each image; a list also for a single image.

        An array has the shape (H, W), (H, W, 3), (H, W, 1), (N, H, W), (N, H, W, 3), (N, 3, H, W) or (N, 1, H, W).

        Raises:
            InputError: If an image cannot be read.
        """
        if not isinstance(images, str | os.PathLike | Image.Image | Iterable):
            rule = "must be an image or several: paths, Pillow images or arrays"
            raise InputError("IMAGE", type(images).__name__, rule)
        if isinstance(images, np.ndarray) and images.shape[2:] != (1,):  # (H, W, 1) is an image
            images = list(pixels_of("array", images, self.preprocessing))
        single = isinstance(images, str | os.PathLike | Image.Image | np.ndarray)
        return predict(self.network, self.preprocess, [images] if single else list(images))  # type: ignore[list-item, arg-type]


def load(path: str | os.PathLike[str]) -> Bundle:
    """Return the bundle in a folder.

    Args:
        path: The folder that ``budgetnas export`` wrote.

    Raises:
        InputError: If it is not a bundle, or a file is missing or damaged; the message names it.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError("DIR", type(path).__name__, "must be the path of a folder that an export wrote")
    folder = Path(path).expanduser()
    files = _verified(folder, _manifest(folder))
    try:
        architecture = Architecture.from_json(files[ARCHITECTURE].decode())
        preprocessing = Preprocessing.model_validate_json(files[PREPROCESSING])
        network = from_safetensors(architecture, files[WEIGHTS])
    except (ValueError, BudgetnasError) as error:
        reason = str(error).splitlines()[0]
        raise InputError("DIR", str(folder), f"is a bundle that this version cannot load ({reason})") from error
    return Bundle(architecture, network, Preprocessor(preprocessing))


def is_bundle(folder: Path) -> bool:
    """Return whether a folder has the manifest of a bundle in this format."""
    try:
        _manifest(folder)
    except InputError:
        return False
    return True


def _manifest(folder: Path) -> Manifest:
    try:
        text = (folder / MANIFEST).read_bytes()
    except OSError as error:
        rule = "is not a bundle" if os.path.isdir(folder) else "is not a folder"
        why = f"{rule}: {MANIFEST} cannot be read ({error.strerror})" if os.path.isdir(folder) else rule
        raise InputError("DIR", str(folder), why, "name a folder that budgetnas export wrote") from None
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError:
        rule = f"{MANIFEST} is damaged, or of another format than version 1"
        raise InputError("DIR", str(folder), rule, "export it again") from None
    missing = [name for name in HASHED if name not in manifest.files]
    unknown = [name for name in manifest.files if name not in (*HASHED, *OPTIONAL)]
    if unknown:
        raise InputError("DIR", str(folder), f"{MANIFEST} names unknown files: {listed(unknown)}", "export it again")
    if missing:
        raise InputError("DIR", str(folder), f"{MANIFEST} does not name {', '.join(missing)}", "export it again")
    return manifest


def _verified(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """Return the files to read, after checking the hashes of all files."""
    kept: dict[str, bytes] = {}
    damaged = []
    for name in manifest.files:
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            damaged.append(f"{name} cannot be read ({error.strerror})")
            continue
        if sha256(content) != manifest.files[name]:
            content = content.replace(b"\r\n", b"\n")  # as git's autocrlf changes text files
        if sha256(content) != manifest.files[name]:
            damaged.append(f"{name} is damaged: its SHA-256 differs from {MANIFEST}")
        if name in _READ:
            kept[name] = content
    if damaged:
        raise InputError("DIR", str(folder), "; ".join(damaged), "copy the bundle again, or export it again")
    return kept
