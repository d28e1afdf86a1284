"""The recipe for long trainings, with settings that improve accuracy only after some tens of epochs."""

from __future__ import annotations

from typing import Any, Final

from budgetnas.space.recipe import Augmentation, ClassWeights, Recipe, RecipeSpace

FEWEST_PARAMS: Final = 300_000
"""Networks with fewer parameters underfit, so strong augmentation costs accuracy."""
SMALL_RATE: Final = 0.2
"""Rate of these networks in a final, for a batch of 128; docs/recipe.md ("The rate of small networks") measures it."""
FEWEST_EPOCHS: Final = 60
"""In fewer epochs strong augmentation costs accuracy."""
_WARMUP_EPOCHS: Final = 5
_AUTO_FACTOR: Final = 10
_AUTO_MAX: Final = 400
_LARGEST_RATE: Final = 0.8
_STRONG: Final[dict[str, Any]] = {"trivial_augment": True, "erasing": 0.1, "mixup": 0.2, "cutmix": 1.0}


def plain_recipe(epochs: int, *, resolution: int = 32, flip: bool = True) -> Recipe:
    """Return the default of a search's first trial: Nesterov's SGD, a cosine set every epoch, crop and flip.

    Args:
        epochs: Passes over the training images.
        resolution: Side of the images in pixels; the crop's padding is an eighth of it.
        flip: Whether a mirrored image keeps its meaning.
    """
    return Recipe(
        optimizer="sgd",
        learning_rate=0.1,
        weight_decay=5e-4,
        nesterov=True,
        epochs=epochs,
        t_max=epochs,
        augmentation=Augmentation(crop_padding=resolution // 8, flip=flip),
    )


def strong_recipe(epochs: int, *, resolution: int = 32, flip: bool = True) -> Recipe:
    """Return a recipe for about 60 to 400 epochs of a network that does not underfit (0.3 million parameters and more).

    On top of `plain_recipe`: the rate set at every step after 5 epochs of warm-up, no decay of norms and biases, an
    average of the weights, reflection padding, TrivialAugment, random erasing in a tenth of the images, and every batch
    mixed by mixup(0.2) or CutMix(1.0). These are the elements of https://github.com/vgripon/SOTA-routine.

    The rate of 0.5 and the weight decay of 2e-5 used there suit 1,900 epochs, but not these lengths. Weights before
    batch normalisation reach their equilibrium norm after about 1 / (rate x decay) steps: 100,000 there, 20,000 with
    0.1 and 5e-4. 100 epochs of 45,000 images have 35,200 steps. Label smoothing is off: with mixing it gains nothing.

    Args:
        epochs: Passes over the training images.
        resolution: Side of the images in pixels; the crop's padding is an eighth of it.
        flip: Whether a mirrored image keeps its meaning.
    """
    return plain_recipe(epochs).model_copy(
        update={
            "schedule": "step",
            "warmup_epochs": min(_WARMUP_EPOCHS, epochs // 4),
            "decay_norm_and_bias": False,
            "ema_decay": 0.999,
            "augmentation": Augmentation(crop_padding=resolution // 8, flip=flip, padding="reflect", **_STRONG),
        }
    )


def final_recipe(recipes: RecipeSpace, epochs: int, params: int, class_weights: ClassWeights = "none") -> Recipe:
    """Return the recipe of a final's long training: `strong_recipe`, scaled to the network and the length.

    Below `FEWEST_PARAMS` or `FEWEST_EPOCHS` images are not changed further than in the search, except that crops are
    padded by reflection. TrivialAugment, which turns images by up to 135 degrees, is left out where images must not be
    mirrored either. The rate (`SMALL_RATE` below `FEWEST_PARAMS`) is proportional to the batch (Goyal et al. 2017),
    and 0.8 at most.

    Args:
        recipes: The study's recipes: batch size, and augmentation, which the search and the long training share.
        epochs: Passes over the training images.
        params: Parameters of the network.
        class_weights: Those of the candidate's recipe in the search.
    """
    base = recipes.augmentation
    is_small = params < FEWEST_PARAMS
    is_strong = not is_small and epochs >= FEWEST_EPOCHS
    added = {name: value for name, value in _STRONG.items() if is_strong and not getattr(base, name)}
    if not base.flip:
        added.pop("trivial_augment", None)
    strong = strong_recipe(epochs)
    rate = SMALL_RATE if is_small else strong.learning_rate
    return strong.model_copy(
        update={
            "batch": recipes.batch,
            "learning_rate": min(rate * recipes.batch / strong.batch, _LARGEST_RATE),
            "augmentation": base.model_copy(update={"padding": "reflect", **added}),
            "class_weights": class_weights,
        }
    )


def automatic_epochs(search_epochs: int) -> int:
    """Return the epochs of ``--final-epochs auto``: ten times those of a trial, up to 400, but at least a trial's."""
    return max(search_epochs, min(_AUTO_FACTOR * search_epochs, _AUTO_MAX))
