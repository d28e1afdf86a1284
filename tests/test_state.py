"""A training resumes from its state, to the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from resuming import (
    CHANGES,
    EVERYTHING,
    SETUPS,
    Drawer,
    OnlyWhenInterrupted,
    Stopping,
    after_every_epoch,
    resumed,
    same,
    small,
    state_after,
)
from safetensors.torch import load_file
from training import CPU, OPTIMIZERS, Listener, trained

from budgetnas.errors import Interrupted, RunFailedError, StoppedEarly
from budgetnas.metrics import Epoch
from budgetnas.training import RuntimeConfig, Task, TrainingState, train
from budgetnas.training.engine import Trainer


@pytest.mark.slow
@pytest.mark.parametrize("changed", list(CHANGES))
def test_a_resumed_training_gives_the_bits_of_an_uninterrupted_training(changed: str) -> None:
    after_every_epoch(small(**CHANGES[changed]), CPU)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("runtime", list(SETUPS))
def test_in_every_runtime(runtime: str, optimizer: str) -> None:
    recipe = EVERYTHING | {"optimizer": optimizer, "learning_rate": 0.1 if optimizer == "sgd" else 0.01}
    after_every_epoch(small(epochs=3, **recipe), SETUPS[runtime])


def test_without_a_checkpointer_no_state_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(trainer: Trainer, epoch: int) -> TrainingState:
        raise AssertionError("a state was made")

    monkeypatch.setattr(Trainer, "state", made)
    trained(small())
    with pytest.raises(AssertionError, match="a state was made"):
        resumed(small(), CPU, Drawer())


def test_an_epoch_changes_every_tensor_of_a_state() -> None:
    """Or the tests above would hold a state that is not needed to be right."""
    trainer = Trainer(small(**EVERYTHING), CPU)
    states = []
    for number in (1, 2):
        trainer.epoch(number, Listener())
        states.append(trainer.state(number))
    for name, tensor in states[0].tensors.items():
        assert not torch.equal(tensor, states[1].tensors[name]), name


def test_a_resumed_training_needs_every_tensor() -> None:
    """A state without one of its parts gives another training: so each is there for a reason."""
    example = small(**EVERYTHING)
    whole = state_after(1, example)
    for part in ("network.", "optimizer.", "average.steps", "average.network.", "generator"):
        fresh = Trainer(example, CPU).state(0).tensors
        mixed = {name: fresh[name] if name.startswith(part) else tensor for name, tensor in whole.tensors.items()}
        assert next_epoch(example, replace(whole, tensors=mixed)) != next_epoch(example, whole), part


def next_epoch(example: Task, state: TrainingState, runtime: RuntimeConfig = CPU) -> list[tuple[str, list[float]]]:
    trainer = Trainer(example, runtime)
    trainer.restore(state)
    trainer.epoch(state.epoch + 1, Listener())
    return [(name, tensor.flatten().tolist()) for name, tensor in trainer.state(state.epoch + 1).tensors.items()]


def test_a_state_is_a_copy() -> None:
    example = small(**EVERYTHING)
    trainer = Trainer(example, CPU)
    trainer.epoch(1, Listener())
    state = trainer.state(1)
    before = {name: tensor.clone() for name, tensor in state.tensors.items()}
    trainer.epoch(2, Listener())
    other = Trainer(example, CPU)
    other.restore(state)
    other.epoch(2, Listener())
    for name, tensor in state.tensors.items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("layout", ["channels-last", "contiguous"])
@pytest.mark.parametrize("made_in", ["channels-last", "contiguous"])
def test_optimiser_state_has_the_layout_of_its_parameter(layout: Any, made_in: Any) -> None:
    """A fused step walks over both as they lie, whichever order the state had."""
    for recipe in (OPTIMIZERS["momentum"], OPTIMIZERS["adam"]):
        example = small(**recipe)
        stored = state_after(1, example, replace(CPU, layout=made_in)).to_bytes()
        trainer, plain = (Trainer(example, replace(CPU, layout=layout)) for _ in range(2))
        plain.epoch(1, Listener())
        trainer.restore(TrainingState.from_bytes(stored))
        spatial = 0
        for mine, its in zip(trainer.network.parameters(), plain.network.parameters(), strict=True):
            assert mine.stride() == its.stride()
            assert trainer.optimizer.state[mine].keys() == plain.optimizer.state[its].keys()
            for what, tensor in trainer.optimizer.state[mine].items():
                reference = plain.optimizer.state[its][what]
                assert tensor.dtype == reference.dtype
                assert tensor.stride() == reference.stride(), what
                spatial += tensor.ndim == 4 and tensor.is_contiguous() != (layout == "channels-last")
        assert spatial > 2, "there are some for which the order makes a difference"


def test_a_state_is_restored_in_place() -> None:
    """What a captured step reads and writes stays where it is."""
    example = small(**EVERYTHING)
    trainer = Trainer(example, CPU)
    state = state_after(1, example)
    trainer.epoch(1, Listener())
    trainer.epoch(2, Listener())
    before = places(trainer)
    trainer.restore(state)
    assert places(trainer) == before
    trainer.epoch(2, Listener())
    assert trainer.state(2).to_bytes() == state_after(2, example).to_bytes()


def places(trainer: Trainer) -> list[int]:
    kept = [tensor for each in trainer.optimizer.state.values() for tensor in each.values()]
    average = [] if trainer.average is None else trainer.average.memory.values()
    return [tensor.data_ptr() for tensor in (*trainer.network.state_dict().values(), *kept, *average)]


@pytest.mark.parametrize("checkpointer", [Drawer, OnlyWhenInterrupted])
def test_a_training_interrupted_twice(checkpointer: type[Drawer]) -> None:
    example = small(**EVERYTHING)
    network, listener = trained(example)
    drawer, curve = checkpointer(), []
    for at, expected in (
        ((2, 3), ["ended 1", "interrupted after 1"]),
        ((3, 1), ["resumed after 1", "ended 2", "interrupted after 2"]),
        ((3, 2), ["resumed after 2", "interrupted after 2"]),
    ):
        stopping = Stopping(at_step=at)
        with pytest.raises(Interrupted):
            train(example, CPU, stopping, drawer)
        curve += stopping.epochs
        assert drawer.calls == expected
        drawer.calls.clear()
    last, rest = resumed(example, CPU, drawer)
    assert curve + rest.epochs == listener.epochs
    assert {epoch for epoch, _, _ in rest.steps} == {3, 4}
    same(last, network)


@pytest.mark.slow
def test_in_another_process(tmp_path: Path) -> None:
    example = small(**EVERYTHING)
    network, listener = trained(example)
    drawer = Drawer()
    with pytest.raises(Interrupted):
        train(example, CPU, Stopping(at_step=(3, 2)), drawer)
    (tmp_path / "state").write_bytes(drawer.states[-1])
    script = (
        "import sys, torch, resuming as t; from pathlib import Path; from safetensors.torch import save_file;"
        "folder = Path(sys.argv[1]);"
        "network, rest = t.resumed(t.small(**t.EVERYTHING), t.CPU, t.Drawer([(folder / 'state').read_bytes()]));"
        "save_file({key: one.contiguous() for key, one in network.state_dict().items()}, folder / 'network');"
        "(folder / 'curve').write_text(repr(rest.epochs))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment, check=True)
    assert (tmp_path / "curve").read_text() == repr(listener.epochs[2:])
    for key, tensor in load_file(tmp_path / "network").items():
        assert torch.equal(tensor, network.state_dict()[key]), key


def test_before_the_first_epoch_ends_there_is_no_state() -> None:
    drawer = Drawer()
    with pytest.raises(Interrupted):
        train(small(), CPU, Stopping(at_step=(1, 2)), drawer)
    assert drawer.calls == []


def test_an_epoch_whose_callback_raised_is_trained_again() -> None:
    example, drawer = small(), Drawer()
    _, listener = trained(example)
    with pytest.raises(Interrupted):
        train(example, CPU, Stopping(at_epoch=2), drawer)
    assert drawer.calls == ["ended 1", "interrupted after 1"]
    assert resumed(example, CPU, drawer)[1].epochs == listener.epochs[1:]


def test_the_checkpointer_is_called_only_for_interruptions() -> None:
    class Enough(Listener):
        def on_epoch_end(self, epoch: Epoch) -> None:
            if epoch.epoch == 2:
                raise StoppedEarly("enough")

    drawer = Drawer()
    with pytest.raises(StoppedEarly):
        train(small(), CPU, Enough(), drawer)
    wild = Drawer()
    with pytest.raises(RunFailedError, match="loss is"):
        train(small(learning_rate=100, weight_decay=1, epochs=30, t_max=30, batch=5), CPU, Listener(), wild)
    assert drawer.calls == ["ended 1"]
    assert all(line.startswith("ended ") for line in wild.calls)
