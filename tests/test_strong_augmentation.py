"""TrivialAugment, random erasing and mixing, each against torchvision on the CPU, and what chance decides."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference
from training import CPU, STRONG, freeze_statistics, task, trained

from benchmarks.tasks import strong_recipe
from budgetnas.space.recipe import Augmentation
from budgetnas.training.augmentation import AugmentationParameters, augment, crop_and_flip, draw
from budgetnas.training.engine import Trainer
from budgetnas.training.evaluation import balanced_weights, summed_loss
from budgetnas.training.mixing import Targets, draw_mixing, mix
from budgetnas.training.strong_augmentation import (
    BINS,
    OPERATIONS,
    draw_boxes,
    draw_operations,
    erase,
    magnitudes_of,
    trivial_augment,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, channels: int = 3, size: int = 32, seed: int = 0) -> Tensor:
    """Images of all kinds: noise, a few levels, narrow ranges, one level only."""
    generator = seeded(seed)
    images = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)
    images[1::4] = images[1::4] // 60 * 50
    images[2::4] = images[2::4] // 4 + 90
    images[3::8] = 77
    return images


def by_torchvision(image: Tensor, operation: str, magnitude: float) -> Tensor:
    """Return what torchvision's own method makes of an image."""
    if operation == "Posterize":
        magnitude = 8 - math.log2(magnitude)
    elif operation == "Solarize":
        magnitude = magnitude / 255
    changed = v2.TrivialAugmentWide()._apply_image_or_video_transform(
        image, operation, magnitude, interpolation=v2.InterpolationMode.NEAREST, fill={type(image): None}
    )
    assert isinstance(changed, Tensor)
    return changed


def changed(images: Tensor, operation: str, magnitude: float) -> Tensor:
    count = len(images)
    operations = torch.full((count,), OPERATIONS.index(operation))
    return trivial_augment(images, operations, torch.full((count,), magnitude))


def signed(operation: str) -> list[float]:
    magnitudes = magnitudes_of(operation).tolist()
    return magnitudes + [-magnitude for magnitude in magnitudes if operation in OPERATIONS[1:10]]


EXACT = ("Identity", "TranslateX", "TranslateY", "Posterize", "Solarize", "AutoContrast", "Equalize", "Brightness")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("operation", EXACT)
def test_an_operation_is_exactly_torchvision_s(operation: str, channels: int) -> None:
    for size in (8, 32):
        images = pictures(4, channels, size)
        for magnitude in signed(operation):
            expected = torch.stack([by_torchvision(image, operation, magnitude) for image in images])
            assert torch.equal(changed(images, operation, magnitude), expected), magnitude


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("operation", ["Color", "Contrast", "Sharpness"])
def test_a_blend_is_torchvision_s_but_for_a_level_of_rounding(operation: str, channels: int) -> None:
    """A blend that is a whole number may come out just below it, and is cut down then: here or there."""
    for magnitude in signed(operation):
        images = pictures(9, channels)
        expected = torch.stack([by_torchvision(image, operation, magnitude) for image in images])
        difference = (changed(images, operation, magnitude).int() - expected.int()).abs()
        assert difference.max() <= 1
        assert (difference[::4] > 0).double().mean() < 0.01


@pytest.mark.parametrize("size", [8, 28, 32])
@pytest.mark.parametrize("operation", ["ShearX", "ShearY", "Rotate"])
def test_a_move_takes_torchvision_s_pixel_or_an_equally_near_pixel(operation: str, size: int) -> None:
    """Where two pixels are equally near, as on the diagonal at 45 degrees, rounding decides."""
    positions = torch.arange(1, size * size + 1)
    images = torch.stack([positions % 251, positions // 251]).to(torch.uint8).view(2, 1, size, size)
    differing = 0
    for magnitude in signed(operation):
        expected = torch.stack([by_torchvision(image, operation, magnitude) for image in images])
        different = (changed(images, operation, magnitude) != expected).any(dim=0)
        differing += int(different.sum())
        assert int(different.sum()) <= size, magnitude
    assert differing <= (4 * size if operation == "Rotate" else 0)


@given(seed=st.integers(0, 10**6), channels=st.sampled_from([1, 3]))
@settings(max_examples=20, deadline=None)
def test_each_image_of_a_batch_has_its_own_operation(seed: int, channels: int) -> None:
    images = pictures(28, channels, 9, seed)
    operations, magnitudes = draw_operations(28, seeded(seed))
    whole = trivial_augment(images, operations, magnitudes)
    assert (whole.shape, whole.dtype) == (images.shape, torch.uint8)
    for place in range(28):
        alone = trivial_augment(images[[place]], operations[[place]], magnitudes[[place]])
        assert torch.equal(whole[place], alone[0])


def test_operations_strengths_and_signs_come_equally_often() -> None:
    count = 14 * 31 * 100
    operations, magnitudes = draw_operations(count, seeded())
    times = torch.bincount(operations, minlength=14).double()
    assert float(((times - 3100) ** 2 / 3100).sum()) < 34.6  # 13 degrees of freedom: one seed in 1,000 gives more
    space = v2.TrivialAugmentWide._AUGMENTATION_SPACE
    assert tuple(space) == OPERATIONS
    for index, (name, (magnitudes_fn, has_sign)) in enumerate(space.items()):
        drawn = magnitudes[operations == index]
        assert float((drawn < 0).double().mean()) == pytest.approx(0.5 * 30 / 31 if has_sign else 0, abs=0.04)
        values, seen = drawn.abs().unique(return_counts=True)
        assert torch.equal(values, magnitudes_of(name).unique())
        if name in {"Rotate", "ShearX", "Color"}:
            expected = len(drawn) / BINS
            assert float(((seen - expected) ** 2 / expected).sum()) < 59.7  # 30 degrees of freedom, likewise
            assert torch.equal(magnitudes_of(name), magnitudes_fn(BINS, 32, 32))


def test_levels_of_posterize_and_solarize_are_those_of_torchvision_s_magnitudes() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    space = v2.TrivialAugmentWide._AUGMENTATION_SPACE
    for bits, ours in zip(space["Posterize"][0](BINS, 16, 16), magnitudes_of("Posterize"), strict=True):
        assert torch.equal(changed(images, "Posterize", float(ours)), reference.posterize(images, int(bits)))
    for share, ours in zip(space["Solarize"][0](BINS, 16, 16), magnitudes_of("Solarize"), strict=True):
        assert torch.equal(changed(images, "Solarize", float(ours)), reference.solarize(images, 255 * float(share)))


def test_boxes_are_those_of_random_erasing() -> None:
    """Against torchvision's own draws: how often, how large and how high a box is, in the mean."""
    count, size = 20_000, 32
    boxes = draw_boxes(count, 0.25, seeded())
    white = torch.full((count, 1, size, size), 255, dtype=torch.uint8)
    holes = (erase(white, boxes, torch.zeros(1, 1, 1, 1, dtype=torch.uint8)) == 0)[:, 0]
    erased = holes.flatten(1).any(dim=1)
    assert float(erased.double().mean()) == pytest.approx(0.25, abs=0.012)
    holes = holes[erased]
    heights, widths = (holes.any(dim=axis).sum(dim=1) for axis in (2, 1))
    assert torch.equal(heights * widths, holes.flatten(1).sum(dim=1)), "a box is a rectangle"
    torch.manual_seed(0)
    theirs = [v2.RandomErasing(p=1).make_params([white[0]]) for _ in range(5_000)]
    for ours, expected in ((heights, [box["h"] for box in theirs]), (widths, [box["w"] for box in theirs])):
        assert float(ours.double().mean()) == pytest.approx(sum(expected) / 5_000, rel=0.03)
        assert int(ours.max()) == size - 1 and int(ours.min()) <= 3
    rows = holes.any(dim=2).double().argmax(dim=1)
    assert float(rows.double().mean()) == pytest.approx(sum(box["i"] for box in theirs) / 5_000, rel=0.05)
    area = float((heights * widths).double().mean())
    assert area == pytest.approx(sum(box["h"] * box["w"] for box in theirs) / 5_000, rel=0.03)


def test_erased_boxes_have_the_mean_colour_and_the_rest_stays() -> None:
    images = pictures(8)
    color = torch.tensor([1, 2, 3], dtype=torch.uint8).view(1, 3, 1, 1)
    boxes = torch.tensor([[0.25, 0.5, 0.0, 0.999], [0.0, 0.0, 0.5, 0.5]]).repeat(4, 1)
    result = erase(images, boxes, color)
    expected = images.clone()
    expected[::2, :, 0:8, 16:32] = color
    assert torch.equal(result, expected)


@pytest.mark.parametrize("padding", [1, 2, 7])
def test_reflection_padding_is_torchvision_s(padding: int) -> None:
    images = pictures(40, size=8)
    draws = draw(40, Augmentation(crop_padding=padding), seeded())
    assert draws.offsets is not None and draws.mirrored is not None
    result = crop_and_flip(images, padding, draws, "reflect")
    for image, (top, left), mirrored, ours in zip(images, draws.offsets, draws.mirrored, result, strict=True):
        padded = reference.pad(image, [padding], padding_mode="reflect")
        crop = reference.crop(padded, int(top), int(left), 8, 8)
        assert torch.equal(ours, reference.hflip(crop) if mirrored else crop)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_reflection_padding_may_be_wider_than_the_image(size: int) -> None:
    images = torch.arange(1, size * size + 1, dtype=torch.uint8).view(1, 1, size, size).expand(300, -1, -1, -1)
    how = Augmentation(crop_padding=9, padding="reflect")
    result = augment(images, how, draw(300, how, seeded()))
    assert int(result.min()) > 0 and int(result.max()) == size * size


HOW = Augmentation(crop_padding=2, padding="reflect", trivial_augment=True, erasing=0.3, mixup=0.2, cutmix=1.0)


def test_strong_draws_leave_the_others_as_they_were() -> None:
    ours, plain = draw(16, HOW, seeded(3)), draw(16, Augmentation(crop_padding=2), seeded(3))
    assert ours.offsets is not None and plain.offsets is not None
    assert ours.mirrored is not None and plain.mirrored is not None
    assert torch.equal(ours.offsets, plain.offsets)
    assert torch.equal(ours.mirrored, plain.mirrored)


def test_strong_changes_come_in_their_order() -> None:
    images, color = pictures(64, size=8), torch.full((1, 3, 1, 1), 9, dtype=torch.uint8)
    draws = draw(64, HOW, seeded(3))
    assert draws.operations is not None and draws.magnitudes is not None and draws.boxes is not None
    cropped = crop_and_flip(images, 2, AugmentationParameters(None, draws.offsets, draws.mirrored), "reflect")
    expected = erase(trivial_augment(cropped, draws.operations, draws.magnitudes), draws.boxes, color)
    assert torch.equal(augment(images, HOW, draws, color), expected)
    arranged = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(augment(arranged, HOW, draws, color), expected)
    kept = draw(70, HOW, seeded(4))
    kept.copy_(draws)
    assert torch.equal(augment(images, HOW, kept.at(torch.arange(64)), color), expected)


def test_mixup_is_a_weighted_mean_with_the_image_before() -> None:
    images, labels = pictures(7), torch.arange(7)
    mixed, targets = mix(images, labels, torch.tensor([0.25, 0.0, 0.3, 0.9]))
    expected = 0.25 * images.float() + 0.75 * images.roll(1, 0).float()
    torch.testing.assert_close(mixed, expected)
    assert targets.share is not None and float(targets.share) == 0.25
    assert targets.others is not None and torch.equal(targets.others, labels.roll(1))
    assert torch.equal(targets.main_labels, labels.roll(1))


@given(st.floats(0, 1, width=32), *[st.floats(0, 1, exclude_max=True, width=32)] * 2, st.sampled_from([4, 7, 32]))
@settings(deadline=None)
def test_cutmix_is_torchvision_s(share: float, row: float, column: float, size: int) -> None:
    """The box and the share that torchvision computes from the same draws."""
    images, labels = pictures(3, size=size), torch.arange(3)
    half = 0.5 * math.sqrt(1 - share)
    mixed, targets = mix(images, labels, torch.tensor([1.0, half, row, column]))
    centre = [math.floor(float(torch.tensor(place) * size)) for place in (row, column)]
    reach = math.floor(float(torch.tensor(half) * size))
    (y1, y2), (x1, x2) = ((max(0, place - reach), min(size, place + reach)) for place in centre)
    expected = images.clone()
    expected[..., y1:y2, x1:x2] = images.roll(1, 0)[..., y1:y2, x1:x2]
    assert torch.equal(mixed, expected.float())
    assert targets.share is not None
    assert float(targets.share) == pytest.approx(1 - (x2 - x1) * (y2 - y1) / size**2, abs=1e-6)


def test_shares_come_from_their_distributions() -> None:
    """Against torchvision's own draws of CutMix, and the moments of Beta(0.2, 0.2): variance 1 / (4 (2 x 0.2 + 1))."""
    count = 20_000
    both = draw_mixing(count, Augmentation(mixup=0.2, cutmix=1.0), seeded())
    is_cut = both[:, 0] == 1
    assert float(is_cut.double().mean()) == pytest.approx(0.5, abs=0.015)
    weights = draw_mixing(count, Augmentation(mixup=0.2), seeded())[:, 0].double()
    assert float(weights.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(weights.var()) == pytest.approx(1 / 5.6, abs=0.004)
    cut = draw_mixing(3_000, Augmentation(cutmix=1.0), seeded())
    assert bool((cut[:, 0] == 1).all())
    image, label = torch.zeros(2, 1, 32, 32, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    shares = [float(mix(image, label, drawn)[1].share) for drawn in cut]  # type: ignore[arg-type]
    torch.manual_seed(0)
    theirs = [v2.CutMix(num_classes=2).make_params([image])["lam_adjusted"] for _ in range(3_000)]
    assert sum(shares) / 3_000 == pytest.approx(sum(theirs) / 3_000, abs=0.02)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 1.0, 0.25, 3.0])])
def test_the_loss_is_that_of_soft_labels(smoothing: float, weights: Tensor | None) -> None:
    logits, labels = torch.randn(6, 5, generator=seeded()), torch.tensor([0, 1, 2, 3, 4, 0])
    targets = Targets(labels, labels.roll(1), torch.tensor(0.3))
    soft = 0.3 * torch.eye(5)[labels] + 0.7 * torch.eye(5)[labels.roll(1)]
    expected = torch.nn.functional.cross_entropy(logits, soft, weights, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(targets.loss(logits, smoothing, weights), expected)
    pieces = zip(logits.tensor_split(4), targets.split(4), strict=True)
    torch.testing.assert_close(sum(part.loss(some, smoothing, weights) for some, part in pieces), expected)
    plain = Targets(labels)
    assert torch.equal(plain.loss(logits, smoothing, weights), summed_loss(logits, labels, smoothing, weights))
    assert [len(part.labels) for part in plain.split(4)] == [2, 2, 1, 1]


class Devices(TorchDispatchMode):
    """Notes the operations that touch the host's memory."""

    def __init__(self) -> None:
        super().__init__()
        self.on_host: list[str] = []
        self.seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        tensors = [value for value in (*args, result) if isinstance(value, Tensor)]
        self.seen += 1
        if any(tensor.device.type == "cpu" for tensor in tensors):
            self.on_host.append(str(func))
        return result


def test_no_operation_touches_the_memory_of_the_host() -> None:
    """On tensors that only claim to be on a GPU; a copy from the host could not be captured."""
    how, draws = strong_recipe(10).augmentation, draw(128, strong_recipe(10).augmentation, seeded())
    shapes = {field: getattr(draws, field) for field in draws.__slots__}
    with FakeTensorMode():

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device="cuda")

        images, color = empty(128, 3, 32, 32, dtype=torch.uint8), empty(1, 3, 1, 1, dtype=torch.uint8)
        labels, mixing, logits = empty(128, dtype=torch.int64), empty(4), empty(128, 10)
        claimed = AugmentationParameters(
            **{name: None if some is None else empty(*some.shape, dtype=some.dtype) for name, some in shapes.items()}
        )
        with Devices() as devices:
            mixed, targets = mix(augment(images, how, claimed, color), labels, mixing)
            targets.loss(logits, 0.1)
            assert targets.main_labels.device.type == mixed.device.type == "cuda"
    assert devices.seen > 100
    assert devices.on_host == []


def test_pieces_of_a_mixed_batch_give_the_gradients_of_the_whole() -> None:
    wholes = []
    for micro_batch in (None, 16):
        runtime = replace(CPU, micro_batch=micro_batch)
        trainer = Trainer(task(batch=100, **STRONG | {"ema_decay": 0.0}), runtime)
        freeze_statistics(trainer)
        for _ in trainer.steps(torch.arange(200)):
            pass
        wholes.append(trainer.network.state_dict())
    for name, tensor in wholes[0].items():
        torch.testing.assert_close(tensor, wholes[1][name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_strong_training_is_repeatable_and_its_loss_is_that_of_its_images_and_targets() -> None:
    (one, first), (other, second) = (trained(task(**STRONG | {"t_max": 3})) for _ in range(2))
    assert first.epochs == second.epochs
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_a_step_by_hand_is_the_trainer_s() -> None:
    """Augmentation, mixing, soft labels with smoothing, the rate of each step: two steps without the trainer."""
    job = task(batch=100, **STRONG | {"ema_decay": 0.0})
    trainer = Trainer(job, CPU)
    network, optimizer = Trainer(job, CPU).network, Trainer(job, CPU).optimizer
    network.load_state_dict(trainer.network.state_dict())
    optimizer = torch.optim.SGD(
        [
            {"params": [weight for weight in network.parameters() if weight.ndim > 1]},
            {"params": [weight for weight in network.parameters() if weight.ndim == 1], "weight_decay": 0.0},
        ],
        lr=0.1,
        momentum=job.recipe.momentum,
        weight_decay=job.recipe.weight_decay,
        nesterov=True,
    )
    how, generator = job.recipe.augmentation, torch.Generator().set_state(trainer.generator.get_state())
    order, rates = torch.arange(200).flip(0), [0.02, 0.3]
    for _ in trainer.steps(order, rates):
        pass
    draws, mixing = draw(200, how, generator), draw_mixing(2, how, generator)
    color, weights = trainer.normalise.mean_color, balanced_weights(job.train.labels, 10)
    for step, rate in enumerate(rates):
        places = torch.arange(100 * step, 100 * step + 100)
        images, labels = job.train.images[order[places]], job.train.labels[order[places]]
        mixed, targets = mix(augment(images, how, draws.at(places), color), labels, mixing[step])
        soft = targets.share * torch.eye(10)[labels] + (1 - targets.share) * torch.eye(10)[labels.roll(1)]  # type: ignore[operator]
        loss = torch.nn.functional.cross_entropy(
            network(trainer.normalise(mixed)), soft, weights, label_smoothing=job.recipe.label_smoothing
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, trainer.network.state_dict()[name], rtol=1e-4, atol=1e-5, msg=name)
