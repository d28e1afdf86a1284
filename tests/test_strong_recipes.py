"""Rates that are set at every step, and the recipes of long trainings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training import CPU, PLAIN, Listener, task

from benchmarks.tasks import plain_recipe, strong_recipe
from budgetnas.space.recipe import Augmentation, Recipe, RecipeSpace
from budgetnas.space.strong import automatic_epochs, final_recipe
from budgetnas.training.engine import Trainer
from budgetnas.training.optimizer import learning_rates


@given(rate=st.floats(1e-6, 10), t_max=st.integers(1, 12), steps=st.integers(1, 9), data=st.data())
@settings(deadline=None)
def test_rates_per_step_are_pytorch_s_after_a_warm_up(rate: float, t_max: int, steps: int, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(0, t_max - 1))
    recipe = Recipe(
        optimizer="sgd", learning_rate=rate, epochs=t_max, t_max=t_max, warmup_epochs=warmup, schedule="step"
    )
    rates = [value for epoch in range(1, t_max + 1) for value in learning_rates(recipe, epoch, steps)]
    assert rates[: warmup * steps] == pytest.approx([rate * (i + 1) / (warmup * steps) for i in range(warmup * steps)])
    optim = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optim, T_max=(t_max - warmup) * steps)
    for ours in rates[warmup * steps :]:
        assert ours == pytest.approx(schedule.get_last_lr()[0], rel=1e-7, abs=rate * 1e-9)
        optim.step()
        schedule.step()


def test_a_trainer_sets_the_rate_of_every_step() -> None:
    trainer = Trainer(task(batch=100, epochs=4, t_max=4, warmup_epochs=1, schedule="step", augmentation=PLAIN), CPU)
    seen: list[float] = []

    class Rates(Listener):
        def on_step(self, epoch: int, done: int, total: int) -> None:
            seen.append(trainer.optimizer.param_groups[0]["lr"])

    epochs = [trainer.epoch(number, Rates()) for number in (1, 2)]
    expected = [learning_rates(trainer.task.recipe, number, 5) for number in (1, 2)]
    assert seen[:5] == expected[0]
    assert [epoch.learning_rate for epoch in epochs] == [rates[0] for rates in expected]


def test_recipes_for_long_trainings() -> None:
    plain, strong = plain_recipe(100), strong_recipe(100, resolution=16, flip=False)
    assert Recipe.model_validate_json(strong.model_dump_json()) == strong
    assert strong.augmentation.crop_padding == 2 and not strong.augmentation.flip
    assert strong.describe() == (
        "SGD lr 0.1 wd 0.0005, 100 epochs, batch 128, Nesterov, reflection padding, TrivialAugment, erasing 0.1, "
        "mixup 0.2, CutMix 1, no decay of norms and biases, warm-up 5, EMA 0.999, rate per step"
    )
    assert plain.describe() == "SGD lr 0.1 wd 0.0005, 100 epochs, batch 128, Nesterov"
    for epochs in (1, 2, 7):
        assert Recipe.model_validate(strong_recipe(epochs).model_dump()).warmup_epochs < epochs


def test_a_final_s_recipe_is_scaled_to_network_length_and_batch() -> None:
    recipes = RecipeSpace()
    assert final_recipe(recipes, 100, 300_000) == strong_recipe(100)
    weak = strong_recipe(100).model_copy(update={"augmentation": Augmentation(padding="reflect"), "learning_rate": 0.2})
    assert final_recipe(recipes, 100, 299_999) == weak
    assert not final_recipe(recipes, 59, 5_000_000).augmentation.mixup
    assert final_recipe(recipes, 100, 299_999, "balanced") == weak.model_copy(update={"class_weights": "balanced"})
    own = Augmentation(crop_padding=1, flip=False, rotation=5, mixup=0.4)
    unmirrored = final_recipe(RecipeSpace(augmentation=own), 100, 300_000).augmentation
    assert unmirrored == own.model_copy(update={"padding": "reflect", "erasing": 0.1, "cutmix": 1.0})
    rates = {
        (batch, params): final_recipe(RecipeSpace(batch=batch), 100, params).learning_rate
        for batch in (64, 256, 8_192)
        for params in (10_000, 300_000)
    }
    assert rates == {
        (64, 10_000): 0.1, (256, 10_000): 0.4, (8_192, 10_000): 0.8,
        (64, 300_000): 0.05, (256, 300_000): 0.2, (8_192, 300_000): 0.8,
    }  # fmt: skip
    for epochs in (1, 2, 7):
        recipe = final_recipe(recipes, epochs, 10_000)
        assert Recipe.model_validate(recipe.model_dump()) == recipe and recipe.epochs == recipe.t_max == epochs


def test_automatic_epochs_are_ten_times_those_of_a_trial() -> None:
    assert [automatic_epochs(epochs) for epochs in (1, 20, 40, 60, 500)] == [10, 200, 400, 400, 500]
