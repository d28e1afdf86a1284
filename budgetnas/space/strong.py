"""The recipe for long trainings, with settings that improve accuracy only after some tens of epochs."""

from __future__ import annotations

from budgetnas.space.recipe import Augmentation, Recipe

_WARMUP_EPOCHS = 5


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
            "augmentation": Augmentation(
                crop_padding=resolution // 8,
                flip=flip,
                padding="reflect",
                trivial_augment=True,
                erasing=0.1,
                mixup=0.2,
                cutmix=1.0,
            ),
        }
    )
