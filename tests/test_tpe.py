"""TPE within a budget. What Optuna does not promise is used there: these tests fail where Optuna changes it."""

from __future__ import annotations

import inspect

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler, TPESampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from budgetnas.architecture import count
from budgetnas.architecture.budget import Budget
from budgetnas.samplers.constraint_filter import ConstraintFilter
from budgetnas.samplers.distributions import distribution
from budgetnas.samplers.tpe import DOUBLINGS, BudgetTPE, fits_within
from budgetnas.searching.trial import suggest_candidate
from budgetnas.space.candidates import CandidateSpace
from budgetnas.space.ranges import Params
from budgetnas.space.recipe import RecipeSpace
from budgetnas.space.search_space import InputShape, SearchSpace

optuna.logging.set_verbosity(optuna.logging.ERROR)
SPACE = CandidateSpace(SearchSpace(), RecipeSpace(), InputShape(in_channels=3, size=32, classes=10))
JOINT = {name: distribution(SPACE.ranges()[name]) for name in (*SPACE.space.ranges(), "optimizer")}
CANDIDATES_RANKED = 24
STARTUP = 10


def proposals(sampler: BaseSampler, trials: int) -> list[Params]:
    """The architectures that a sampler proposes without a gate, after random trials to start from."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=3))
    found: list[Params] = []
    for number in range(STARTUP + trials):
        study.sampler = optuna.samplers.RandomSampler(seed=number) if number < STARTUP else sampler
        trial = study.ask(fixed_distributions=JOINT)
        study.tell(trial, count(SPACE.space.architecture(trial.params, SPACE.inputs)).macs)
        found.append(trial.params)
    return found[STARTUP:]


def over(found: list[Params], budget: Budget) -> int:
    return sum(not budget.fits(SPACE.space.architecture(one, SPACE.inputs)) for one in found)


def test_optuna_still_has_the_overridden_methods() -> None:
    assert TPESampler()._parzen_estimator_cls is _ParzenEstimator
    assert list(inspect.signature(_ParzenEstimator.sample).parameters) == ["self", "rng", "size"]
    assert list(inspect.signature(_ParzenEstimator.__init__).parameters)[1:3] == ["observations", "search_space"]
    assert list(inspect.signature(optuna.Study._get_trials).parameters) == ["self", "deepcopy", "states", "use_cache"]


def test_proposals_fit_although_larger_candidates_would_be_better() -> None:
    budget = Budget(1_000_000)
    assert over(proposals(TPESampler(seed=0, multivariate=True), 20), budget) > 10
    assert over(proposals(BudgetTPE(fits_within(SPACE, budget), 0), 20), budget) == 0


def test_where_everything_fits_the_proposals_are_plain_tpe() -> None:
    plain = proposals(TPESampler(seed=0, multivariate=True), 10)
    assert proposals(BudgetTPE(fits_within(SPACE, Budget(10**12)), 0), 10) == plain


def test_draws_of_plain_tpe_that_fit_are_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    ranked: list[list[bool | None]] = []
    budget = Budget(5_000_000)
    fits = fits_within(SPACE, budget)
    plain = TPESampler._compute_acquisition_func

    def spy(self: TPESampler, samples: dict[str, np.ndarray], *densities: object) -> object:
        columns = {name: [JOINT[name].to_external_repr(one.item()) for one in samples[name]] for name in JOINT}
        ranked.append([fits(dict(zip(JOINT, row, strict=True))) for row in zip(*columns.values(), strict=True)])
        return plain(self, samples, *densities)  # type: ignore[arg-type]

    monkeypatch.setattr(TPESampler, "_compute_acquisition_func", spy)
    proposals(BudgetTPE(fits, 0), 20)
    assert all(all(one) for one in ranked)
    assert 1 <= min(map(len, ranked)) < max(map(len, ranked)) <= CANDIDATES_RANKED


def test_where_nothing_fits_the_draws_end_and_something_is_proposed() -> None:
    judged = 0

    def never(params: Params) -> bool:
        nonlocal judged
        judged += 1
        return False

    (found,) = proposals(BudgetTPE(never, 0), 1)
    assert found.keys() == JOINT.keys()
    assert judged == 1 + CANDIDATES_RANKED * (2**DOUBLINGS - 1)


def test_parameters_that_name_no_architecture_are_not_judged() -> None:
    fits = fits_within(SPACE, Budget(1_000_000))
    assert fits({"sgd_learning_rate": 0.1}) is None
    ranges = SPACE.space.ranges()
    assert fits({name: one.values[0] for name, one in ranges.items()}) is True
    assert fits({name: one.values[-1] for name, one in ranges.items()} | {"optimizer": "sgd"}) is False
    three = {name: one.values[0] for name, one in ranges.items() if not name.endswith("_4")}
    assert fits(three) is True
    assert fits(three | {"stages": 4}) is None
    assert fits(three | {"width_3": 37}) == fits(three | {"width_3": 40})


def test_the_trials_are_read_once_for_a_proposal(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0
    plain = InMemoryStorage.get_all_trials

    def counted(self: InMemoryStorage, *arguments: object, **named: object) -> object:
        nonlocal reads
        reads += 1
        return plain(self, *arguments, **named)  # type: ignore[arg-type]

    budget = Budget(5_000_000)
    gate = ConstraintFilter(
        BudgetTPE(fits_within(SPACE, budget), 0), SPACE, budget, known=lambda _: False, reject=lambda _: None, seed=0
    )
    study = optuna.create_study(direction="maximize", sampler=gate)
    for number in range(STARTUP + 5):
        trial = study.ask()
        monkeypatch.setattr(InMemoryStorage, "get_all_trials", counted)
        suggest_candidate(trial, SPACE)
        monkeypatch.undo()
        study.tell(trial, number)
    assert reads == STARTUP + 5


def test_running_trials_of_other_processes_are_considered(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[set[TrialState]] = []
    plain = TPESampler._build_parzen_estimator

    def spy(self: TPESampler, study: object, space: object, trials: list[FrozenTrial], handle_below: bool) -> object:
        if not handle_below:
            heard.append({one.state for one in trials})
        return plain(self, study, space, trials, handle_below)  # type: ignore[arg-type]

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(STARTUP):
        trial = study.ask(fixed_distributions=JOINT)
        study.tell(trial, count(SPACE.space.architecture(trial.params, SPACE.inputs)).macs)
    study.ask(fixed_distributions=JOINT)
    study.sampler = BudgetTPE(fits_within(SPACE, Budget(5_000_000)), 0)
    monkeypatch.setattr(TPESampler, "_build_parzen_estimator", spy)
    study.ask(fixed_distributions=JOINT)
    assert heard[0] == {TrialState.COMPLETE, TrialState.RUNNING}
