"""Checkpoints of a run: files that survive a crash, known to the storage by their SHA-256.

A file counts only when the storage knows it, and the storage learns of it in a transaction behind the fence: what a
process writes that lost its run is never read. Neither PyTorch's format nor safetensors notices a flipped byte inside
a tensor; the SHA-256 does.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from budgetnas.errors import BudgetnasError
from budgetnas.storage import Records
from budgetnas.storage.values import Checkpoint
from budgetnas.training import RuntimeConfig
from budgetnas.training.state import TrainingState

KEPT: Final = 2
"""Checkpoints of a run: the last, and the one before it, should the last be damaged."""


class RunCheckpointer:
    """Keeps the states of a run in files, and finds them again.

    Args:
        run: Number of the record.
        runtime: Where it is trained.
        records: The storage.
        notice: Is told what the user should know.
        taken_up: Whether the run was begun before.
    """

    def __init__(
        self, run: int, runtime: RuntimeConfig, records: Records, notice: Callable[[str], None], *, taken_up: bool
    ) -> None:
        self._taken_up = taken_up
        self._run, self._setup, self._records, self._notice = run, runtime, records, notice
        self._folder = run_folder(records, run)
        self._token = uuid.uuid4().hex[:8]
        self._saved_epoch = 0
        self._saved_at = time.monotonic()
        self._full = False

    def begin(self) -> Iterator[TrainingState]:
        """Yield the states that can be read, newest first; asked for more than there are, the run begins again."""
        for checkpoint in self._records.checkpoints(self._run):
            state = self._read(checkpoint)
            if state is not None:
                yield state
        if self._taken_up:
            self._records.resume_run(self._run, 0, self._setup.to_json())
            self._notice(f"run {self._run} begins again: it has no checkpoint to go on from")

    def refused(self, state: TrainingState, reason: str) -> None:
        """Tell that a state cannot be used."""
        self._notice(f"run {self._run}: the checkpoint after epoch {state.epoch} cannot be used: {reason}")

    def resumed(self, state: TrainingState) -> None:
        """Record that the run goes on from `state`."""
        self._records.resume_run(self._run, state.epoch, self._setup.to_json())
        self._saved_epoch = state.epoch
        self._notice(f"run {self._run} goes on after epoch {state.epoch}, from its checkpoint")

    def epoch_ended(self, state: TrainingState) -> None:
        """Write a checkpoint if the last one is old enough."""
        if time.monotonic() - self._saved_at >= self._records.settings.checkpoint_seconds:
            self._save(state)

    def interrupted(self, state: TrainingState) -> None:
        """Write a checkpoint of the last whole epoch, unless there is one."""
        if state.epoch > self._saved_epoch:
            self._save(state)

    def forget(self) -> None:
        """Forget all checkpoints: the run begins again in another runtime."""
        self._records.forget_checkpoints(self._run)
        self.clear()
        self._saved_epoch = 0

    def clear(self) -> None:
        """Delete the files of a run that has ended."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _save(self, state: TrainingState) -> None:
        data, name = state.to_bytes(), f"epoch-{state.epoch:05}-{self._token}.ckpt"
        self._saved_at = time.monotonic()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_durably(self._folder / name, data)
        except OSError as error:
            if not self._full:
                self._notice(f"no checkpoint can be written to {self._folder} ({error.strerror}); goes on without")
            self._full = True
            return
        checkpoint = Checkpoint(state.epoch, name, hashlib.sha256(data).hexdigest())
        for old in self._records.add_checkpoint(self._run, checkpoint, keep=KEPT):
            (self._folder / old).unlink(missing_ok=True)
        self._saved_epoch, self._full = state.epoch, False

    def _read(self, checkpoint: Checkpoint) -> TrainingState | None:
        where = f"run {self._run}: the checkpoint after epoch {checkpoint.epoch}"
        file = self._folder / checkpoint.file
        try:
            data = file.read_bytes()
        except OSError as error:
            self._notice(f"{where} cannot be read ({file}: {error.strerror})")
            return None
        if hashlib.sha256(data).hexdigest() != checkpoint.sha256:
            self._notice(f"{where} is damaged: its SHA-256 is not the recorded one ({file})")
            return None
        try:
            return TrainingState.from_bytes(data)
        except BudgetnasError as error:
            self._notice(f"{where} cannot be used: {error}")
            return None


def run_folder(records: Records, run: int) -> Path:
    """Return the folder of a run's checkpoints; no name that a user chose is in it."""
    return _storage_folder(records) / f"run-{run}"


def sweep(records: Records) -> None:
    """Delete the checkpoints of runs that have ended: their process died before it could."""
    root = _storage_folder(records)
    numbers = {int(one.name[4:]): one for one in root.glob("run-*") if one.name[4:].isdigit()}
    for number, folder in numbers.items():
        if not records.is_unfinished(number):
            shutil.rmtree(folder, ignore_errors=True)


def write_durably(file: Path, data: bytes) -> None:
    """Write a file so that after a crash it is there as a whole, or not at all.

    Raises:
        OSError: If it cannot be written; nothing is left of it then.
    """
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(file.parent)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _storage_folder(records: Records) -> Path:
    return records.settings.checkpoints_of(records.engine.url) / records.storage_id()
