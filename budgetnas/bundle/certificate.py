"""The certificate of parameters: what was counted without building, beside what was built, part by part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from budgetnas.architecture import Architecture, Counts, count, count_parts, head, stem
from budgetnas.architecture.budget import Budget, Limit
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
class CertifiedLimit:
    """A limit, and the count it was held against.

    Attributes:
        limit: The limit.
        count: Of parameters, those of the built network; of all else, what was counted without building it.
    """

    limit: Limit
    count: int

    @property
    def fits(self) -> bool:
        """Whether it is kept."""
        return self.count <= self.limit.value

    @property
    def counted(self) -> str:
        """How it was counted: ``built`` or ``static``."""
        return "built" if self.limit.quantity == "params" else "static"

    def sentence(self) -> str:
        """Return it in words."""
        verb, how = "keeps" if self.fits else "BREAKS", " (counted without building it)"
        return (
            f"It {verb} the limit of {self.limit.value:,} {self.limit.words} with {self.count:,}"
            f"{how if self.counted == 'static' else ''}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        named = {"quantity": self.limit.quantity, "most": self.limit.value}
        return {**named, "count": self.count, "counted": self.counted, "fits": self.fits}


@dataclass(frozen=True, slots=True)
class Certificate:
    """The parameters of a network, twice.

    Attributes:
        parts: Each part, in order.
        budget: The limits; nothing where there were none.
        counts: Static counts of the whole network, for one image.
        modules_elsewhere: Parameters of the built network that are in none of the parts: 0.
    """

    parts: tuple[CertifiedPart, ...]
    budget: Budget | None
    counts: Counts
    modules_elsewhere: int

    @property
    def total(self) -> CertifiedPart:
        """All parts together, and whatever the built network has beside them."""
        built = sum(part.built for part in self.parts) + self.modules_elsewhere
        return CertifiedPart("total", sum(part.static for part in self.parts), built)

    @property
    def fits(self) -> bool | None:
        """Whether it keeps every limit; nothing where there was none."""
        return None if self.budget is None else all(one.fits for one in self.limits)

    @property
    def limits(self) -> tuple[CertifiedLimit, ...]:
        """Every limit, that on parameters first, with its count."""
        counts = self.counts._replace(params=self.total.built)
        limits = () if self.budget is None else self.budget.limits
        return tuple(CertifiedLimit(limit, limit.count(counts)) for limit in limits)

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
            "budget": None if self.budget is None else self.budget.max_params,
            "limits": [one.to_dict() for one in self.limits],
            "fits": self.fits,
        }


def certify(architecture: Architecture, network: nn.Module, budget: Budget | None) -> Certificate:
    """Return the certificate of `network`, which was built from `architecture`."""
    modules = dict(network.named_children())
    stages = (f"layer{index}" for index in range(1, architecture.num_stages + 1))
    names = [_names(stem(architecture)), *([one] for one in stages), _names(head(architecture))]
    parts = tuple(
        CertifiedPart(part.name, part.counts.params, sum(_trainable(modules[name]) for name in inside))
        for part, inside in zip(count_parts(architecture), names, strict=True)
    )
    elsewhere = _trainable(network) - sum(part.built for part in parts)
    return Certificate(parts, budget, count(architecture), elsewhere)


def _names(path: Iterable[tuple[str, object]]) -> list[str]:
    return [name for name, _ in path]


def _trainable(module: nn.Module) -> int:
    return sum(one.numel() for one in module.parameters() if one.requires_grad)
