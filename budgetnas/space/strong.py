"""The recipe for long trainings, with settings that improve accuracy only after some tens of epochs."""

from __future__ import annotations

from typing import Any, Final

from budgetnas.space.recipe import ClassWeights, Recipe, RecipeSpace

FEWEST_PARAMS: Final = 300_000
"""Networks with fewer parameters underfit, so strong augmentation costs accuracy."""
BATCH: Final = 128
"""Images in a step for which the rates are meant."""
RATE: Final = 0.1
SMALL_RATE: Final = 0.2
"""Rate of networks below `FEWEST_PARAMS`; docs/recipe.md ("The rate of small networks") measures it."""
FEWEST_EPOCHS: Final = 60
"""In fewer epochs strong augmentation costs accuracy."""
_WARMUP_EPOCHS: Final = 5
_AUTO_FACTOR: Final = 10
_AUTO_MAX: Final = 400
_LARGEST_RATE: Final = 0.8
STRONG: Final[dict[str, Any]] = {"trivial_augment": True, "erasing": 0.1, "mixup": 0.2, "cutmix": 1.0}


def final_recipe(recipes: RecipeSpace, epochs: int, params: int, class_weights: ClassWeights = "none") -> Recipe:
    """Return the recipe of a final's long training, scaled to the network and the length.

    Nesterov's SGD, the rate set at every step after 5 epochs of warm-up, no decay of norms and biases, an average of
    the weights, and crops padded by reflection. From `FEWEST_PARAMS` and `FEWEST_EPOCHS` on also TrivialAugment, random
    erasing in a tenth of the images, and every batch mixed by mixup(0.2) or CutMix(1.0). These are the elements of
    https://github.com/vgripon/SOTA-routine. TrivialAugment, which turns images by up to 135 degrees, is left out where
    images must not be mirrored either. Label smoothing is off: with mixing it gains nothing.

    The rate of 0.5 and the weight decay of 2e-5 used there suit 1,900 epochs, but not these lengths. Weights before
    batch normalisation reach their equilibrium norm after about 1 / (rate x decay) steps: 100,000 there, 20,000 with
    0.1 and 5e-4. 100 epochs of 45,000 images have 35,200 steps. The rate (`SMALL_RATE` below `FEWEST_PARAMS`) is
    proportional to the batch (Goyal et al. 2017), and 0.8 at most.

    Args:
        recipes: The study's recipes: batch size, and augmentation, which the search and the long training share.
        epochs: Passes over the training images.
        params: Parameters of the network.
        class_weights: Those of the candidate's recipe in the search.
    """
    base = recipes.augmentation
    is_small = params < FEWEST_PARAMS
    is_strong = not is_small and epochs >= FEWEST_EPOCHS
    added = {name: value for name, value in STRONG.items() if is_strong and not getattr(base, name)}
    if not base.flip:
        added.pop("trivial_augment", None)
    rate = SMALL_RATE if is_small else RATE
    return Recipe(
        optimizer="sgd",
        learning_rate=min(rate * recipes.batch / BATCH, _LARGEST_RATE),
        weight_decay=5e-4,
        nesterov=True,
        epochs=epochs,
        t_max=epochs,
        batch=recipes.batch,
        schedule="step",
        warmup_epochs=min(_WARMUP_EPOCHS, epochs // 4),
        decay_norm_and_bias=False,
        ema_decay=0.999,
        augmentation=base.model_copy(update={"padding": "reflect", **added}),
        class_weights=class_weights,
    )


def automatic_epochs(search_epochs: int) -> int:
    """Return the epochs of ``--final-epochs auto``: ten times those of a trial, up to 400, but at least a trial's."""
    return max(search_epochs, min(_AUTO_FACTOR * search_epochs, _AUTO_MAX))
