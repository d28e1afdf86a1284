"""The hash of every file of the folders seen before, to name the files that changed since."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping

from budgetnas.data.cache import Notes
from budgetnas.errors import listed, plural


def remember_contents(content_hash: str, file_hashes: Mapping[str, str]) -> None:
    """Store the hashes of a folder's files, by path."""
    _notes().write(content_hash, zlib.compress(json.dumps(dict(file_hashes)).encode()))


def describe_difference(was: str, now: str) -> str:
    """Describe which files differ between two contents; empty if either is not remembered on this machine.

    Args:
        was: Content hash of the earlier folder.
        now: Content hash of the later one.
    """
    before, after = _contents(was), _contents(now)
    if not before or not after:
        return ""
    return "; ".join(
        f"{plural(len(paths), 'file')} {what}: {listed(paths)}" for what, paths in _differences(before, after) if paths
    )


def _differences(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    yield "changed", sorted(path for path in before.keys() & after.keys() if before[path] != after[path])
    yield "added", sorted(after.keys() - before.keys())
    yield "missing", sorted(before.keys() - after.keys())


def _contents(content_hash: str) -> dict[str, str]:
    packed = _notes().read(content_hash)
    try:
        contents = json.loads(zlib.decompress(packed or b""))
    except (ValueError, zlib.error):
        return {}
    return contents if isinstance(contents, dict) else {}


def _notes() -> Notes:
    return Notes("contents", most=32)
