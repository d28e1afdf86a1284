"""The file system under a SQLite file, and whether SQLite is safe on it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from sqlalchemy.engine import URL

from budgetnas.storage.urls import sqlite_file

_NETWORK: Final = re.compile(r"nfs\d?|cifs|smb\w*|afs|ceph|9p|lustre|beegfs|gpfs|glusterfs|fuse\.(gluster|ceph)\w*")
_FUSE: Final = re.compile(r"fuse(\..+)?")
_FUSE_OF_A_DISK: Final = re.compile(r"fuse\.(ext\d|exfat\S*|ntfs\S*|fuse-overlayfs)")
_POSTGRESQL: Final = "use PostgreSQL: --storage postgresql+psycopg://USER@HOST/DATABASE"


@dataclass(frozen=True, slots=True)
class Caveat:
    """Why SQLite is not safe on a file system."""

    detail: str  # what can go wrong, as a clause
    hint: str  # what to do, as a clause


def file_system_of(path: Path) -> str:
    """Return the kind of a path's file system, as the operating system names it; empty if it is unknown."""
    place = path.resolve()
    mounts = [mount for mount in psutil.disk_partitions(all=True) if place.is_relative_to(mount.mountpoint)]
    # Of two mounts on the same folder, the later hides the earlier.
    ranked = sorted(enumerate(mounts), key=lambda numbered: (len(numbered[1].mountpoint), numbered[0]))
    return ranked[-1][1].fstype if ranked else ""


def caveat_of(kind: str) -> Caveat | None:
    """Return why SQLite is not safe on a file system of that kind, or None if it is.

    A write-ahead log needs memory that processes share, locks and writes in order (https://sqlite.org/wal.html). Mounts
    of object stores have none of these, e.g. https://github.com/GoogleCloudPlatform/gcsfuse/issues/480. So every FUSE
    mount has a caveat but those that are known to be a local disk.
    """
    if _NETWORK.fullmatch(kind):
        detail = f"{kind} is a network file system: SQLite's locks and log do not work between machines"
        return Caveat(detail, f"search from a single machine, or {_POSTGRESQL}")
    if _FUSE.fullmatch(kind) and not _FUSE_OF_A_DISK.fullmatch(kind):
        detail = f"{kind} is a FUSE mount, such as Google Drive: SQLite's write-ahead log is not safe on it"
        return Caveat(detail, f"keep the database on a local disk and copies of it there, or {_POSTGRESQL}")
    return None


def storage_notice(url: URL) -> str | None:
    """Return a line about a SQLite file where SQLite is not safe, else None."""
    if url.get_backend_name() != "sqlite":
        return None
    file = sqlite_file(url)
    caveat = caveat_of(file_system_of(file))
    return None if caveat is None else f"--storage {file}: {caveat.detail}; {caveat.hint}"
