"""Checkpoints of a run: files that survive a crash, recorded in the storage with their SHA-256.

Only recorded files are read, and only the process that owns the run can record them, so files of a process that lost
its run are ignored. Neither PyTorch's format nor safetensors detects a flipped byte inside a tensor; the SHA-256 does.
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
from budgetnas.training import Checkpointer, RuntimeConfig
from budgetnas.training.state import TrainingState

KEPT: Final = 2
"""Checkpoints of a run: the last and, in case it is damaged, its predecessor."""


class RunCheckpointer(Checkpointer):
    """Stores the states of a run in files; `resumed` says whether an earlier training of it was interrupted."""

    def __init__(
        self, run: int, runtime: RuntimeConfig, records: Records, on_message: Callable[[str], None], *, resumed: bool
    ) -> None:
        self._run, self._runtime, self._records = run, runtime, records
        self._on_message, self._resumed = on_message, resumed
        self._folder = run_folder(records, run)
        self._token = uuid.uuid4().hex[:8]
        self._saved_epoch = 0
        self._saved_at = time.monotonic()
        self._full = False

    def begin(self) -> Iterator[TrainingState]:
        """Yield the readable states, newest first; if all have been read and none fits, the run starts over."""
        for checkpoint in self._records.checkpoints(self._run):
            state = self._read(checkpoint)
            if state is not None:
                yield state
        if self._resumed:
            self._records.resume_run(self._run, 0, self._runtime.to_json())
            self._on_message(f"run {self._run} starts over: it has no usable checkpoint")

    def rejected(self, state: TrainingState, reason: str) -> None:
        """Report that a state does not fit."""
        self._on_message(f"run {self._run}: the checkpoint after epoch {state.epoch} cannot be used: {reason}")

    def resumed(self, state: TrainingState) -> None:
        """Record that the run resumes from `state`."""
        self._records.resume_run(self._run, state.epoch, self._runtime.to_json())
        self._saved_epoch = state.epoch
        self._on_message(f"run {self._run} resumes after epoch {state.epoch}, from its checkpoint")

    def epoch_ended(self, state: TrainingState) -> None:
        """Write a checkpoint if `checkpoint_seconds` have passed since the last."""
        if time.monotonic() - self._saved_at >= self._records.settings.checkpoint_seconds:
            self._save(state)

    def interrupted(self, state: TrainingState) -> None:
        """Write a checkpoint of the last finished epoch, unless it exists."""
        if state.epoch > self._saved_epoch:
            self._save(state)

    def forget(self) -> None:
        """Delete all checkpoints: the run starts over in another runtime."""
        self._records.forget_checkpoints(self._run)
        self.clear()
        self._saved_epoch = 0

    def clear(self) -> None:
        """Delete all checkpoint files of the run."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _save(self, state: TrainingState) -> None:
        data, name = state.to_bytes(), f"epoch-{state.epoch:05}-{self._token}.ckpt"
        self._saved_at = time.monotonic()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_durably(self._folder / name, data)
        except OSError as error:
            if not self._full:
                self._on_message(
                    f"no checkpoint can be written to {self._folder} ({error.strerror}); "
                    "the training continues without checkpoints"
                )
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
            self._on_message(f"{where} cannot be read ({file}: {error.strerror})")
            return None
        if hashlib.sha256(data).hexdigest() != checkpoint.sha256:
            self._on_message(f"{where} is damaged: its SHA-256 is not the recorded one ({file})")
            return None
        try:
            return TrainingState.from_bytes(data)
        except BudgetnasError as error:
            self._on_message(f"{where} cannot be used: {error}")
            return None


def run_folder(records: Records, run: int) -> Path:
    """Return the folder of a run's checkpoints; its name comes from identifiers, not from the study's name."""
    return _storage_folder(records) / f"run-{run}"


def delete_old_checkpoints(records: Records) -> None:
    """Delete the checkpoints of ended runs whose process died before deleting them."""
    root = _storage_folder(records)
    numbers = {int(folder.name[4:]): folder for folder in root.glob("run-*") if folder.name[4:].isdigit()}
    for number, folder in numbers.items():
        if not records.is_unfinished(number):
            shutil.rmtree(folder, ignore_errors=True)


def write_durably(file: Path, data: bytes) -> None:
    """Write a file atomically: after a crash it is complete or absent.

    Raises:
        OSError: If it cannot be written; no part of it is left.
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
    with contextlib.suppress(OSError):  # not supported by every file system
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _storage_folder(records: Records) -> Path:
    return records.settings.checkpoints_of(records.engine.url) / records.storage_id()
