"""The certificate of parameters: what was counted without building, beside what was built, part by part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from budgetnas.architecture import Architecture, count_parts, head, stem
from budgetnas.errors import BudgetnasError


@dataclass(frozen=True, slots=True)
class CertifiedPart:
    """The parameters of one part, or of all.

    Attributes:
        name: ``stem``, ``stage 1``, ..., ``head``, ``total``.
        static: Counted from the architecture, without building it.
        built: Trainable parameters of the network with the bundle's weights.
    """

    name: str
    static: int
    built: int

    @property
    def equal(self) -> bool:
        """Whether the two are the same."""
        return self.static == self.built

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"name": self.name, "static": self.static, "built": self.built, "equal": self.equal}


@dataclass(frozen=True, slots=True)
class Certificate:
    """The parameters of a network, twice.

    Attributes:
        parts: Each part, in order.
        max_params: The budget; nothing where there was none.
        modules_elsewhere: Parameters of the built network that are in none of the parts: 0.
    """

    parts: tuple[CertifiedPart, ...]
    max_params: int | None
    modules_elsewhere: int

    @property
    def total(self) -> CertifiedPart:
        """All parts together, and whatever the built network has beside them."""
        built = sum(part.built for part in self.parts) + self.modules_elsewhere
        return CertifiedPart("total", sum(part.static for part in self.parts), built)

    @property
    def fits(self) -> bool | None:
        """Whether it keeps the budget; nothing where there was none."""
        return None if self.max_params is None else self.total.built <= self.max_params

    def check(self) -> None:
        """Check that both counts are equal, part by part.

        Raises:
            BudgetnasError: If they are not.
        """
        unequal = [one for one in (*self.parts, self.total) if not one.equal]
        if unequal:
            told = "; ".join(f"{one.name}: {one.static:,} counted, {one.built:,} built" for one in unequal)
            raise BudgetnasError(f"the built network has other parameters than were counted ({told})")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "parts": [part.to_dict() for part in self.parts],
            "total": self.total.to_dict(),
            "budget": self.max_params,
            "fits": self.fits,
        }


def certify(architecture: Architecture, network: nn.Module, max_params: int | None) -> Certificate:
    """Return the certificate of `network`, which was built from `architecture`."""
    modules = dict(network.named_children())
    stages = (f"layer{index}" for index in range(1, architecture.num_stages + 1))
    names = [_names(stem(architecture)), *([one] for one in stages), _names(head(architecture))]
    parts = tuple(
        CertifiedPart(part.name, part.counts.params, sum(_trainable(modules[name]) for name in inside))
        for part, inside in zip(count_parts(architecture), names, strict=True)
    )
    return Certificate(parts, max_params, _trainable(network) - sum(part.built for part in parts))


def _names(path: Iterable[tuple[str, object]]) -> list[str]:
    return [name for name, _ in path]


def _trainable(module: nn.Module) -> int:
    return sum(one.numel() for one in module.parameters() if one.requires_grad)
