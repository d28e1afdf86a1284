"""The sampler: first a design to learn from, then the most valuable training, which may repeat a candidate."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from budgetnas.samplers.budget_sampler.acquisition import knowledge_gradient, most_informative, naming_gradient
from budgetnas.samplers.budget_sampler.encoding import Condition, Encoding, Floats, Params, Ranges
from budgetnas.samplers.budget_sampler.model import ValueModel
from budgetnas.samplers.budget_sampler.observed import (
    Key,
    Observed,
    Training,
    key_of,
    observe,
    trainings_of,
)
from budgetnas.samplers.budget_sampler.pool import Pool
from budgetnas.samplers.budget_sampler.surrogate import Posterior, TermPrior
from budgetnas.samplers.budget_sampler.winner import expected_values

_DESIGN_CHOICE: Final = 300
_DESIGN_PER_TERM: Final = 2
_DESIGN_SHARE: Final = 0.4
_FEWEST: Final = 3
_CHOICE: Final = 60
_TRAINED: Final = 120
_OPTIMISTIC_AMONG: Final = 600
_BEAM: Final = 5
_STEPS: Final = 10


class BudgetSampler(BaseSampler):
    """Searches under a hard limit on a cost that is known before training, with few noisy trainings.

    For studies with a single objective in which two trainings of a candidate differ about as much as good candidates
    differ from each other. The first trainings are a Bayesian I-optimal design: they leave the least uncertainty about
    all plausible candidates within the limit. Parameters that do not change the size, such as rates, are expected to be
    best inside their ranges. Each later training is the most valuable for finding the candidate with the lowest
    expected value (the knowledge gradient). If that candidate was trained before, it is proposed again with equal
    parameters, and the objective should train it with another seed. A training that failed counts as a very bad one.
    `recommend` names the winner.

    Every proposal is within the limit. Parameters that only some candidates have are proposed together with the others
    if `conditions` declares them; otherwise they are drawn evenly, and `cost` must not depend on them. The method, and
    what was tried and failed, is in ``docs/decisions``: ``0029-a-sampler-for-budgets.md`` and
    ``0058-rates-inside-their-ranges.md``.

    Args:
        n_trainings: Number of trainings planned in total, including repeats; the study may continue beyond it. Or a
            function that returns the number, called before each proposal, if it depends on the time that is left.
        cost: Cost of a candidate, given its parameters. It is called thousands of times, so it must be cheap.
        limit: Highest cost allowed.
        search_space: The parameters; by default those that all previous trials have. The first trial of a study then
            takes the lowest value of each range. If it fails, the next are drawn evenly until a trial is complete, and
            may exceed the limit.
        conditions: For each parameter in `search_space` that only some candidates have: the name of another parameter,
            and the values of that parameter for which it exists.
        seed: Seed of the draws.
        size: Size of a candidate, which its value is expected to follow; by default its cost. Give it if the cost is
            the largest of several shares: that hides parameters that change only the others.

    Raises:
        ValueError: If `n_trainings` is less than 1, or a condition names a parameter outside `search_space`.

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
        n_trainings: int | Callable[[], int],
        cost: Callable[[Params], float],
        limit: float,
        search_space: Mapping[str, BaseDistribution] | None = None,
        conditions: Mapping[str, Condition] | None = None,
        seed: int | None = None,
        size: Callable[[Params], float] | None = None,
    ) -> None:
        if isinstance(n_trainings, int) and n_trainings < 1:
            raise ValueError(f"n_trainings {n_trainings!r} must be at least 1")
        self._n_trainings = n_trainings if callable(n_trainings) else lambda: n_trainings
        self._cost = cost
        self._size = size or cost
        self._limit = limit
        given = Ranges(dict(search_space or {}), dict(conditions or {}))
        self._ranges = None if search_space is None else given
        self._common = IntersectionSearchSpace()
        self._random = random.Random(seed)
        self._even = RandomSampler(seed=seed)
        self._domain: _Domain | None = None
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
        if all(distribution.single() for distribution in search_space.values()):
            return {}
        domain = self._domain_of(self._ranges or Ranges(search_space), study)
        observed = observe(study, domain.ranges, domain.fits, except_trial=trial.number)
        if observed.complete_trainings < _FEWEST or len(observed) + len(observed.waiting) < self._design_size(domain):
            return self._next_of_design(domain, observed)
        chosen = self._most_valuable(domain, observed)
        self._repeated[trial.number] = chosen
        return domain.ranges.of(chosen)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a value for a parameter outside the proposal: the repeated candidate's, or a draw.

        Without a search space, the first trial takes the lowest value of each range, unless that was tried and failed.
        """
        self._raise_error_if_multi_objective(study)
        repeated = self._repeated.get(trial.number, {})
        if param_name in repeated and param_distribution._contains(
            param_distribution.to_internal_repr(repeated[param_name])
        ):
            return repeated[param_name]
        if hasattr(param_distribution, "low") and not self.infer_relative_search_space(study, trial):
            failed = study.get_trials(deepcopy=False, states=[TrialState.FAIL])
            if not any(param_name in other.params for other in failed):
                return param_distribution.low
        return self._even.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Reseed, as parallel workers must."""
        self._random.seed()
        self._even.reseed_rng()

    def recommend(self, study: Study) -> FrozenTrial:
        """Return the winner: the trial whose candidate has the best expected value of all trained candidates.

        The estimate combines all trainings of the candidate with those of similar candidates, so a single lucky
        training does not win (see `winner.py`). Studies of any sampler can be passed.

        Returns:
            The first complete trial of that candidate.

        Raises:
            ValueError: If no trial within the limit is complete.
        """
        ranges = self._ranges or Ranges(IntersectionSearchSpace().calculate(study))
        trials = [trial for trial in study.get_trials(deepcopy=False) if ranges.complete(trial.params)]
        costs = {
            trial.number: self._cost(ranges.of(trial.params))
            for trial in trials
            if trial.state is TrialState.COMPLETE and math.isfinite(trial.value or 0.0)
        }
        within = [trial for trial in trials if costs.get(trial.number, np.inf) <= self._limit]
        if not within:
            raise ValueError(f"study {study.study_name!r} has no complete trial within the limit {self._limit:g}")
        expected = self._expected(study, ranges, trainings_of(trials, study.direction))
        return min(within, key=lambda trial: (expected[key_of(trial.params)], costs[trial.number], trial.number))

    def expected(
        self, study: Study, trial: FrozenTrial, curve: Mapping[int, float]
    ) -> tuple[float, tuple[float, ...]] | None:
        """Return the expected values of a running trial's candidate and of all others, by the rule of `recommend`.

        They follow from the study's trials alone, whatever was drawn before.

        Args:
            study: The study.
            trial: The running trial.
            curve: Its results so far, by epoch.

        Returns:
            The values; None while there are too few complete trainings to predict from this epoch.
        """
        ranges = self._ranges or Ranges(IntersectionSearchSpace().calculate(study))
        every = study.get_trials(deepcopy=False)
        trials = [other for other in every if other.number != trial.number and ranges.complete(other.params)]
        sign, key = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0, key_of(trial.params)
        own = Training(trial.params, {epoch: sign * result for epoch, result in curve.items()}, None)
        expected = {
            known: sign * value
            for known, value in self._expected(study, ranges, [*trainings_of(trials, study.direction), own]).items()
        }
        if key not in expected:
            return None
        return expected.pop(key), tuple(expected.values())

    def _expected(self, study: Study, ranges: Ranges, trainings: Sequence[Training]) -> dict[Key, float]:
        encoding = Encoding.of({**_distributions(study), **ranges.distributions})
        return expected_values(trainings, encoding, lambda params: self._cost(ranges.of(params)))

    def _domain_of(self, ranges: Ranges, study: Study) -> _Domain:
        """Return the search domain; it is rebuilt when trials have further parameters."""
        others = _distributions(study)
        names = {*others, *ranges.distributions}
        if self._domain is None or self._domain.ranges != ranges or self._domain.names != names:
            pool = Pool(ranges, self._cost, self._limit, self._random)
            self._domain = _Domain.of(ranges, names, pool, ValueModel.of(ranges, self._size, others, self._random))
        return self._domain

    def _design_size(self, domain: _Domain) -> int:
        """Return the design's number of trainings: two per coefficient of a linear regression, up to a share of all."""
        return min(_DESIGN_PER_TERM * domain.model.coefficients, int(_DESIGN_SHARE * self._n_trainings()))

    def _next_of_design(self, domain: _Domain, observed: Observed) -> Params:
        trained = [observed.candidates[index] for index in observed.which]
        known = domain.model.rows([*trained, *observed.waiting])
        rows, plausible = domain.drawn_rows, self._plausible(domain)
        number = min(_DESIGN_CHOICE, len(plausible))
        choice, others = (self._random.sample(plausible, number) for _ in range(2))
        prior = TermPrior.of(domain.model.terms.groups())
        return domain.drawn[choice[most_informative(rows[choice], known, rows[others], prior)]]

    def _plausible(self, domain: _Domain) -> list[int]:
        """Return the indexes of the drawn candidates that a design chooses from: the half that is expected to be best.

        A design that is smaller than the number of coefficients cannot show what size is worth, so it takes large
        candidates. Ties count, so a larger design chooses from all candidates if every parameter costs something.
        """
        size = self._design_size(domain) < domain.model.coefficients
        expected = domain.drawn_rows @ domain.model.terms.expected_weights(size=size)
        return np.flatnonzero(expected <= np.median(expected)).tolist()

    def _most_valuable(self, domain: _Domain, observed: Observed) -> Params:
        belief = domain.model.posterior(observed)
        if observed.waiting:  # trainings in progress count with their expected results
            observed = observed.with_expected(_expected_of_waiting(domain.model, observed, belief))
            belief = domain.model.posterior(observed)
        untrained, rows = self._untrained(domain, observed, belief)
        within = [index for index, params in enumerate(observed.candidates) if domain.fits(params)]
        trained = np.array(within, dtype=np.intp)
        trained = trained[np.argsort(belief.trained()[trained], kind="stable")[:_TRAINED]]
        complete, left = observed.is_complete()[trained], self._n_trainings() - len(observed)
        if complete.all() or not complete.any():
            gain = knowledge_gradient(belief.joint(trained, rows), left)
        else:
            trained = np.concatenate([trained[complete], trained[~complete]])
            gain = naming_gradient(belief.joint(trained, rows), int(complete.sum()), left)
        best = int(np.argmax(gain))
        return observed.candidates[trained[best]] if best < len(trained) else untrained[best - len(trained)]

    def _untrained(self, domain: _Domain, observed: Observed, belief: Posterior) -> tuple[list[Params], Floats]:
        """Return candidates to choose from, with their terms: the best expected values, and some that are uncertain."""
        known = {key_of(domain.ranges.of(params)) for params in observed.candidates}
        climbed, climbed_rows = self._climbed(domain, observed, belief)
        fresh = [index for index, key in enumerate(climbed) if key not in known and key not in domain.keys]
        left = np.concatenate([np.arange(len(fresh)), len(fresh) + domain.unknown(known)])
        rows = np.concatenate([climbed_rows[fresh], domain.drawn_rows])
        expected = belief.untrained(rows)
        subset = left[self._random.sample(range(len(left)), min(_OPTIMISTIC_AMONG, len(left)))]
        optimistic = subset[np.argsort(expected[subset] - belief.spread(rows[subset]))[:_CHOICE]]
        best = left[np.argsort(expected[left])[:_CHOICE]]
        chosen = np.unique(np.concatenate([best, optimistic]))
        visited = list(climbed.values())
        params = [visited[fresh[index]] for index in chosen if index < len(fresh)]
        params += [domain.drawn[index - len(fresh)] for index in chosen if index >= len(fresh)]
        return params, rows[chosen]

    def _climbed(self, domain: _Domain, observed: Observed, belief: Posterior) -> tuple[dict[Key, Params], Floats]:
        """Return the candidates that a beam search visits, with their terms.

        It starts from the best drawn and trained candidates.
        """
        drawn = np.argsort(belief.untrained(domain.drawn_rows))[:_BEAM]
        trained = np.argsort(belief.trained())[:_BEAM]
        starts = [*(domain.drawn[index] for index in drawn), *(observed.candidates[index] for index in trained)]
        new = {key_of(params): params for params in map(domain.ranges.of, starts)}
        visited: dict[Key, Params] = {}
        expected: dict[Key, float] = {}
        rows: list[Floats] = []
        expanded: set[Key] = set()
        for step in range(_STEPS + 1):
            visited |= new
            rows.append(domain.model.rows(list(new.values())))
            expected |= dict(zip(new, belief.untrained(rows[-1]), strict=True))
            best = [key for key in heapq.nsmallest(_BEAM, expected, expected.__getitem__) if key not in expanded]
            if not best or step == _STEPS:
                break
            expanded.update(best)
            near = {key: params for start in best for key, params in domain.pool.neighbours(visited[start])}
            new = {key: params for key, params in near.items() if key not in visited}
        return visited, np.concatenate(rows)


@dataclass(frozen=True, slots=True)
class _Domain:
    """The state that is kept between proposals."""

    ranges: Ranges  # the parameters that are proposed together
    names: set[str]  # their names, and those of further parameters that some trials have
    pool: Pool  # the source of candidates within the limit
    model: ValueModel
    drawn: list[Params]  # candidates within the limit
    drawn_rows: Floats  # their terms
    keys: dict[Key, int]  # index in `drawn` of each candidate's key

    @classmethod
    def of(cls, ranges: Ranges, names: set[str], pool: Pool, model: ValueModel) -> _Domain:
        """Return the domain with freshly drawn candidates."""
        drawn = pool.draw()
        keys = {key_of(params): index for index, params in enumerate(drawn)}
        return cls(ranges, names, pool, model, drawn, model.rows(drawn), keys)

    def fits(self, params: Params) -> bool:
        """Return whether a candidate is within the limit."""
        return self.pool.fits(self.ranges.of(params))

    def unknown(self, known: Iterable[Key]) -> NDArray[np.intp]:
        """Return the indexes in `drawn` of the candidates that are not in `known`."""
        others = np.ones(len(self.drawn), dtype=bool)
        others[[self.keys[key] for key in known if key in self.keys]] = False
        return np.flatnonzero(others)


def _expected_of_waiting(model: ValueModel, observed: Observed, belief: Posterior) -> list[float]:
    """Return the expected result of each training in progress; a repeat's is that of its candidate."""
    trained = dict(zip(map(key_of, observed.candidates), belief.trained(), strict=True))
    fresh = belief.untrained(model.rows(observed.waiting))
    return [float(trained.get(key_of(params), value)) for params, value in zip(observed.waiting, fresh, strict=True)]


def _distributions(study: Study) -> dict[str, BaseDistribution]:
    """Return the distributions of all parameters of a study's trials."""
    trials: Sequence[FrozenTrial] = study.get_trials(deepcopy=False)
    return {name: distribution for trial in trials for name, distribution in trial.distributions.items()}
