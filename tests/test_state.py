from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from training import CPU, EXTRAS, OPTIMIZERS, SMALL, STRONG, Listener, task, trained

from budgetnas.architecture import Architecture
from budgetnas.errors import Interrupted, RunFailedError, StateError, StoppedEarly
from budgetnas.metrics import Epoch
from budgetnas.training import RuntimeConfig, Task, TrainingState, train
from budgetnas.training.device import DeviceImages
from budgetnas.training.engine import Trainer

EPOCHS = 4
CHANGED_IMAGES = {"augmentation": {"crop_padding": 1, "rotation": 10, "cutout": 3}}
CHANGES: dict[str, dict[str, Any]] = OPTIMIZERS | EXTRAS | {"changed images": CHANGED_IMAGES, "strong": STRONG}
EVERYTHING = EXTRAS["everything"] | CHANGED_IMAGES
SETUPS = {
    "one thread": CPU,
    "contiguous, pieces of a batch": replace(CPU, layout="contiguous", micro_batch=16),
    "two threads": replace(CPU, threads=2),
    "two threads, contiguous": replace(CPU, threads=2, layout="contiguous"),
    "pieces of a batch": replace(CPU, micro_batch=16),
    "bfloat16": replace(CPU, precision="bf16"),
    "fp16, pieces of a batch": replace(CPU, precision="fp16", micro_batch=16),
}
WITH_SHORTCUTS = Architecture((1, 1), (4, 8), (1, 2), stem_width=4, in_channels=1, size=8)


@dataclass
class Drawer:
    """Keeps every state as bytes and notes what it hears."""

    states: list[bytes] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def begin(self) -> Iterator[TrainingState]:
        return (TrainingState.from_bytes(stored) for stored in reversed(self.states[:]))

    def refused(self, state: TrainingState, reason: str) -> None:
        self.calls.append(f"refused {state.epoch}: {reason}")

    def resumed(self, state: TrainingState) -> None:
        self.calls.append(f"resumed after {state.epoch}")

    def epoch_ended(self, state: TrainingState) -> None:
        self.calls.append(f"ended {state.epoch}")
        self.states.append(state.to_bytes())

    def interrupted(self, state: TrainingState) -> None:
        self.calls.append(f"interrupted after {state.epoch}")
        self.states.append(state.to_bytes())

    def forget(self) -> None:
        self.calls.append("forget")
        self.states.clear()


class OnlyWhenInterrupted(Drawer):
    """Keeps a state when it has to."""

    def epoch_ended(self, state: TrainingState) -> None:
        self.calls.append(f"ended {state.epoch}")


@dataclass
class Stopping(Listener):
    """Interrupts before a step has been made, or at the end of an epoch."""

    at_step: tuple[int, int] = (0, 0)
    at_epoch: int = 0

    def on_step(self, epoch: int, done: int, total: int) -> None:
        if (epoch, done) == self.at_step:
            raise Interrupted
        super().on_step(epoch, done, total)

    def on_epoch_end(self, epoch: Epoch) -> None:
        if epoch.epoch == self.at_epoch:
            raise Interrupted
        super().on_epoch_end(epoch)


def small(**recipe: object) -> Task:
    """A training on few images: a last batch is smaller than the others."""
    example = task(architecture=WITH_SHORTCUTS, **{"epochs": EPOCHS, "t_max": EPOCHS + 1, "batch": 30} | recipe)
    some, few = (
        DeviceImages(images.images[:count], images.labels[:count])
        for images, count in ((example.train, 70), (example.evaluation, 30))
    )
    return replace(example, train=some, evaluation=few)


def resumed(example: Task, runtime: RuntimeConfig, checkpointer: Drawer) -> tuple[nn.Module, Listener]:
    listener = Listener()
    return train(example, runtime, listener, checkpointer), listener


def same(network: nn.Module, other: nn.Module) -> None:
    assert network.training == other.training
    for (key, tensor), (name, its) in zip(network.state_dict().items(), other.state_dict().items(), strict=True):
        assert key == name
        assert torch.equal(tensor, its), key
        assert tensor.stride() == its.stride(), key


def after_every_epoch(example: Task, runtime: RuntimeConfig) -> None:
    network, listener = trained(example, runtime)
    drawer = Drawer()
    watched, followed = resumed(example, runtime, drawer)
    same(watched, network)
    assert followed.epochs == listener.epochs, "to keep states changes nothing"
    assert drawer.calls == [f"ended {number}" for number in range(1, example.recipe.epochs)]
    for done, stored in enumerate(drawer.states, start=1):
        again, rest = resumed(example, runtime, Drawer([stored]))
        assert rest.epochs == listener.epochs[done:]
        same(again, network)


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


def state_after(epochs: int, example: Task, runtime: RuntimeConfig = CPU) -> TrainingState:
    trainer = Trainer(example, runtime)
    for number in range(1, epochs + 1):
        trainer.epoch(number, Listener())
    return trainer.state(epochs)


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
        "import sys, torch, test_state as t; from pathlib import Path; from safetensors.torch import save_file;"
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


OTHERS = {
    "architecture": (replace(small(), architecture=SMALL), "it is of another training (architecture "),
    "recipe": (small(learning_rate=0.05), "it is of another training (architecture "),
    "seed": (replace(small(), seed=1), f"it is of another training (architecture {WITH_SHORTCUTS.digest}, recipe "),
}


@pytest.mark.parametrize("other", list(OTHERS))
def test_a_state_of_another_training_is_refused_and_the_older_one_used(other: str) -> None:
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
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(tensors: dict[str, Any], reason: str) -> None:
    example = small(**EVERYTHING)
    trainer = Trainer(example, CPU)
    with pytest.raises(StateError) as raised:
        trainer.restore(broken(state_after(1, example), **tensors))
    assert raised.value.reason.startswith(reason)
    trainer.epoch(1, Listener())
    assert trainer.state(1).to_bytes() == state_after(1, example).to_bytes()


@pytest.mark.parametrize("epoch", [0, EPOCHS])
def test_a_state_after_the_last_epoch_is_refused(epoch: int) -> None:
    example = small()
    with pytest.raises(StateError, match=f"it is of epoch {epoch}, after which none of 4 is to come"):
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
def test_what_is_not_a_state_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StateError, match=r"^(cannot be read as a training's state \(|is a ).*$"):
        TrainingState.from_bytes(NO_STATES[kind])
    assert list(tmp_path.iterdir()) == [], "what was read was not run"


def test_a_truncated_state_is_refused() -> None:
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
    held = sum(tensor.nbytes for tensor in state.tensors.values())
    assert len(state.to_bytes()) < held + 400 * len(state.tensors)
