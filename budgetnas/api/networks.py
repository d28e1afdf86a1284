"""Counts of networks, and the nearest networks within a budget, without building any."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, Final, SupportsIndex

from budgetnas.api.wording import python_words
from budgetnas.architecture import Architecture, Counts, Part, count_parts, named, parse_architecture
from budgetnas.architecture import count as count_architecture
from budgetnas.architecture.budget import FLAGS, Budget, Excess, Quantity, parse_budget, parse_limit, plain_limits
from budgetnas.errors import InputError, check_flag

if TYPE_CHECKING:
    from budgetnas.architecture.fit import Near

Stages = str | Sequence[int]
"""A number for each stage: ``(2, 2, 2, 2)`` or ``"2,2,2,2"``."""
LimitValue = int | float | str
"""A limit: ``5_000_000``, ``5e6``, ``"5M"`` or ``"300k"``."""
_OPTIONS: Final[Mapping[Quantity, str]] = {
    "macs": "max_macs",
    "activations": "max_activations",
    "weight_bytes": "max_weights_kb",
    "ram_bytes": "max_ram_kb",
}
"""The arguments that limit counts other than parameters."""
_USUAL_SHAPE: Final[Mapping[str, int]] = {"in_channels": 3, "size": 32, "classes": 10}


@dataclass(frozen=True, slots=True, repr=False)
class Counted:
    """The counts of a network.

    Attributes:
        name: Its name; ``custom`` if it has none.
        architecture: The network.
        budget: The limits that it was compared with, or None.
    """

    name: str
    architecture: Architecture
    budget: Budget | None = None

    def __repr__(self) -> str:
        return f"<Counted {self.name!r}: {self.params:,} parameters, {self.macs:,} multiply-accumulates>"

    @property
    def counts(self) -> Counts:
        """Parameters, multiply-accumulates, activations and bytes."""
        return count_architecture(self.architecture)

    @property
    def params(self) -> int:
        """Trainable parameters."""
        return self.counts.params

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a forward pass, per image."""
        return self.counts.macs

    @property
    def activations(self) -> int:
        """Output elements of all convolutions, per image."""
        return self.counts.activations

    @property
    def weight_bytes(self) -> int:
        """Bytes of its int8 weights, with scales and biases."""
        return self.counts.weight_bytes

    @property
    def ram_bytes(self) -> int:
        """Most bytes of int8 activations alive at once."""
        return self.counts.ram_bytes

    @property
    def parts(self) -> tuple[Part, ...]:
        """Stem, stages and head, each with its counts and output shape."""
        return tuple(count_parts(self.architecture))

    @property
    def fits(self) -> bool | None:
        """Whether it is within the budget; None without a budget."""
        return None if self.budget is None else self.budget.fits(self.architecture)

    @property
    def excesses(self) -> tuple[Excess, ...]:
        """The limits that it exceeds."""
        return () if self.budget is None else self.budget.excesses(self.counts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, as ``budgetnas count --json`` prints them."""
        return {
            "name": self.name,
            **self.counts._asdict(),
            "parts": [{"name": part.name, **part.counts._asdict()} for part in self.parts],
            **plain_limits(self.budget),
            "fits": self.fits,
            "excesses": None if self.budget is None else [excess.to_dict() for excess in self.excesses],
            "architecture": self.architecture.to_dict(),
        }


@python_words()
def count(
    network: str | Architecture | None = None,
    *,
    blocks: Stages | None = None,
    widths: Stages | None = None,
    block: str | None = None,
    strides: Stages | None = None,
    stem_width: int | None = None,
    stem_kernel: int | None = None,
    stem_stride: int | None = None,
    se: bool = False,
    in_channels: int = 3,
    size: int = 32,
    classes: int = 10,
    budget: LimitValue | None = None,
    max_macs: LimitValue | None = None,
    max_activations: LimitValue | None = None,
    max_weights_kb: LimitValue | None = None,
    max_ram_kb: LimitValue | None = None,
) -> Counted:
    """Count the parameters, multiply-accumulates, activations and bytes of a network exactly, without building it.

    Args:
        network: ``v1``, ``v2``, ``resnet18``, ... ``resnet152``, or an `Architecture`; leave it out with `blocks`.
        blocks: Blocks of each stage, e.g. ``(2, 2, 2, 2)``.
        widths: Width of each stage in channels.
        block: ``basic`` or ``bottleneck``, with `blocks`.
        strides: Stride of each stage, with `blocks`; by default 1, then 2.
        stem_width: Channels of the stem.
        stem_kernel: Side of the stem's convolution, in pixels.
        stem_stride: Factor by which the stem reduces the sides of an image: 1, 2 or 4.
        se: Whether every block has squeeze-and-excitation.
        in_channels: Channels of an image. An `Architecture` has its own, like `size` and `classes`.
        size: Side of an image, in pixels.
        classes: Number of classes.
        budget: Limit on parameters, to compare with.
        max_macs: Limit on multiply-accumulates per image.
        max_activations: Limit on activations per image.
        max_weights_kb: Limit on int8 weights, scales and biases, in KB of 1,024 bytes.
        max_ram_kb: Limit on int8 activations alive at once, in KB of 1,024 bytes.

    Returns:
        The counts.

    Raises:
        InputError: If the name is unknown, or a value breaks a rule.
    """
    return _counted(network, {**locals()}, required=False)


@python_words()
def fit(
    network: str | Architecture | None = None,
    *,
    budget: LimitValue | None = None,
    max_macs: LimitValue | None = None,
    max_activations: LimitValue | None = None,
    max_weights_kb: LimitValue | None = None,
    max_ram_kb: LimitValue | None = None,
    blocks: Stages | None = None,
    widths: Stages | None = None,
    block: str | None = None,
    strides: Stages | None = None,
    stem_width: int | None = None,
    stem_kernel: int | None = None,
    stem_stride: int | None = None,
    se: bool = False,
    in_channels: int = 3,
    size: int = 32,
    classes: int = 10,
    top: int = 10,
) -> tuple[Near, ...]:
    """Find the networks within a budget that are nearest to a network over it, by named edits.

    Args:
        network: As in `count`, like all arguments that describe a network.
        budget: Limit on parameters; required.
        max_macs: Limit on multiply-accumulates per image.
        max_activations: Limit on activations per image.
        max_weights_kb: Limit on int8 weights, scales and biases, in KB of 1,024 bytes.
        max_ram_kb: Limit on int8 activations alive at once, in KB of 1,024 bytes.
        blocks: See `count`.
        widths: See `count`.
        block: See `count`.
        strides: See `count`.
        stem_width: See `count`.
        stem_kernel: See `count`.
        stem_stride: See `count`.
        se: See `count`.
        in_channels: See `count`.
        size: See `count`.
        classes: See `count`.
        top: Number of networks to return, in addition to networks with a name.

    Returns:
        The nearest networks, the nearest first: each with its `edits`, `architecture`, `counts` and `name`.

    Raises:
        InputError: If the budget is missing, a value breaks a rule, or no edits make the network fit.
    """
    counted = _counted(network, {**locals()}, required=True)
    assert counted.budget is not None, "it was required"
    return nearest_within(counted.architecture, counted.budget, top)


def nearest_within(network: Architecture, limits: Budget, top: int) -> tuple[Near, ...]:
    """Return the `top` networks within `limits` nearest to `network`, and those with a name.

    Raises:
        InputError: If `top` is below 1, or no edits make the network fit.
    """
    from budgetnas.architecture.fit import nearest

    if not isinstance(top, SupportsIndex) or top < 1:
        raise InputError("--top", top, "must be a whole number of at least 1")
    every = nearest(network, limits)
    return tuple(near for index, near in enumerate(every) if index < top or near.name is not None)


def asked_budget(options: Mapping[str, Any], *, required: bool) -> Budget | None:
    """Return the requested limits, or None.

    Args:
        options: Options of `count` or `fit` by name.
        required: Whether the limit on parameters must be there.

    Raises:
        InputError: If a limit is not a number, or the limit on parameters is missing.
    """
    given = {quantity: options[name] for quantity, name in _OPTIONS.items()}
    values = {f"max_{quantity}": parse_limit(_text(value), quantity) for quantity, value in given.items()}
    if options["budget"] is not None:
        return Budget(parse_budget(options["budget"]), **values)
    for quantity, value in given.items():
        if value is not None:
            raise InputError(FLAGS[quantity], value, "needs --budget, the limit on parameters", "add e.g. --budget 5e6")
    if required:
        rule = "is missing: the limit on parameters"
        raise InputError("--budget", None, rule, "add e.g. --budget 5e6")
    return None


def described(networks: Sequence[str | Architecture], options: Mapping[str, Any]) -> list[tuple[str, Architecture]]:
    """Return the given networks, and ``custom`` if the options of `count` and `fit` describe a network.

    Raises:
        InputError: If a name is unknown or a value is invalid.
    """
    blocks, widths, strides = (_stages(options[name]) for name in ("blocks", "widths", "strides"))
    block, shape = options["block"], {name: _plain(options[name]) for name in ("in_channels", "size", "classes")}
    found = [_named(network, shape) for network in networks]
    if blocks is not None or widths is not None:
        custom = parse_architecture(blocks, widths, strides, block=block or "basic", **shape)
        found.append(("custom", custom))
    elif block is not None or strides is not None:
        argument, value = ("--block", block) if block is not None else ("--strides", strides)
        raise InputError(argument, value, "needs --blocks and --widths instead of a name")
    check_flag("se", options["se"])
    given = {name: _plain(options[name]) for name in ("stem_width", "stem_kernel", "stem_stride")}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    changes |= {"se": True} if options["se"] else {}
    return [(name, replace(architecture, **changes)) for name, architecture in found]


def _named(network: str | Architecture, shape: Mapping[str, int]) -> tuple[str, Architecture]:
    if not isinstance(network, str | Architecture):
        raise InputError("NAME", network, "must be the name of a network, or an Architecture")
    if isinstance(network, Architecture):
        for name, usual in _USUAL_SHAPE.items():
            if shape[name] not in (usual, getattr(network, name)):
                rule = f"differs from that of the Architecture, {getattr(network, name)}"
                raise InputError(name, shape[name], rule, "leave it out, or change it with dataclasses.replace")
    return ("custom", network) if isinstance(network, Architecture) else (network.lower(), named(network, **shape))


def _counted(network: str | Architecture | None, options: Mapping[str, Any], *, required: bool) -> Counted:
    limits = asked_budget(options, required=required)
    networks = described(() if network is None else (network,), options)
    if len(networks) != 1:
        rule = "is missing" if network is None else "cannot be combined with --blocks and --widths"
        raise InputError("NAME", network, rule, 'give a name, e.g. "v2", or --blocks and --widths')
    return Counted(*networks[0], limits)


def _stages(value: Stages | None) -> str | None:
    return ",".join(map(str, value)) if isinstance(value, Iterable) and not isinstance(value, str) else _text(value)


def _plain(value: Any) -> Any:
    """Return a whole number of NumPy as Python's, and any other value as it is."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def _text(value: object) -> str | None:
    return None if value is None else str(value)
