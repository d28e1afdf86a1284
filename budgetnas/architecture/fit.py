"""The networks within a budget that are nearest to a given network.

Three criteria decide which network is nearer: fewer edits, more multiply-accumulates kept, more parameters kept. A
network beats (Pareto-dominates) another if it is better in at least one criterion and worse in none. The unbeaten
networks are the Pareto front. Differences below 1 % of the given network do not count, so that no edit is made for a
negligible gain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from typing import Final

from budgetnas.architecture import NAMES, Architecture, Counts, count, named
from budgetnas.architecture.budget import Budget
from budgetnas.architecture.edits import (
    WIDTH_STEP,
    Cap,
    DropSe,
    Edit,
    Narrow,
    NarrowAll,
    Shorten,
    ShortenAll,
    UseStages,
    apply,
    edits_to,
)
from budgetnas.errors import InputError

MAX_EDITS: Final = 2
"""Largest number of edits combined freely.

If they do not suffice, more edits are combined, but only those that change the whole network.
"""
_SMALLEST: Final = (DropSe(), UseStages(1), ShortenAll(1), NarrowAll(1))
"""The edits that lead to the smallest network."""
TOLERANCE: Final = 0.01
"""Share of the given network's counts below which a difference does not count."""
_PER_OCTAVE: Final = 4
_PERCENT_STEP: Final = 5


@dataclass(frozen=True, slots=True)
class Near:
    """A network within the budget."""

    edits: tuple[Edit, ...]  # the edits of the given network, in order; empty if that network fits
    architecture: Architecture  # the edited network
    counts: Counts
    name: str | None  # its name, or None
    beaten: bool  # whether another network within the budget beats it


def nearest(network: Architecture, budget: Budget) -> tuple[Near, ...]:
    """Return networks within `budget` that are near to `network`.

    The Pareto front comes first; if `network` itself fits, it is the whole front. Beaten networks follow for
    comparison: the smallest sufficient edit of each kind, and the named networks that edits can reach. Both parts are
    sorted by the number of edits, then by the multiply-accumulates and parameters kept.

    Raises:
        InputError: If no edits make it fit.
    """
    fitting = _fitting(network, budget)
    if not fitting:
        raise _nothing_fits(network, budget)
    known = _named_edits(network, budget)
    every = {edited: edits for edited, (_, edits) in known.items()} | fitting
    merits = {edited: _Merits(len(edits), count(edited)) for edited, edits in every.items()}
    tolerance = Counts(*(int(TOLERANCE * amount) for amount in count(network)))
    nearest = []
    for edited, edits in every.items():
        beaten = any(other.beats(merits[edited], tolerance) for other in merits.values())
        if not beaten or len(edits) == 1 or edited in known:
            name = known[edited][0] if edited in known else None
            nearest.append(Near(edits, edited, merits[edited].counts, name, beaten))
    return tuple(
        sorted(nearest, key=lambda near: (near.beaten, len(near.edits), -near.counts.macs, -near.counts.params))
    )


@dataclass(frozen=True, slots=True)
class _Merits:
    """The three criteria by which networks are compared."""

    edits: int
    counts: Counts

    def beats(self, other: _Merits, tolerance: Counts) -> bool:
        """Return whether this is better in at least one criterion and worse in none."""
        macs, params = self.counts.macs - other.counts.macs, self.counts.params - other.counts.params
        if self.edits > other.edits or macs < -tolerance.macs or params < -tolerance.params:
            return False
        return (
            self.edits < other.edits
            or macs > tolerance.macs
            or params > tolerance.params
            or (min(macs, params) >= 0 and max(macs, params) > 0)
        )


def _fitting(network: Architecture, budget: Budget) -> dict[Architecture, tuple[Edit, ...]]:
    """Return networks that fit, each with the fewest edits that lead to it."""
    if budget.fits(network):
        return {network: ()}
    search = _Search(network, budget)
    fitting: dict[Architecture, tuple[Edit, ...]] = {}
    for number in range(1, MAX_EDITS + 1):
        for families in combinations(search.families, number):
            search.add(families, fitting)
    for number in range(MAX_EDITS + 1, len(_SMALLEST) + network.se):
        if not fitting:
            for families in combinations(search.common, number):
                search.add(families, fitting)
    return fitting


@dataclass(frozen=True, slots=True)
class _Family:
    """A kind of edit, of a single stage or of all."""

    settings: tuple[Edit, ...]  # all settings of the edit, the smallest change first
    coarse: tuple[Edit, ...]  # a subset of them, for combinations


class _Search:
    """Families of edits of a network, in the order in which edits are applied."""

    def __init__(self, network: Architecture, budget: Budget) -> None:
        self._network, self._budget = network, budget
        stages = range(1, network.num_stages + 1)
        use_stages = tuple(UseStages(to) for to in range(network.num_stages - 1, 0, -1))
        use = _Family(use_stages, use_stages)
        drop_se = _Family((DropSe(),), (DropSe(),)) if network.se else _Family((), ())
        shorten = [_shorter(network.blocks[stage - 1], partial(Shorten, stage)) for stage in stages]
        shorten_all = _shorter(max(network.blocks), ShortenAll)
        narrow = [_narrower(network.widths[stage - 1], partial(Narrow, stage)) for stage in stages]
        cap = _narrower(max(network.widths), Cap)
        factors = tuple(NarrowAll(percent) for percent in range(99, 0, -1))
        narrow_all = _Family(factors, tuple(factor for factor in factors if factor.percent % _PERCENT_STEP == 0))
        families = (drop_se, use, *shorten, shorten_all, *narrow, cap, narrow_all)
        self.families = tuple(family for family in families if family.settings)
        self.common = tuple(family for family in (drop_se, use, shorten_all, cap, narrow_all) if family.settings)

    def add(self, families: Sequence[_Family], fitting: dict[Architecture, tuple[Edit, ...]]) -> None:
        """Add the networks that fit after one edit of each family.

        Each family in turn is the free family. The other families try all combinations of their coarse settings. The
        free family then takes its smallest setting with which the network fits.
        """
        for free in range(len(families)):
            others = [families[at].coarse for at in range(len(families)) if at != free]
            for chosen in product(*others):
                edits = self._completed(chosen[:free], families[free].settings, chosen[free:])
                if edits is None:
                    continue
                fitting.setdefault(apply(edits, self._network), edits)

    def _completed(
        self, before: tuple[Edit, ...], settings: Sequence[Edit], after: tuple[Edit, ...]
    ) -> tuple[Edit, ...] | None:
        """Return the edits with the smallest of `settings` that fits; None if none fits or no setting is needed."""
        start = apply(before, self._network)
        if self._budget.fits(apply(after, start)) or not self._budget.fits(apply((settings[-1], *after), start)):
            return None
        over, fits = -1, len(settings) - 1
        while fits - over > 1:
            middle = (over + fits) // 2
            if self._budget.fits(apply((settings[middle], *after), start)):
                fits = middle
            else:
                over = middle
        edits = (*before, settings[fits], *after)
        return edits if self._all_matter(edits) else None

    def _all_matter(self, edits: tuple[Edit, ...]) -> bool:
        """Return whether each edit changes the network, and the result differs without it."""
        result, now = apply(edits, self._network), self._network
        for at, edit in enumerate(edits):
            after = edit.apply(now)
            if after == now or apply((*edits[:at], *edits[at + 1 :]), self._network) == result:
                return False
            now = after
        return True


def _shorter(blocks: int, edit: Callable[[int], Edit]) -> _Family:
    """Return the family of edits that leave 1 to `blocks` - 1 blocks."""
    coarse = set(_coarse(blocks))
    return _Family(
        tuple(edit(to) for to in range(blocks - 1, 0, -1)),
        tuple(edit(to) for to in range(blocks - 1, 0, -1) if to in coarse),
    )


def _narrower(width: int, edit: Callable[[int], Edit]) -> _Family:
    """Return the family of edits to a multiple of 8 below `width`."""
    steps = range((width - 1) // WIDTH_STEP, 0, -1)
    coarse = set(_coarse(width // WIDTH_STEP + 1))
    return _Family(
        tuple(edit(to * WIDTH_STEP) for to in steps), tuple(edit(to * WIDTH_STEP) for to in steps if to in coarse)
    )


def _coarse(end: int) -> Iterator[int]:
    """Yield numbers below `end`: 1 to 8, then four per octave: 10, 12, 14, 16, 20, ..."""
    value = 1
    while value < end:
        yield value
        value += max(1, 2 ** (value.bit_length() - 1) // _PER_OCTAVE)


def _named_edits(network: Architecture, budget: Budget) -> dict[Architecture, tuple[str, tuple[Edit, ...]]]:
    """Return the networks with a name that fit and that edits of `network` lead to."""
    networks = {}
    for name in NAMES:
        target = named(name, in_channels=network.in_channels, size=network.size, classes=network.classes)
        edits = edits_to(target, network)
        if edits is not None and budget.fits(target):
            networks[target] = name, edits
    return networks


def _nothing_fits(network: Architecture, budget: Budget) -> InputError:
    smallest = apply(_SMALLEST, network)
    excesses = budget.excesses(count(smallest))
    has = ", ".join(excess.counted for excess in excesses)
    allow = " and ".join(f"{excess.flag} {excess.needed}" for excess in excesses)
    return InputError(
        excesses[0].flag,
        excesses[0].asked,
        f"no edits make it fit: the smallest network that they lead to ({smallest.describe()}) has {has}",
        f"allow at least {allow}, or start from a smaller network",
    )
