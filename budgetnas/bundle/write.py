"""Write a bundle to a temporary folder, check it by loading it, and move it to its place."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetnas.architecture import count
from budgetnas.bundle import contents
from budgetnas.bundle.card import model_card
from budgetnas.bundle.certificate import Certificate, certify
from budgetnas.bundle.contents import BundleSource, Manifest, Metrics, sha256
from budgetnas.bundle.loading import is_bundle, load
from budgetnas.bundle.onnx_file import OnnxCheck, check_onnx, onnx_words, to_onnx
from budgetnas.bundle.plain_module import check_plain_module, plain_module, to_pt
from budgetnas.bundle.preparing import Preprocessor
from budgetnas.errors import BudgetnasError, InputError, check_name, unwritable
from budgetnas.training.weights import from_safetensors

if TYPE_CHECKING:
    from budgetnas.bundle.int8_file import Int8Result

_OURS = {*contents.HASHED, *contents.OPTIONAL, contents.MANIFEST}


@dataclass(frozen=True, slots=True)
class WrittenBundle:
    """A written bundle."""

    folder: Path
    certificate: Certificate
    metrics: Metrics
    onnx: OnnxCheck
    files: dict[str, int]  # size of each file in bytes, by name
    int8: Int8Result | None = None  # accuracy and sizes of the int8 file, if there is one


def check_place(folder: Path, *, replace: bool, pt: bool = False, int8: bool = False) -> Path:
    """Return the absolute path of a bundle's folder, if a bundle can be written there.

    Raises:
        InputError: If its parent is missing, or if it has files that are not part of a replaceable bundle, or that the
            new bundle would not have.
    """
    place = Path(os.path.abspath(folder))
    check_name(place, "--out")
    if not place.parent.is_dir():
        raise InputError("--out", str(folder), f"folder {place.parent} does not exist", "create it first")
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise InputError("--out", str(folder), f"folder {place.parent} cannot be written", "name another")
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise InputError("--out", str(folder), "exists and is not a folder", "name another")
    inside = sorted(file.name for file in place.iterdir()) if place.is_dir() else []
    if all(contents.is_dropping(name) for name in inside):
        return place
    if not is_bundle(place):
        raise InputError("--out", str(folder), "has files and is not a bundle", "name an empty or a new folder")
    foreign = [name for name in inside if name not in _OURS and not contents.is_dropping(name)]
    if foreign:
        rule = f"is a bundle with other files ({', '.join(foreign[:3])})"
        raise InputError("--out", str(folder), rule, "name another folder; these files are never deleted")
    if not replace:
        raise InputError("--out", str(folder), "has a bundle already", "replace it with --force, or name another")
    for name, flag, is_written in ((contents.PT, "--pt", pt), (contents.INT8, "--int8", int8)):
        if name in inside and not is_written:
            rule = f"has {name}, which the new bundle would not have"
            raise InputError("--out", str(folder), rule, f"add {flag}, or name another folder")
    return place


def write_bundle(
    source: BundleSource,
    folder: Path,
    *,
    replace: bool,
    pt: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> WrittenBundle:
    """Write the bundle of `source` to `folder`; after a failure nothing is left.

    With `pt` the weights are also written as ``torch.save`` does. `report` is called with the name of each slow step.

    Raises:
        InputError: If a bundle cannot be written there.
        BudgetnasError: If the check of the certificate, the weights or the ONNX file fails, or the disk is full.
    """
    words = {"replace": replace, "pt": pt, "int8": source.int8 is not None}
    place = check_place(folder, **words)
    try:
        aside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    except OSError as error:
        raise unwritable("--out", folder, error, "name another") from None
    try:
        certificate, onnx, source, int8 = _fill(source, aside, report, pt=pt)
        _let_others_read(aside)
        check_place(folder, **words)
        _move(aside, place)
    except OSError as error:
        raise unwritable("--out", folder, error, "name another") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    sizes = {path.name: path.stat().st_size for path in sorted(place.iterdir())}
    return WrittenBundle(place, certificate, source.metrics, onnx, sizes, int8)


def _fill(
    source: BundleSource, folder: Path, report: Callable[[str], None], *, pt: bool
) -> tuple[Certificate, OnnxCheck, BundleSource, Int8Result | None]:
    network = from_safetensors(source.architecture, source.weights)
    certificate = certify(source.architecture, network, source.budget)
    certificate.check()
    preprocessing = source.preprocessing.model_copy(update={"onnx": onnx_words(source.preprocessing)})
    source = replace(source, preprocessing=preprocessing)
    report("writing the ONNX file")
    exported = to_onnx(network, preprocessing)
    report("checking the ONNX file on validation images")
    onnx = check_onnx(exported, network, Preprocessor(preprocessing), source.images)
    onnx.check()
    quantised, int8 = _int8(source, exported, report)
    if int8 is not None:
        metrics = source.metrics.model_copy(update={"int8": int8.to_dict()})
        source = replace(source, metrics=metrics)
    module = plain_module(source.architecture, preprocessing)
    check_plain_module(module, network, source.images[:100])
    files = {
        contents.ARCHITECTURE: _json(source.architecture.to_dict()),
        contents.RECIPE: _json(source.recipe.model_dump(mode="json")),
        contents.WEIGHTS: source.weights,
        contents.CERTIFICATE: _json(certificate.to_dict()),
        contents.METRICS: _json(source.metrics.model_dump(mode="json")),
        contents.PROVENANCE: _json({**source.provenance, "onnx_check": onnx.to_dict()}),
        contents.PREPROCESSING: _json(preprocessing.model_dump(mode="json")),
        contents.ONNX: exported,
        contents.CARD: model_card(source, certificate, onnx, int8, pt=pt).encode(),
        contents.MODULE: module.encode(),
        contents.ATTRIBUTES: b"* -text\n",  # so that git changes no line ends, which the hashes would not survive
    }
    if pt:
        files[contents.PT] = to_pt(network)
    if quantised is not None:
        files[contents.INT8] = quantised
    for name, content in files.items():
        (folder / name).write_bytes(content)
    manifest = Manifest(files={name: sha256(content) for name, content in files.items()})
    (folder / contents.MANIFEST).write_bytes(_json(manifest.model_dump(mode="json")))
    _check_loaded(folder, source, network)
    return certificate, onnx, source, int8


def _int8(
    source: BundleSource, exported: bytes, report: Callable[[str], None]
) -> tuple[bytes | None, Int8Result | None]:
    """Return the int8 file and its result, or None for both if none was requested."""
    if source.int8 is None:
        return None, None
    from budgetnas.bundle.int8_file import compare_int8, to_int8  # slow to import

    report("quantising to int8")
    quantised = to_int8(exported, source.int8.calibration, source.preprocessing)
    report("evaluating the int8 file on all validation images")
    counts = count(source.architecture)
    return quantised, compare_int8(exported, quantised, source.int8, counts, sha256(quantised))


def _check_loaded(folder: Path, source: BundleSource, network: Any) -> None:
    """Check that `budgetnas.load` returns the exported weights, bit for bit."""
    loaded = load(folder).network.state_dict()
    state = network.state_dict()
    if loaded.keys() != state.keys() or not all(bool((loaded[name] == tensor).all()) for name, tensor in state.items()):
        raise BudgetnasError(f"the weights of {source.title} differ after loading, so the export stopped")


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _let_others_read(folder: Path) -> None:
    """Give the folder the permissions of any new folder; a temporary folder is private to its owner."""
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)


def _move(aside: Path, place: Path) -> None:
    """Move the folder to its place; an older bundle is moved away first, and restored if the move fails."""
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
    for path in old.iterdir():
        if path.is_dir() and contents.is_dropping(path.name):
            shutil.rmtree(path)
        elif path.name in _OURS or contents.is_dropping(path.name):
            path.unlink()
    old.rmdir()
