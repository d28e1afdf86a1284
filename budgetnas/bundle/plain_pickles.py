"""Pickles of numbers, text and containers, read without calling anything that the file names.

A pickle is a program: it names functions and calls them. Here each name that an array needs stands for a small function
of this module, and every other name is an error. NumPy's own functions are not among them, because an invalid state of
an array or data type can make them read memory that is not theirs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import Unpickler, UnpicklingError
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from budgetnas.errors import InputError

Array = NDArray[Any]

_TYPE: Final = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])")
"""Codes of the data types of numbers."""


class _Type:
    """A data type of numbers, in place of `numpy.dtype`."""

    __slots__ = ("code",)

    def __init__(self, code: str) -> None:
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.code = _type_code(_text(state[1]) + self.code.lstrip("<>=|"))


class _Array:
    """An array, in place of `numpy.ndarray`."""

    __slots__ = ("array",)

    def __init__(self, array: Array) -> None:
        self.array = array

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, kind, is_fortran, content = state
        self.array = _from_bytes(content, kind, shape, "F" if is_fortran else "C")


class _ForbiddenNameError(UnpicklingError):
    """The file names something that an array does not need."""


def _type_code(code: str) -> str:
    if not _TYPE.fullmatch(code):
        raise UnpicklingError(f"an array of type {code!r}; only numbers are read")
    return code


def _text(value: str | bytes) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _from_bytes(content: bytes, kind: _Type, shape: tuple[int, ...], order: str) -> Array:
    return np.ndarray(shape, np.dtype(kind.code), bytes(content), order="F" if order == "F" else "C")


def _make_type(code: str | bytes, *_options: object) -> _Type:
    return _Type(_type_code(_text(code)))


def _make_array(*_arguments: object) -> _Array:
    return _Array(np.empty(0))  # its state follows


def _make_from_buffer(content: bytes, kind: _Type, shape: tuple[int, ...], order: str) -> _Array:
    return _Array(_from_bytes(content, kind, shape, order))


def _make_scalar(kind: _Type, content: bytes) -> object:
    return _from_bytes(content, kind, (), "C").item()


def _encode(text: str, encoding: str) -> bytes:
    """Return the bytes that Python 3 writes as text in protocols 0 to 2."""
    if encoding != "latin1":
        raise UnpicklingError(f"text in the encoding {encoding!r}")
    return text.encode("latin1")


def _make_bytes(*content: bytes) -> bytes:
    return b"".join(content)


_NUMPY: Final[Mapping[str, Callable[..., object] | str]] = {
    "multiarray._reconstruct": _make_array,
    "multiarray.scalar": _make_scalar,
    "numeric._frombuffer": _make_from_buffer,
}
_NAMES: Final[Mapping[str, Callable[..., object] | str]] = {
    "numpy.ndarray": "ndarray",  # an argument that is not used
    "numpy.dtype": _make_type,
    **{f"numpy.{core}.{name}": function for core in ("core", "_core") for name, function in _NUMPY.items()},
    "_codecs.encode": _encode,
    "__builtin__.bytes": _make_bytes,
    "builtins.bytes": _make_bytes,
}


class _PlainUnpickler(Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name in the file.

        Raises:
            _ForbiddenNameError: If an array does not need it.
        """
        try:
            return _NAMES[f"{module}.{name}"]
        except KeyError:
            raise _ForbiddenNameError(f"{module}.{name}") from None


def read_plain_pickle(path: Path) -> dict[str, Any]:
    """Return the dictionary in a pickle, with keys as text; nothing that the file names is called.

    Args:
        path: A pickle of any protocol, also of Python 2, whose text is returned as bytes.

    Raises:
        InputError: If it cannot be read, is not a dictionary, or has anything but numbers, text and containers.
    """
    hint = "give a pickled dictionary of arrays, numbers and text, as the CIFAR files are"
    try:
        with path.open("rb") as file:
            value = _PlainUnpickler(file, encoding="bytes").load()
    except _ForbiddenNameError as error:
        rule = (
            f"is rejected: it names {error}, and only arrays of numbers, text and containers are read; no code was run"
        )
        raise InputError("IMAGE", str(path), rule, hint) from None
    except OSError as error:
        raise InputError("IMAGE", str(path), f"cannot be read: {error.strerror}", "check the file") from None
    except Exception as error:  # a damaged pickle raises nearly anything
        reason = str(error) or type(error).__name__
        raise InputError("IMAGE", str(path), f"cannot be read as a pickle: {reason}", hint) from None
    if not isinstance(value, dict):
        raise InputError("IMAGE", str(path), f"is a pickled {type(value).__name__}, not a dictionary", hint)
    return {
        _text(key) if isinstance(key, str | bytes) else repr(key): item.array if isinstance(item, _Array) else item
        for key, item in value.items()
    }
