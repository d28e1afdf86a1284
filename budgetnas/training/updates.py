"""The update of the weights from the losses of a batch: plain, or with the loss scaling that fp16 needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

GROWTH_INTERVAL: Final = 2000
_GROWTH: Final = 2.0
_BACKOFF: Final = 0.5
INITIAL_LOSS_SCALE: Final[Mapping[str, Tensor]] = {
    "loss_scale.scale": torch.tensor(65536.0),
    "loss_scale.growth_tracker": torch.tensor(0, dtype=torch.int32),
}
"""The loss scale before the first step, and the number of steps since its last change."""


class Updates:
    """Makes the optimiser's steps. This base class is for precisions with the exponents of float32."""

    memory: Mapping[str, Tensor] = {}
    """The tensors that steps change and later steps read, by name."""
    skipped: Tensor | None = None
    """(), float32: 1 if the last step was skipped, else 0. None if no step is ever skipped."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to those of the step."""
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        """Make the optimiser's step."""
        self._optimizer.step()


class ScaledUpdates(Updates):
    """Makes the optimiser's steps with a scale of the loss that keeps fp16 gradients from underflow and overflow.

    Gradients below 6e-8 are 0 in fp16. So the loss is multiplied by a power of two before the backward pass, and the
    float32 gradients of the weights are divided by it afterwards (Micikevicius et al. 2018). A step whose gradients
    overflowed is skipped and halves the scale; `GROWTH_INTERVAL` steps in a row without overflow double it.

    Constants and operations are those of ``torch.amp.GradScaler``. All values stay on the device at fixed addresses, so
    a step can be captured as a CUDA graph. After an overflow in the forward pass the loss is not finite either, and the
    training fails as in any other precision.

    Args:
        optimizer: A fused optimiser that has all of its state already: a skipped first step leaves new state undefined.
        device: Device of the weights.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        super().__init__(optimizer)
        self.memory = {name: tensor.to(device, copy=True) for name, tensor in INITIAL_LOSS_SCALE.items()}
        self._scale, self._growth_tracker = self.memory.values()
        self._found_inf = self.skipped = torch.zeros((), device=device)
        optimizer.found_inf = self._found_inf  # type: ignore[attr-defined]  # fused steps read it

    def backward(self, loss: Tensor) -> None:
        """Add the scaled gradients of `loss` to those of the step."""
        super().backward(loss * self._scale)

    def step(self) -> None:
        """Divide the gradients by the scale, make the optimiser's step unless they overflowed, and adapt the scale."""
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self._found_inf.zero_()
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, self._found_inf, self._scale.reciprocal())
        super().step()
        torch._amp_update_scale_(self._scale, self._growth_tracker, self._found_inf, _GROWTH, _BACKOFF, GROWTH_INTERVAL)
