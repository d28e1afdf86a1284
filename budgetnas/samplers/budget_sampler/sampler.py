"""The sampler: a design to learn from, then the training that is worth most, repeats among them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial

from budgetnas.samplers.budget_sampler.acquisition import knowledge_gradient, most_informative
from budgetnas.samplers.budget_sampler.encoding import Encoding, Floats
from budgetnas.samplers.budget_sampler.observed import Observed, is_complete, observe, with_expected
from budgetnas.samplers.budget_sampler.pool import Key, Pool, key_of
from budgetnas.samplers.budget_sampler.ranges import Condition, Params, Ranges
from budgetnas.samplers.budget_sampler.surrogate import Posterior, TermPrior, posterior, prior_scales
from budgetnas.samplers.budget_sampler.terms import Terms, cost_direction

_DIRECTION_DRAWS: Final = 500
_DESIGN_CHOICE: Final = 300
_DESIGN_PER_TERM: Final = 2
_DESIGN_SHARE: Final = 0.4
_FEWEST: Final = 3
_CHOICE: Final = 60
_HOPEFUL_AMONG: Final = 600
_BEAM: Final = 5
_STEPS: Final = 10
_SCALES: Final = prior_scales()


class BudgetSampler(BaseSampler):
    """Searches under a hard limit on something that is known before training, with few noisy trainings.

    For studies with one objective, in which the trainings of a candidate differ about as much as good candidates differ
    from each other. The first trainings are spread so that they leave the least uncertain of all candidates within the
    limit (a Bayesian I-optimal design). Each later one is the training that is worth most for finding the least
    expected value (the knowledge gradient); where that is of a candidate that was trained before, it is proposed again
    with equal parameters, and the objective should train it with another seed. At the end `recommend` names the one to
    take.

    Every proposal keeps the limit. Parameters that only some candidates have are proposed together with the others
    where `conditions` tells which have them; else they are drawn evenly, and `cost` must not depend on them. What is
    known of parameters is: which direction costs more, and that sizes act by their ratio. The method, and what was
    tried and failed, is in ``docs/decisions/0029-a-sampler-for-budgets.md``.

    Args:
        n_trainings: Trainings that the study will have in all, repeats included; more may follow.
        cost: Cost of a candidate: given its parameters, a number. It must be cheap: it is asked thousands of times.
        limit: The most that the cost may be; equal to it is within the limit.
        search_space: The parameters. Without it they are those that all trials so far have had; the first trial, of
            which nothing is known, then takes the lowest value of each range.
        conditions: Of each parameter in `search_space` that only some candidates have: the name of another one, and
            the values of that with which it exists.
        seed: Seed of its draws.

    Raises:
        ValueError: If `n_trainings` is less than 1, or a condition is about a parameter outside of `search_space`.

    Example:
        ::

            sampler = BudgetSampler(n_trainings=50, cost=parameters_of, limit=5_000_000)
            study = optuna.create_study(direction="maximize", sampler=sampler)
            study.optimize(objective, n_trials=50)
            print(sampler.recommend(study).params)
    """

    def __init__(
        self,
        *,
        n_trainings: int,
        cost: Callable[[Params], float],
        limit: float,
        search_space: Mapping[str, BaseDistribution] | None = None,
        conditions: Mapping[str, Condition] | None = None,
        seed: int | None = None,
    ) -> None:
        if n_trainings < 1:
            raise ValueError(f"n_trainings {n_trainings!r} must be at least 1")
        self._n_trainings = n_trainings
        self._cost = cost
        self._limit = limit
        given = Ranges(dict(search_space or {}), dict(conditions or {}))
        self._ranges = None if search_space is None else given
        self._common = IntersectionSearchSpace()
        self._random = random.Random(seed)
        self._even = RandomSampler(seed=seed)
        self._ground: _Ground | None = None
        self._repeated: dict[int, Params] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that are proposed together."""
        return dict(self._common.calculate(study) if self._ranges is None else self._ranges.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the candidate to train next.

        Raises:
            ValueError: If the study has several objectives.
            NothingFitsError: If no candidate within the limit is found.
        """
        self._raise_error_if_multi_objective(study)
        if all(one.single() for one in search_space.values()):
            return {}
        ranges = self._ranges or Ranges(search_space)
        ground = self._on(ranges, study)
        seen = observe(study, ranges, but=trial.number)
        if len(seen) < _FEWEST or len(seen) + len(seen.waiting) < self._design_size(ground):
            return self._next_of_design(ground, seen)
        chosen = self._worth_most(ground, seen)
        self._repeated[trial.number] = chosen
        return ground.ranges.of(chosen)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a value for what no proposal holds: that of a repeated candidate, the lowest at first, or any."""
        self._raise_error_if_multi_objective(study)
        repeated = self._repeated.get(trial.number, {})
        if param_name in repeated and param_distribution._contains(
            param_distribution.to_internal_repr(repeated[param_name])
        ):
            return repeated[param_name]
        if not self.infer_relative_search_space(study, trial) and hasattr(param_distribution, "low"):
            return param_distribution.low
        return self._even.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Seed anew, as parallel workers must."""
        self._random.seed()
        self._even.reseed_rng()

    def recommend(self, study: Study) -> FrozenTrial:
        """Return the trial whose candidate to take: of all that were trained, the one that is believed to be best.

        A candidate's trainings count by how many they are, and beside them counts what candidates like it came to: a
        single lucky training is not enough. Whichever sampler made the study, it can be asked.

        Returns:
            The first complete trial of that candidate.

        Raises:
            ValueError: If no trial within the limit is complete.
        """
        ranges = self._ranges or Ranges(IntersectionSearchSpace().calculate(study))
        complete = [one for one in study.get_trials(deepcopy=False) if is_complete(one)]
        trials = [one for one in complete if ranges.complete(one.params)]
        within = [one for one in trials if self._cost(ranges.of(one.params)) <= self._limit]
        if not within:
            raise ValueError(f"study {study.study_name!r} has no complete trial within the limit {self._limit:g}")
        seen = observe(study, ranges)
        expected = _believe(self._on(ranges, study), seen).trained()
        place = {key_of(candidate): index for index, candidate in enumerate(seen.candidates)}
        return min(within, key=lambda one: (expected[place[key_of(one.params)]], one.number))

    def _on(self, ranges: Ranges, study: Study) -> _Ground:
        """Return what a proposal stands on, made anew where other parameters have turned up."""
        trials = study.get_trials(deepcopy=False)
        everything = {name: one for trial in trials for name, one in trial.distributions.items()}
        everything |= ranges.distributions
        if self._ground is None or self._ground.ranges != ranges or self._ground.everything.keys() != everything.keys():
            pool = Pool(ranges, self._cost, self._limit, self._random)
            self._ground = _Ground.of(ranges, everything, pool)
        return self._ground

    def _design_size(self, ground: _Ground) -> int:
        """Return how many trainings the design has: two for each coefficient of a linear regression, if that many."""
        return min(_DESIGN_PER_TERM * (1 + ground.encoding.columns), int(_DESIGN_SHARE * self._n_trainings))

    def _next_of_design(self, ground: _Ground, seen: Observed) -> Params:
        trained = [seen.candidates[index] for index in seen.which]
        known = ground.rows([*trained, *seen.waiting])
        number = min(_DESIGN_CHOICE, len(ground.drawn))
        some, others = (self._random.sample(range(len(ground.drawn)), number) for _ in range(2))
        rows = ground.drawn_rows
        prior = TermPrior.of(ground.terms.groups())
        return ground.drawn[some[most_informative(rows[some], known, rows[others], prior)]]

    def _worth_most(self, ground: _Ground, seen: Observed) -> Params:
        believed = _believe(ground, seen)
        if seen.waiting:  # what is trained elsewhere at this moment is taken to turn out as expected
            seen = with_expected(seen, believed.untrained(ground.rows(seen.waiting)))
            believed = _believe(ground, seen)
        others = self._untrained(ground, seen, believed)
        candidates = [*seen.candidates, *others]
        within = [index for index, one in enumerate(candidates) if ground.pool.fits(ground.ranges.of(one))]
        gain = knowledge_gradient(believed.joint(ground.rows(others)).of(within), self._n_trainings - len(seen))
        return candidates[within[int(np.argmax(gain))]]

    def _untrained(self, ground: _Ground, seen: Observed, believed: Posterior) -> list[Params]:
        """Return candidates to choose from: those expected to be the best, and some of those that may be yet."""
        known = {key_of(ground.ranges.of(one)) for one in seen.candidates}
        climbed = self._climbed(ground, seen, believed)
        fresh = [one for key, one in climbed.items() if key not in known and key not in ground.keys]
        old = [index for key, index in ground.keys.items() if key not in known]
        left = [*fresh, *(ground.drawn[index] for index in old)]
        rows = np.concatenate([ground.rows(fresh), ground.drawn_rows[old]])
        expected = believed.untrained(rows)
        some = np.array(self._random.sample(range(len(left)), min(_HOPEFUL_AMONG, len(left))), dtype=np.intp)
        hopeful = some[np.argsort(expected[some] - believed.spread(rows[some]))[:_CHOICE]]
        chosen = np.unique(np.concatenate([np.argsort(expected)[:_CHOICE], hopeful]))
        return [left[index] for index in chosen]

    def _climbed(self, ground: _Ground, seen: Observed, believed: Posterior) -> dict[Key, Params]:
        """Return candidates on the way to better ones: from the best, always on to the best that is near."""
        drawn = np.argsort(believed.untrained(ground.drawn_rows))[:_BEAM]
        trained = np.argsort(believed.trained())[:_BEAM]
        starts = [*(ground.drawn[index] for index in drawn), *(seen.candidates[index] for index in trained)]
        reached = {key_of(one): one for one in map(ground.ranges.of, starts)}
        expected = dict(zip(reached, believed.untrained(ground.rows(list(reached.values()))), strict=True))
        left_from: set[Key] = set()
        for _ in range(_STEPS):
            best = [key for key in sorted(expected, key=expected.__getitem__)[:_BEAM] if key not in left_from]
            if not best:
                break
            left_from.update(best)
            near = {key_of(one): one for key in best for one in ground.pool.neighbours(reached[key])}
            new = {key: one for key, one in near.items() if key not in reached}
            reached |= new
            expected |= dict(zip(new, believed.untrained(ground.rows(list(new.values()))), strict=True))
        return reached


@dataclass(frozen=True, slots=True)
class _Ground:
    """What does not change from proposal to proposal.

    Attributes:
        ranges: The parameters that are proposed together.
        everything: These, and those that some trials have beside.
        pool: AugmentationParameters candidates within the limit.
        encoding: Of everything.
        terms: Of the codes.
        drawn: Candidates within the limit.
        drawn_rows: Their terms.
        keys: Their places.
    """

    ranges: Ranges
    everything: dict[str, BaseDistribution]
    pool: Pool
    encoding: Encoding
    terms: Terms
    drawn: list[Params]
    drawn_rows: Floats
    keys: dict[Key, int]

    @classmethod
    def of(cls, ranges: Ranges, everything: dict[str, BaseDistribution], pool: Pool) -> _Ground:
        """Draw candidates, and learn from their costs in which direction each parameter costs more."""
        encoding = Encoding.of(everything)
        evenly = pool.anything(_DIRECTION_DRAWS)
        terms = Terms(cost_direction(encoding.code(evenly), pool.costs(evenly)), encoding.ordered())
        drawn = pool.draw()
        keys = {key_of(one): place for place, one in enumerate(drawn)}
        return cls(ranges, everything, pool, encoding, terms, drawn, terms.of(encoding.code(drawn)), keys)

    def rows(self, candidates: Sequence[Params]) -> Floats:
        """Return the terms of candidates."""
        return self.terms.of(self.encoding.code(candidates))


def _believe(ground: _Ground, seen: Observed) -> Posterior:
    return posterior(ground.rows(seen.candidates), ground.terms.groups(), seen.which, seen.values, _SCALES)
