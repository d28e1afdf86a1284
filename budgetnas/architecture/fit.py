"""The networks within a budget that are nearest to a given one.

Near is: few edits, and with as many edits as much kept of the multiply-accumulates and of the parameters as can be.
One network beats another if it takes no more edits and keeps as much of both, and is better in one of the three; what
nothing beats is the front. A difference of one per cent of the given network is none, so that no edit is made for next
to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from typing import Final

from budgetnas.architecture import NAMES, Architecture, Counts, count, named
from budgetnas.architecture.budget import Budget, format_count
from budgetnas.architecture.edits import (
    WIDTH_STEP,
    Cap,
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

MOST_EDITS: Final = 2
"""Edits that are combined; three, of all stages together, where two do not do."""
TOLERANCE: Final = 0.01
"""Of what the given network has: so much more is no reason for a further edit, or for giving up something else."""
_PER_OCTAVE: Final = 4
_PERCENT_STEP: Final = 5


@dataclass(frozen=True, slots=True)
class Near:
    """A network within the budget.

    Attributes:
        edits: What makes it of the given one, in order; none if that one fits.
        architecture: What it is.
        counts: What it costs.
        name: Its name, if it has one.
        beaten: Whether another network within the budget is nearer in all respects.
    """

    edits: tuple[Edit, ...]
    architecture: Architecture
    counts: Counts
    name: str | None
    beaten: bool


def nearest(network: Architecture, budget: Budget) -> tuple[Near, ...]:
    """Return networks within `budget` that are near to `network`.

    First the front; if `network` fits, that is itself, with no edits. Then what is beaten, to compare with: for each
    kind of edit that makes it fit alone the one that takes least, and the networks with a name that such edits come to.
    Both with the fewest edits first, then with the most kept.

    Raises:
        InputError: If no edits make it fit.
    """
    found = _fitting(network, budget)
    if not found:
        raise _nothing_fits(network, budget)
    known = _named_edits(network, budget)
    every = {one: edits for one, (_, edits) in known.items()} | found
    merits = {one: _Merits(len(edits), count(one)) for one, edits in every.items()}
    tolerance = Counts(*(int(TOLERANCE * one) for one in count(network)))
    near = []
    for one, edits in every.items():
        beaten = any(other.beats(merits[one], tolerance) for other in merits.values())
        if not beaten or len(edits) == 1 or one in known:
            name = known[one][0] if one in known else None
            near.append(Near(edits, one, merits[one].counts, name, beaten))
    return tuple(sorted(near, key=lambda one: (one.beaten, len(one.edits), -one.counts.macs, -one.counts.params)))


@dataclass(frozen=True, slots=True)
class _Merits:
    """What networks are compared by."""

    edits: int
    counts: Counts

    def beats(self, other: _Merits, tolerance: Counts) -> bool:
        """Return whether this takes no more edits and keeps as much, and is better in one of the three."""
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
    """Return networks that fit with the fewest edits that make each, from which the front is taken."""
    if budget.fits(network):
        return {network: ()}
    search = _Search(network, budget)
    found: dict[Architecture, tuple[Edit, ...]] = {}
    for most in range(1, MOST_EDITS + 1):
        for families in combinations(search.families, most):
            search.note(families, found)
    if not found:
        for families in combinations(search.common, MOST_EDITS + 1):
            search.note(families, found)
    return found


@dataclass(frozen=True, slots=True)
class _Family:
    """One kind of edit, of one stage or of all.

    Attributes:
        settings: Every way to make it, the one that takes least first.
        coarse: Some of them, for combinations.
    """

    settings: tuple[Edit, ...]
    coarse: tuple[Edit, ...]


class _Search:
    """Families of edits of one network, in the order in which edits are made."""

    def __init__(self, network: Architecture, budget: Budget) -> None:
        self._network, self._budget = network, budget
        stages = range(1, network.num_stages + 1)
        use_stages = tuple(UseStages(to) for to in range(network.num_stages - 1, 0, -1))
        use = _Family(use_stages, use_stages)
        shorten = [_shorter(network.blocks[stage - 1], partial(Shorten, stage)) for stage in stages]
        shorten_all = _shorter(max(network.blocks), ShortenAll)
        narrow = [_narrower(network.widths[stage - 1], partial(Narrow, stage)) for stage in stages]
        cap = _narrower(max(network.widths), Cap)
        factors = tuple(NarrowAll(percent) for percent in range(99, 0, -1))
        narrow_all = _Family(factors, tuple(one for one in factors if one.percent % _PERCENT_STEP == 0))
        self.families = tuple(one for one in (use, *shorten, shorten_all, *narrow, cap, narrow_all) if one.settings)
        self.common = tuple(one for one in (use, shorten_all, cap, narrow_all) if one.settings)

    def note(self, families: Sequence[_Family], found: dict[Architecture, tuple[Edit, ...]]) -> None:
        """Note the networks that one edit of each family makes fit.

        One of the edits takes as little as it can: one step less, and the network is over the budget. The others have
        each of their coarse settings.
        """
        for free in range(len(families)):
            others = [families[at].coarse for at in range(len(families)) if at != free]
            for chosen in product(*others):
                edits = self._completed(chosen[:free], families[free].settings, chosen[free:])
                if edits is None:
                    continue
                architecture = apply(edits, self._network)
                found.setdefault(architecture, edits)

    def _completed(
        self, before: tuple[Edit, ...], settings: Sequence[Edit], after: tuple[Edit, ...]
    ) -> tuple[Edit, ...] | None:
        """Return the edits with the first of `settings` that makes the network fit; nothing if none can or must."""
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
        """Return whether each edit changes what it is made on, and the result is not had without it."""
        result, now = apply(edits, self._network), self._network
        for at, edit in enumerate(edits):
            after = edit.apply(now)
            if after == now or apply((*edits[:at], *edits[at + 1 :]), self._network) == result:
                return False
            now = after
        return True


def _shorter(blocks: int, edit: Callable[[int], Edit]) -> _Family:
    """Return the family of edits that leave 1 to `blocks` - 1 blocks."""
    some = set(_coarse(blocks))
    return _Family(
        tuple(edit(to) for to in range(blocks - 1, 0, -1)),
        tuple(edit(to) for to in range(blocks - 1, 0, -1) if to in some),
    )


def _narrower(width: int, edit: Callable[[int], Edit]) -> _Family:
    """Return the family of edits to a multiple of 8 below `width`."""
    steps = range((width - 1) // WIDTH_STEP, 0, -1)
    some = set(_coarse(width // WIDTH_STEP + 1))
    return _Family(
        tuple(edit(to * WIDTH_STEP) for to in steps), tuple(edit(to * WIDTH_STEP) for to in steps if to in some)
    )


def _coarse(most: int) -> Iterator[int]:
    """Return numbers below `most`: 1 to 8, then four to an octave: 10, 12, 14, 16, 20, ..."""
    value = 1
    while value < most:
        yield value
        value += max(1, 2 ** (value.bit_length() - 1) // _PER_OCTAVE)


def _named_edits(network: Architecture, budget: Budget) -> dict[Architecture, tuple[str, tuple[Edit, ...]]]:
    """Return the networks with a name that edits of `network` come to and that fit."""
    found = {}
    for name in NAMES:
        one = named(name, in_channels=network.in_channels, size=network.size, classes=network.classes)
        edits = edits_to(one, network)
        if edits is not None and budget.fits(one):
            found[one] = name, edits
    return found


def _nothing_fits(network: Architecture, budget: Budget) -> InputError:
    smallest = apply((UseStages(1), ShortenAll(1), NarrowAll(1)), network)
    excesses = budget.excesses(count(smallest))
    limits = {limit.quantity: limit for limit in budget.limits}
    has = ", ".join(f"{one.count:,} {limits[one.quantity].words}" for one in excesses)
    first = limits[excesses[0].quantity]
    allow = " and ".join(f"{limits[one.quantity].flag} {one.count:,}" for one in excesses)
    return InputError(
        first.flag,
        format_count(first.value),
        f"no edits make it fit: the smallest network they come to ({smallest.describe()}) has {has}",
        f"allow at least {allow}, or begin with a smaller network",
    )
