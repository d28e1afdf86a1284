"""A state that does not fit, or is none, is rejected."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from resuming import (
    EPOCHS,
    EVERYTHING,
    WITH_SHORTCUTS,
    Drawer,
    resumed,
    same,
    small,
    state_after,
)
from torch import Tensor, nn
from training import CPU, OPTIMIZERS, SMALL, Listener, trained

from budgetnas.errors import StateError
from budgetnas.training import RuntimeConfig, TrainingState, train
from budgetnas.training.engine import Trainer

OTHERS = {
    "architecture": (replace(small(), architecture=SMALL), "it belongs to another training (architecture "),
    "recipe": (small(learning_rate=0.05), "it belongs to another training (architecture "),
    "seed": (
        replace(small(), seed=1),
        f"it belongs to another training (architecture {WITH_SHORTCUTS.digest}, recipe ",
    ),
}


@pytest.mark.parametrize("other", list(OTHERS))
def test_a_state_of_another_training_is_rejected_and_the_older_one_used(other: str) -> None:
    example, (stranger, reason) = small(), OTHERS[other]
    network, listener = trained(example)
    mine, its = state_after(1, example).to_bytes(), state_after(2, stranger).to_bytes()
    drawer = Drawer([mine, its])
    again, rest = resumed(example, CPU, drawer)
    assert drawer.calls[0].startswith(f"refused 2: {reason}")
    assert drawer.calls[1:] == ["resumed after 1", "ended 2", "ended 3"]
    assert rest.epochs == listener.epochs[1:]
    same(again, network)


def test_without_a_fitting_state_training_starts_at_epoch_1() -> None:
    example = small()
    network, listener = trained(example)
    drawer = Drawer([state_after(2, OTHERS["seed"][0]).to_bytes()] * 2)
    again, whole = resumed(example, CPU, drawer)
    assert [line[:9] for line in drawer.calls] == ["refused 2", "refused 2", "ended 1", "ended 2", "ended 3"]
    assert whole.epochs == listener.epochs
    same(again, network)


def broken(state: TrainingState, **tensors: Tensor | None) -> TrainingState:
    mixed = dict(state.tensors)
    for name, tensor in tensors.items():
        if tensor is None:
            del mixed[name]
        else:
            mixed[name] = tensor
    return replace(state, tensors=mixed)


MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"network.linear.bias": None}, "it lacks network.linear.bias"),
    ({"average.steps": None}, "it lacks average.steps"),
    ({"more": torch.zeros(1)}, "it has more, which is unknown here"),
    ({"network.linear.bias": torch.zeros(11)}, "its network.linear.bias is (11,) float32, here it is (10,) float32"),
    (
        {"optimizer.linear.bias.momentum_buffer": torch.zeros(10, dtype=torch.float64)},
        "its optimizer.linear.bias.momentum_buffer is (10,) float64, here it is (10,) float32",
    ),
    ({"generator": torch.zeros(5056, dtype=torch.uint8)}, "the random generator state is invalid"),
]


@pytest.mark.parametrize(("tensors", "reason"), MISFITS, ids=[reason for _, reason in MISFITS])
def test_a_state_that_does_not_fit_is_rejected_and_changes_nothing(tensors: dict[str, Any], reason: str) -> None:
    example = small(**EVERYTHING)
    trainer = Trainer(example, CPU)
    with pytest.raises(StateError) as raised:
        trainer.restore(broken(state_after(1, example), **tensors))
    assert str(raised.value).startswith(reason)
    trainer.epoch(1, Listener())
    assert trainer.state(1).to_bytes() == state_after(1, example).to_bytes()


@pytest.mark.parametrize("epoch", [0, EPOCHS])
def test_a_state_after_the_last_epoch_is_rejected(epoch: int) -> None:
    example = small()
    with pytest.raises(StateError, match=f"it is from epoch {epoch}, and the training ends at 4"):
        Trainer(example, CPU).restore(replace(state_after(1, example), epoch=epoch))


def test_states_are_void_after_a_restart() -> None:
    """Memory runs out in the second epoch of a resumed training, as PyTorch says it."""
    example = small()
    state = state_after(1, example)

    class Forgetful(Drawer):
        """Offers the void state again, if it is asked again."""

        def begin(self) -> Iterator[TrainingState]:
            return iter([state])

    drawer = Forgetful([b"some"])
    half = replace(CPU, micro_batch=15)
    network, listener = trained(example, half)

    class Full(Listener):
        def on_step(self, epoch: int, done: int, total: int) -> None:
            if (epoch, done, self.restarts) == (3, 1, []):
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            super().on_step(epoch, done, total)

        def on_restart(self, runtime: RuntimeConfig, reason: str) -> None:
            assert drawer.states == [], "nothing of the old runtime is kept when the new runtime is reported"
            super().on_restart(runtime, reason)
            self.epochs.clear()

    full = Full()
    again = train(example, CPU, full, drawer)
    assert drawer.calls == ["resumed after 1", "ended 2", "forget", "ended 1", "ended 2", "ended 3"]
    assert full.restarts == [half]
    assert full.epochs == listener.epochs
    same(again, network)


def saved(content: object) -> bytes:
    written = io.BytesIO()
    torch.save(content, written)
    return written.getvalue()


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("hostile",)


GOOD: dict[str, Any] = {"format": 1, "epoch": 1, "training": "", "tensors": {}}
NO_STATES = {
    "nothing": b"",
    "text": b"epoch,loss\n1,2.3\n",
    "a zip file's beginning": b"PK\x03\x04",
    "a tensor": saved(torch.zeros(3)),
    "weights": saved(nn.Linear(2, 2).state_dict()),
    "less": saved({name: GOOD[name] for name in ("epoch", "training", "tensors")}),
    "a later format": saved(GOOD | {"format": 2}),
    "an epoch that is none": saved(GOOD | {"epoch": True}),
    "a list of tensors": saved(GOOD | {"tensors": [torch.zeros(1)]}),
    "numbers for tensors": saved(GOOD | {"tensors": {"network.linear.bias": 1.0}}),
    "code": saved(GOOD | {"training": Hostile()}),
}


@pytest.mark.parametrize("kind", list(NO_STATES))
def test_bytes_that_are_not_a_state_are_rejected(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StateError, match=r"^(cannot be read as a training's state \(|is a ).*$"):
        TrainingState.from_bytes(NO_STATES[kind])
    assert list(tmp_path.iterdir()) == [], "what was read was not run"


def test_a_truncated_state_is_rejected() -> None:
    stored = state_after(1, small()).to_bytes()
    for size in (*range(0, len(stored), 4099), len(stored) - 1):
        with pytest.raises(StateError, match="cannot be read as a training's state"):
            TrainingState.from_bytes(stored[:size])


def plain(value: object) -> bool:
    if type(value) is dict:
        return all(type(key) is str and plain(example) for key, example in value.items())
    return type(value) in (int, str, Tensor)


@pytest.mark.parametrize("recipe", [EVERYTHING, OPTIMIZERS["adam"]])
def test_a_state_has_tensors_and_plain_types_only(recipe: dict[str, Any]) -> None:
    state = state_after(2, small(**recipe))
    content = torch.load(io.BytesIO(state.to_bytes()), weights_only=True)
    assert plain(content)
    read = TrainingState.from_bytes(state.to_bytes())
    assert (read.epoch, read.training) == (2, state.training)
    assert read.tensors.keys() == state.tensors.keys()
    for name, tensor in read.tensors.items():
        assert torch.equal(tensor, state.tensors[name])
        assert not tensor.requires_grad


def test_a_state_is_no_larger_than_its_tensors() -> None:
    state = state_after(1, small(**EVERYTHING))
    size = sum(tensor.nbytes for tensor in state.tensors.values())
    assert len(state.to_bytes()) < size + 400 * len(state.tensors)
