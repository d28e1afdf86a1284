"""The certificate of parameters: the static count and the built network's count, part by part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from budgetnas.architecture import Architecture, Counts, count, count_parts, head, stem
from budgetnas.architecture.budget import Budget, Limit, kib_note
from budgetnas.errors import BudgetnasError


@dataclass(frozen=True, slots=True)
class CertifiedPart:
    """The parameters of a part, or of the whole network."""

    name: str  # ``stem``, ``stage 1``, ..., ``head``, ``total``
    static: int  # counted from the architecture without building it
    built: int  # trainable parameters of the network with the bundle's weights

    @property
    def equal(self) -> bool:
        """Whether both counts are equal."""
        return self.static == self.built

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"name": self.name, "static": self.static, "built": self.built, "equal": self.equal}


@dataclass(frozen=True, slots=True)
class CertifiedLimit:
    """A limit and the network's count."""

    limit: Limit
    count: int  # for parameters that of the built network; otherwise the static count

    @property
    def fits(self) -> bool:
        """Whether the network is within the limit."""
        return self.count <= self.limit.value

    @property
    def counted(self) -> str:
        """Source of the count: ``built`` or ``static``."""
        return "built" if self.limit.quantity == "params" else "static"

    def sentence(self) -> str:
        """Return the verdict in words."""
        verb, how = "keeps" if self.fits else "BREAKS", " (counted without building it)"
        return (
            f"It {verb} the limit of {self.limit.exact} with {self.count:,}{kib_note(self.limit.quantity, self.count)}"
            f"{how if self.counted == 'static' else ''}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**self.limit.to_dict(), "count": self.count, "counted": self.counted, "fits": self.fits}


@dataclass(frozen=True, slots=True)
class Certificate:
    """The parameters of a network, counted twice."""

    parts: tuple[CertifiedPart, ...]
    budget: Budget | None
    counts: Counts  # static counts of the whole network, for one image
    modules_elsewhere: int  # parameters of the built network that belong to no part; 0 unless something is wrong

    @property
    def total(self) -> CertifiedPart:
        """The whole network, including parameters that belong to no part."""
        built = sum(part.built for part in self.parts) + self.modules_elsewhere
        return CertifiedPart("total", sum(part.static for part in self.parts), built)

    @property
    def fits(self) -> bool | None:
        """Whether the network is within every limit; None without limits."""
        return None if self.budget is None else all(limit.fits for limit in self.limits)

    @property
    def limits(self) -> tuple[CertifiedLimit, ...]:
        """Every limit with its count, that on parameters first."""
        counts = self.counts._replace(params=self.total.built)
        limits = () if self.budget is None else self.budget.limits
        return tuple(CertifiedLimit(limit, limit.count(counts)) for limit in limits)

    def check(self) -> None:
        """Raise `BudgetnasError` if the two counts of a part differ."""
        unequal = [part for part in (*self.parts, self.total) if not part.equal]
        if unequal:
            counts = "; ".join(f"{part.name}: {part.static:,} counted, {part.built:,} built" for part in unequal)
            raise BudgetnasError(f"the parameters of the built network differ from the static count ({counts})")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "parts": [part.to_dict() for part in self.parts],
            "total": self.total.to_dict(),
            "budget": None if self.budget is None else self.budget.max_params,
            "limits": [limit.to_dict() for limit in self.limits],
            "fits": self.fits,
        }


def certify(architecture: Architecture, network: nn.Module, budget: Budget | None) -> Certificate:
    """Return the certificate of a network built from `architecture`."""
    modules = dict(network.named_children())
    stages = (f"layer{index}" for index in range(1, architecture.num_stages + 1))
    names = [_names(stem(architecture)), *([stage] for stage in stages), _names(head(architecture))]
    parts = tuple(
        CertifiedPart(part.name, part.counts.params, sum(_trainable(modules[name]) for name in inside))
        for part, inside in zip(count_parts(architecture), names, strict=True)
    )
    elsewhere = _trainable(network) - sum(part.built for part in parts)
    return Certificate(parts, budget, count(architecture), elsewhere)


def _names(path: Iterable[tuple[str, object]]) -> list[str]:
    return [name for name, _ in path]


def _trainable(module: nn.Module) -> int:
    return sum(tensor.numel() for tensor in module.parameters() if tensor.requires_grad)
