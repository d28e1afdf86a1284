from __future__ import annotations

from collections.abc import Callable, Sequence

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from budgetnas.architecture import count
from budgetnas.architecture.budget import Budget
from budgetnas.samplers.constraint_filter import ConstraintFilter, SpaceUsedUpError
from budgetnas.samplers.named import make_sampler, search_sampler
from budgetnas.samplers.tpe import fits_within
from budgetnas.searching.trial import suggest_candidate
from budgetnas.space.candidates import Candidate, CandidateSpace
from budgetnas.space.recipe import RecipeSpace
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.storage import Rejection

optuna.logging.set_verbosity(optuna.logging.ERROR)
CIFAR = InputShape(in_channels=3, size=32, classes=10)
DEFAULT = CandidateSpace(SearchSpace(), RecipeSpace(), CIFAR)


class Ledger:
    """What a gate turned down, and the candidates it let through."""

    def __init__(self) -> None:
        self.rejections: list[Rejection] = []
        self.calls = 0
        self.accepted: list[Candidate] = []

    def reject(self, rejected: Sequence[Rejection]) -> None:
        self.rejections += rejected
        self.calls += 1

    def known(self, candidate: Candidate) -> bool:
        return candidate in self.accepted


def gated(name: str, space: CandidateSpace, limit: int | Budget, *, knows: bool = False) -> tuple[optuna.Study, Ledger]:
    ledger, budget = Ledger(), limit if isinstance(limit, Budget) else Budget(limit)
    gate = ConstraintFilter(
        make_sampler(name, 1, fits_within(space, budget)),
        space,
        budget,
        known=ledger.known if knows else lambda _: False,
        reject=ledger.reject,
        seed=1,
    )
    return optuna.create_study(direction="maximize", sampler=gate), ledger


def propose(study: optuna.Study, space: CandidateSpace, ledger: Ledger) -> Candidate:
    """Ask for one trial, as the search does, and tell a made-up accuracy that grows with multiply-accumulates."""
    trial = study.ask()
    candidate = suggest_candidate(trial, space)
    ledger.accepted.append(candidate)
    study.tell(trial, count(candidate.architecture).macs / 1e9)
    return candidate


class Inner(optuna.samplers.RandomSampler):
    """A sampler that proposes what a function of the study and the names of the parameters returns."""

    def __init__(self, proposal: Callable[[optuna.Study, set[str]], dict[str, object]]) -> None:
        super().__init__(seed=0)
        self._proposal = proposal

    def sample_relative(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        search_space: dict[str, optuna.distributions.BaseDistribution],
    ) -> dict[str, object]:
        return self._proposal(study, set(search_space))


@pytest.mark.parametrize("limit", [5_000_000, 50_000])
@pytest.mark.parametrize(("name", "proposals"), [("random", 60), ("tpe", 30), ("nsga2", 30)])
def test_no_proposal_is_over_the_budget(name: str, proposals: int, limit: int) -> None:
    study, ledger = gated(name, DEFAULT, limit)
    for _ in range(proposals):
        assert count(propose(study, DEFAULT, ledger).architecture).params <= limit
    assert len(study.trials) == proposals, "a rejected proposal uses up no trial"
    assert ledger.calls == proposals, "rejections are written once for each trial"
    assert ledger.rejections
    for one in ledger.rejections:
        assert one.overshoot == count(one.architecture).params - limit > 0
        assert one.max_params == limit
        assert not one.duplicate


THREE = Budget(1_000_000, 120_000_000, 350_000)
CHIP = Budget(80_000, max_weight_bytes=71 << 10, max_ram_bytes=56 << 10)


@pytest.mark.parametrize(("name", "proposals"), [("random", 60), ("tpe", 30)])
def test_no_proposal_needs_more_bytes_than_a_chip_has(name: str, proposals: int) -> None:
    study, ledger = gated(name, DEFAULT, CHIP)
    for _ in range(proposals):
        assert CHIP.excesses(count(propose(study, DEFAULT, ledger).architecture)) == ()
    rejected = [CHIP.excesses(count(rejection.architecture)) for rejection in ledger.rejections]
    assert all(rejected)
    assert any([excess.quantity for excess in excesses] == ["ram_bytes"] for excesses in rejected)


@pytest.mark.parametrize(
    ("name", "proposals"), [("random", 60), ("tpe", 30), ("nsga2", 30), pytest.param("gp", 12, marks=pytest.mark.slow)]
)
def test_no_proposal_is_over_any_of_three_limits(name: str, proposals: int) -> None:
    study, ledger = gated(name, DEFAULT, THREE)
    for _ in range(proposals):
        assert THREE.verdict(propose(study, DEFAULT, ledger).architecture).excesses == ()
    assert len(study.trials) == ledger.calls == proposals
    excesses = [THREE.verdict(one.architecture).excesses for one in ledger.rejections]
    assert all(excesses), "nothing that fits is turned away"
    if name == "random":
        alone = {one[0].quantity for one in excesses if len(one) == 1}
        assert alone == {"params", "macs", "activations"}, "each of them forbids what the others allow"
    for one in ledger.rejections:
        assert one.overshoot == max(0, count(one.architecture).params - THREE.max_params)
        assert not one.duplicate, "what breaks another limit than that on parameters is no duplicate"


limits = st.tuples(
    st.integers(30_000, 10**7),
    st.integers(2 * 10**6, 10**9),
    st.integers(80_000, 10**7),
    st.none() | st.integers(30_000, 10**7),
    st.none() | st.integers(30_000, 10**6),
)


@settings(max_examples=40)
@given(limits, st.integers(0, 2**32 - 1))
def test_no_accepted_proposal_is_over_a_limit(limits: tuple[int, ...], seed: int) -> None:
    budget, ledger = Budget(*limits), Ledger()
    inner = optuna.samplers.RandomSampler(seed=seed)
    gate = ConstraintFilter(inner, DEFAULT, budget, known=lambda _: False, reject=ledger.reject, seed=seed)
    study = optuna.create_study(sampler=gate)
    for _ in range(3):
        assert budget.verdict(propose(study, DEFAULT, ledger).architecture).excesses == ()
    assert not any(budget.fits(one.architecture) for one in ledger.rejections)


def test_the_inner_sampler_proposes_all_of_the_architecture_together() -> None:
    asked: list[set[str]] = []

    def ask(_: optuna.Study, names: set[str]) -> dict[str, object]:
        asked.append(names)
        return {}

    ledger = Ledger()
    gate = ConstraintFilter(Inner(ask), DEFAULT, Budget(10**9), known=lambda _: False, reject=ledger.reject, seed=0)
    study = optuna.create_study(sampler=gate)
    propose(study, DEFAULT, ledger)
    assert asked == [{*DEFAULT.space.ranges(), "optimizer"}]


def test_rates_are_drawn_only_for_architectures_that_fit() -> None:
    asked: list[str] = []

    class Spy(optuna.samplers.RandomSampler):
        def sample_independent(
            self,
            study: optuna.Study,
            trial: optuna.trial.FrozenTrial,
            param_name: str,
            param_distribution: optuna.distributions.BaseDistribution,
        ) -> object:
            asked.append(param_name)
            return super().sample_independent(study, trial, param_name, param_distribution)

    ledger = Ledger()
    budget = Budget(1_000_000)
    gate = ConstraintFilter(Spy(seed=0), DEFAULT, budget, known=lambda _: False, reject=ledger.reject, seed=0)
    study = optuna.create_study(sampler=gate)
    for _ in range(5):
        propose(study, DEFAULT, ledger)
    assert len(ledger.rejections) > 5
    assert sum("_learning_rate" in name for name in asked) == sum("_weight_decay" in name for name in asked) == 5


def test_a_model_based_sampler_learns_from_what_was_accepted() -> None:
    study, ledger = gated("tpe", DEFAULT, 5_000_000)
    for _ in range(60):
        propose(study, DEFAULT, ledger)
    macs = [count(one.architecture).macs for one in ledger.accepted]
    first, last = sorted(macs[:20])[10], sorted(macs[-20:])[10]
    assert last > 1.5 * first, "the made-up accuracy is the multiply-accumulates: they must rise"


def test_enqueued_trials_keep_their_parameters_and_cost_no_proposal() -> None:
    study, ledger = gated("tpe", DEFAULT, 5_000_000)
    params = {"stages": 3, "se": True} | {f"{kind}_{stage}": 9 for kind in ("blocks",) for stage in (1, 2, 3)}
    params |= {"width_1": 16, "width_2": 32, "width_3": 64}
    recipe = {"optimizer": "sgd", "sgd_learning_rate": 0.1, "sgd_weight_decay": 5e-4}
    study.enqueue_trial(params | recipe)
    propose(study, DEFAULT, ledger)
    assert study.trials[0].params == params | recipe
    assert not ledger.rejections


TINY = CandidateSpace(
    SearchSpace(blocks=((1, 2),), widths=(4, 6, 8)),
    RecipeSpace.model_validate(
        {"optimizers": ["sgd"], "sgd": {"learning_rate": [0.1, 0.1], "weight_decay": [0.0, 5e-4]}}
    ),
    InputShape(in_channels=1, size=8, classes=10),
)


@pytest.mark.parametrize("name", ["random", "tpe", pytest.param("gp", marks=pytest.mark.slow)])
def test_every_candidate_of_a_small_space_comes_once_and_then_it_is_used_up(name: str) -> None:
    study, ledger = gated(name, TINY, 10**6, knows=True)
    for _ in range(12):
        propose(study, TINY, ledger)
    assert len({one.key for one in ledger.accepted}) == 12
    with pytest.raises(SpaceUsedUpError) as caught:
        propose(study, TINY, ledger)
    assert caught.value.trial == 12
    assert study.trials[12].state is TrialState.RUNNING, "it is for the search to end it"
    assert all(one.duplicate for one in ledger.rejections)


def test_only_the_smallest_network_fits_and_is_found() -> None:
    smallest = DEFAULT.space.smallest(CIFAR)
    study, ledger = gated("random", DEFAULT, count(smallest).params)
    assert propose(study, DEFAULT, ledger).architecture == smallest


@pytest.mark.parametrize("name", ["random", "tpe", pytest.param("gp", marks=pytest.mark.slow), "nsga2"])
def test_a_first_parameter_with_one_value_does_not_bypass_the_filter(name: str) -> None:
    """Optuna sets it in the trial before it asks for a proposal: the trial then looks as if it had its own."""
    space = CandidateSpace(SearchSpace(blocks=((1, 1), (1, 2)), widths=(4, 8, 16)), RecipeSpace(), CIFAR)
    study, ledger = gated(name, space, 6_000)
    for _ in range(12):
        assert count(propose(study, space, ledger).architecture).params <= 6_000


STAGES = CandidateSpace(
    SearchSpace(blocks=((1, 3),) * 3, widths=(4, 6, 16, 40), stages=(2, 3), depths=(1, 3), se=(False, True)),
    RecipeSpace(),
    InputShape(in_channels=1, size=8, classes=10),
)


@pytest.mark.parametrize("name", ["random", "tpe", "nsga2", pytest.param("gp", marks=pytest.mark.slow), "budget"])
def test_parameters_of_a_stage_exist_only_in_trials_with_that_stage(name: str) -> None:
    ledger, budget = Ledger(), Budget(60_000)
    inner = search_sampler(name, 1, STAGES, budget, 40)
    gate = ConstraintFilter(inner, STAGES, budget, known=lambda _: False, reject=ledger.reject, seed=1)
    study = optuna.create_study(direction="maximize", sampler=gate)
    for _ in range(40 if name != "gp" else 16):
        assert budget.fits(propose(study, STAGES, ledger).architecture)
    numbers = [trial.params["stages"] for trial in study.trials]
    assert min(numbers.count(2), numbers.count(3)) >= 2
    assert {trial.params["se"] for trial in study.trials} == {False, True}
    for trial in study.trials:
        assert ("width_3" in trial.params) == ("blocks_3" in trial.params) == (trial.params["stages"] == 3)
        assert STAGES.problem(trial.params) is None
        assert STAGES.params_of(STAGES.candidate(trial.params)) == trial.params
        assert set(trial.params) == set(STAGES.names(trial.params))


def test_inner_samplers_learn_from_trials_with_fewer_stages_too() -> None:
    """TPE leaves out trials without a value for each parameter: they get the middle of its range."""
    seen: list[list[dict[str, object]]] = []

    def see(study: optuna.Study, names: set[str]) -> dict[str, object]:
        complete = study._get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        assert all(names <= {*one.params} == {*one.distributions} for one in complete)
        seen.append([one.params for one in complete])
        return {}

    ledger = Ledger()
    gate = ConstraintFilter(Inner(see), STAGES, Budget(10**9), known=lambda _: False, reject=ledger.reject, seed=0)
    study = optuna.create_study(sampler=gate)
    for _ in range(20):
        propose(study, STAGES, ledger)
    two = [params for params in seen[-1] if params["stages"] == 2]
    assert two and all((params["blocks_3"], params["width_3"]) == (1, 16) for params in two)
    assert not any("width_3" in trial.params for trial in study.trials if trial.params["stages"] == 2)


def test_a_proposal_between_numbers_of_a_table_moves_to_the_nearest_number() -> None:
    between = {"stages": 2, "se": True, "blocks_1": 2, "width_1": 9, "blocks_2": 1, "width_2": 38, "width_3": 5}
    ledger = Ledger()
    inner = Inner(lambda _, __: dict(between))
    gate = ConstraintFilter(inner, STAGES, Budget(10**9), known=lambda _: False, reject=ledger.reject, seed=0)
    candidate = propose(optuna.create_study(sampler=gate), STAGES, ledger)
    assert candidate.architecture.describe() == "basic 3-1 x 6-40, SE, stem 6"


def test_tables_are_drawn_from_evenly_at_random() -> None:
    study, ledger = gated("random", STAGES, 10**9)
    for _ in range(200):
        propose(study, STAGES, ledger)
    widths = [trial.params["width_1"] for trial in study.trials]
    assert all(30 < widths.count(width) < 70 for width in (4, 6, 16, 40))


def test_a_slow_proposal_that_fits_is_used_without_a_second_proposal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budgetnas.samplers.constraint_filter.MAX_SECONDS", -1.0)
    study, ledger = gated("random", DEFAULT, 10**12)
    monkeypatch.setattr(SearchSpace, "draw_feasible", lambda *_: pytest.fail("a feasible draw"))
    first = propose(study, DEFAULT, ledger)
    assert first == ledger.accepted[0]
    monkeypatch.undo()
    monkeypatch.setattr("budgetnas.samplers.constraint_filter.MAX_SECONDS", -1.0)
    study, ledger = gated("random", DEFAULT, 50_000)
    for _ in range(5):
        propose(study, DEFAULT, ledger)
    assert len(ledger.rejections) <= 5
