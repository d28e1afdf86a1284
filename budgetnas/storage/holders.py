"""Processes that hold something: who they are, and whether they are gone."""

from __future__ import annotations

import functools
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Holder:
    """A process on a machine.

    Attributes:
        host: Name of the machine, with what tells its boots and its containers apart: a process number means
            something only among processes that share both.
        pid: Its number there.
        process_started_at: When it started, as its machine's clock says: numbers are used again.
    """

    host: str
    pid: int
    process_started_at: float

    def is_gone(self) -> bool:
        """Return whether the process is known to be gone; of another machine's nothing is known."""
        if self.host != _host():
            return False
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.process_started_at) < 1.0
            return not same or process.status() == psutil.STATUS_ZOMBIE  # dead, but its parent has not asked
        except psutil.NoSuchProcess:
            return True

    def describe(self) -> str:
        """Return its number and the name of its machine."""
        return f"process {self.pid} on {self.host.partition(' ')[0]}"


def this_process() -> Holder:
    """Return the process that asks."""
    return Holder(_host(), os.getpid(), psutil.Process().create_time())


@functools.cache
def _host() -> str:
    name = socket.gethostname()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{name} {boot[:8]} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return name
