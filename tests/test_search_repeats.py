"""A sampler that asks for a candidate again: it is trained again, with the next seed, and counted as what it is."""

from __future__ import annotations

import random
import statistics
import threading
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import optuna
import pytest
from optuna.trial import TrialState
from optuna_dashboard._note import get_note_from_system_attrs
from repeating import (
    BUDGET,
    CPU,
    FOUR,
    INPUTS,
    NETWORK,
    NOTHING,
    RECIPES,
    Events,
    asked,
    check_seeds,
    key,
    made_up,
    no_images,
    opened,
    runs_of,
    searched,
    specification,
)

from budgetnas.architecture import Architecture
from budgetnas.architecture.budget import Budget
from budgetnas.errors import InputError
from budgetnas.experiments.final_plan import plan_final
from budgetnas.metrics import ACCURACY, Epoch
from budgetnas.report.figures.curves import accuracy_curves
from budgetnas.report.figures.history import history
from budgetnas.report.tables import study_tables
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.recording import RunRequest, claim_repeat, claim_run
from budgetnas.samplers.attributes import REPEAT_OF, described, repeat_of
from budgetnas.samplers.choice import Trained
from budgetnas.samplers.named import ONCE, SAMPLERS, budget_share, check_sampler, make_sampler, search_sampler
from budgetnas.searching.expectation import Expectation
from budgetnas.searching.loop import _install_sampler, search
from budgetnas.searching.study import recover_stale_trials, requeue
from budgetnas.searching.trial import FIRST_SEED, TrialRunner, suggest_candidate, tally
from budgetnas.space.candidates import Candidate, CandidateSpace
from budgetnas.space.ranges import Steps
from budgetnas.space.recipe import RecipeSpace
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.space.specification import ChoiceProtocol, Fidelity
from budgetnas.storage import SEARCHED, Role, State
from budgetnas.storage.leases import holding, take_slot
from budgetnas.training import Callbacks, Checkpointer, RuntimeConfig, Task
from budgetnas.training.network import ResNet


def test_every_sampler_that_is_offered_can_be_made() -> None:
    space = CandidateSpace(FOUR, RECIPES, INPUTS)
    for name in SAMPLERS:
        assert isinstance(search_sampler(name, 0, space, Budget(BUDGET), 12), optuna.samplers.BaseSampler)
    assert set(SAMPLERS) - set(ONCE) == {"budget"}
    with pytest.raises(InputError, match="--sampler 'budget'"):
        make_sampler("budget", 0, lambda _: True)
    with pytest.raises(InputError, match="must be one of tpe, random, gp, nsga2, budget; did you mean budget"):
        check_sampler("budgett")


def test_the_cost_is_the_greatest_share_of_any_limit() -> None:
    space = CandidateSpace(SearchSpace(), RecipeSpace(), InputShape(in_channels=3, size=32, classes=10))
    budget = Budget(2_000_000, 80_000_000, 200_000)
    cost, binding, generator = budget_share(space, budget), set(), random.Random(0)
    for _ in range(200):
        params = space.space.draw(generator)
        verdict = budget.verdict(space.space.architecture(params, space.inputs))
        shares = {limit.quantity: limit.share(verdict.counts) for limit in budget.limits}
        assert cost(params) == max(shares.values())
        assert (cost(params) <= 1.0) is verdict.fits
        binding.add(max(shares, key=shares.__getitem__))
    assert binding == {"params", "macs", "activations"}


@pytest.mark.parametrize("optimizers", [("sgd", "adam"), ("sgd",)])
def test_the_sampler_knows_distributions_and_tables(sqlite: str, optimizers: tuple[str, ...]) -> None:
    recipes = RecipeSpace(epochs=1, optimizers=optimizers)
    with opened(sqlite, specification(recipes=recipes, max_params=5_000)) as study:
        searched(study, 3)
        candidates = study.specification.candidates
        distributions = search_sampler("budget", 0, candidates, Budget(5_000), 3).infer_relative_search_space(
            study.optuna_study, study.optuna_study.trials[0]
        )
        tables = {name: one.values for name, one in candidates.ranges().items() if isinstance(one, Steps)}
        assert {name: distributions[name].choices for name in tables} == tables
        for trial in study.optuna_study.trials:
            others = trial.params.keys() - tables.keys()
            assert {name: trial.distributions[name] for name in others} == {
                name: distributions[name] for name in others
            }
        assert distributions.keys() == candidates.ranges().keys()


# Searches whose trainings take no time


@pytest.mark.slow
def test_a_used_up_space_is_trained_again_with_the_next_seeds(storage_url: str) -> None:
    with opened(storage_url) as study:
        events = searched(study, 12)
        runs, trials = runs_of(study), study.optuna_study.trials
        assert [run.state for run in runs] == [State.COMPLETE] * 12
        assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 12
        check_seeds(runs)
        assert len({key(run) for run in runs}) <= 4
        assert all(run.params <= BUDGET for run in runs)
        first = {key(run): run.trial for run in runs if run.role is Role.SEARCH}
        notes = study.storage.get_study_system_attrs(study.optuna_study._study_id)
        for run, trial, start, end in zip(runs, trials, events.starts, events.ends, strict=True):
            repeats = run.role is Role.REPEAT
            assert (run.trial, run.label) == (trial.number, "")
            assert repeat_of(trial) == start.repeat_of == (first[key(run)] if repeats else None)
            assert start.seed == run.seed
            assert described(trial).get("seed", 0) == run.seed
            assert trial.value == end.accuracy == study.records.curve(run.id)[-1].eval_accuracy
            if repeats:
                repeated = trials[trial.user_attrs[REPEAT_OF]]
                assert trial.params == repeated.params
                note = get_note_from_system_attrs(notes, trial._trial_id)["body"]
                assert f"Repeat of trial {repeated.number}, with another training seed" in note
        counts = tally(study)
        repeats = len(runs) - len(first)
        assert (counts.proposed, counts.trained, counts.duplicate, counts.repeats) == (12, 12, 0, repeats)
        values = {(key(run), trial.value) for run, trial in zip(runs, trials, strict=True)}
        assert len(values) > len(first), "another seed gives another accuracy"
        assert searched(study, 15).starts[-1].tally.trained == 14
        check_seeds(runs_of(study))


ONE = SearchSpace(blocks=((1, 1),), widths=(4,))


def test_a_space_of_one_candidate_is_repeated_or_ends_the_search(sqlite: str) -> None:
    with opened(sqlite, specification(space=ONE)) as study:
        events = Events()
        assert not search(study, asked(4, "tpe"), Stopper(None), events)
        assert len(events.ends) == 1
        assert [trial.state for trial in study.optuna_study.trials] == [TrialState.COMPLETE, TrialState.FAIL]
        searched(study, 4)
        assert [(run.seed, run.role) for run in runs_of(study)] == [
            (0, Role.SEARCH),
            *((n, Role.REPEAT) for n in (1, 2, 3)),
        ]
        assert len({key(run) for run in runs_of(study)}) == 1


def test_a_repeat_has_the_rate_and_decay_of_what_it_repeats(sqlite: str) -> None:
    """With two optimisers these exist in some trials only; sixteen candidates are used up by 25 trainings."""
    fixed = {"learning_rate": [0.05, 0.05], "weight_decay": [0.0, 1e-4]}
    both = RecipeSpace.model_validate({"epochs": 1, "optimizers": ["sgd", "adam"], "sgd": fixed, "adam": fixed})
    with opened(sqlite, specification(recipes=both)) as study:
        searched(study, 25)
        runs, trials = runs_of(study), study.optuna_study.trials
    check_seeds(runs)
    repeats = [trial for trial in trials if repeat_of(trial) is not None]
    assert repeats
    assert all(trial.params == trials[trial.user_attrs[REPEAT_OF]].params for trial in repeats)


def test_no_other_sampler_repeats(sqlite: str) -> None:
    for name in ONCE:
        with opened(f"{sqlite}.{name}") as study:
            events = Events()
            assert not search(study, asked(12, name), Stopper(None), events), "it ends early: the space is used up"
            runs = runs_of(study)
            assert len(runs) == len({key(run) for run in runs}) == 4
            assert {run.role for run in runs} == {Role.SEARCH}
            assert tally(study).repeats == 0
            last = study.optuna_study.trials[-1]
            assert last.state is TrialState.FAIL
            assert "are all known already" in described(last)["reason"]


@pytest.mark.slow
def test_all_limits_are_enforced(sqlite: str) -> None:
    inputs = InputShape(in_channels=3, size=32, classes=10)
    spec = specification(
        space=SearchSpace(),
        recipes=RecipeSpace(epochs=1),
        inputs=inputs,
        max_params=2_000_000,
        max_macs=80_000_000,
        max_activations=200_000,
        seeds=("v1-sgd", "v2-sgd"),
    )
    with opened(sqlite, spec) as study:
        searched(study, 12)
        runs = runs_of(study)
        assert len(runs) == 12
        assert all(spec.budget.fits(run.architecture) for run in runs)
        rejected = [rejection for rejection in study.records.rejections("s") if not rejection.origin.startswith("seed")]
        assert rejected == [], "it proposes nothing over a limit"


def test_a_candidate_enqueued_twice_is_not_a_repeat(sqlite: str) -> None:
    """A repeat is what the sampler asks for: an equal candidate from elsewhere is served by the record."""
    with opened(sqlite) as study:
        searched(study, 2)
        study.optuna_study.enqueue_trial(study.optuna_study.trials[0].params)
        searched(study, 3)
        runs, served = runs_of(study), study.optuna_study.trials[2]
        assert [run.trial for run in runs] == [0, 1, 3]
        assert repeat_of(served) is None
        assert served.value == study.optuna_study.trials[0].value


@pytest.mark.parametrize("origin", ["sampler", "enqueued"])
def test_a_duplicate_of_a_training_elsewhere_is_recorded_with_who_proposed_it(sqlite: str, origin: str) -> None:
    spec = specification(space=SearchSpace(blocks=((1, 1),), widths=(4,)))  # one network
    with opened(sqlite, spec) as study:
        first, second = (take_slot(study.records, "s", 2) for _ in range(2))
        assert first is not None and second is not None
        study.optuna_study.sampler = optuna.samplers.RandomSampler(seed=0)
        running = study.optuna_study.ask()
        candidate = suggest_candidate(running, spec.candidates)
        request = RunRequest(candidate, FIRST_SEED, Role.SEARCH, study="s", trial=running.number)
        assert claim_run(request, NOTHING, CPU, study.records, first).known is None
        if origin == "enqueued":
            study.optuna_study.enqueue_trial(running.params)
        events = Events()
        with holding(study.records, second) as heartbeat:
            runner = TrialRunner(study, no_images(), CPU, Stopper(None), events, Expectation(study), made_up)
            runner.run(second, heartbeat)
        (end,) = events.ends
        assert (end.accuracy, end.reason) == (None, f"rejected: trial {running.number} trains the same candidate now")
        assert study.optuna_study.trials[end.number].state is TrialState.FAIL
        (rejection,) = study.records.rejections("s")
        assert (rejection.origin, rejection.duplicate, rejection.trial) == (origin, True, end.number)


def test_a_repeat_that_has_not_started_stays_a_repeat_for_any_process(sqlite: str) -> None:
    spec = specification(space=SearchSpace(blocks=((1, 2),), widths=(4, 40)))  # two networks fit
    with opened(sqlite, spec) as study:
        searched(study, 6)
        assert len({key(run) for run in runs_of(study)}) == 2
        _install_sampler(study, asked(7), lambda: 7)
        trial = study.optuna_study.ask()
        suggest_candidate(trial, study.specification.candidates)
        number, repeated = trial.number, repeat_of(trial)
        assert repeated is not None
        requeue(study, number)
    with opened(sqlite, spec) as study:
        searched(study, 7, "random")
        last = runs_of(study)[-1]
        assert (last.trial, last.role) == (number, Role.REPEAT)
        assert repeat_of(study.optuna_study.trials[number]) == repeated
        check_seeds(runs_of(study))


def test_a_repeat_mark_without_parameters_is_ignored_by_another_sampler(sqlite: str) -> None:
    """A process may die between the mark of its proposal and the first parameter; the next one draws anew."""
    with opened(sqlite) as study:
        searched(study, 2)
        trial = study.optuna_study.ask()
        trial.set_user_attr(REPEAT_OF, 0)
        assert "requeued" in recover_stale_trials(study)[0]
        searched(study, 3, "random")
        taken, last = study.optuna_study.trials[trial.number], runs_of(study)[-1]
        assert (last.trial, last.role, last.seed) == (trial.number, Role.SEARCH, 0)
        assert repeat_of(taken) is None
        check_seeds(runs_of(study))


def test_repeats_are_neither_pruned_nor_compared_with(sqlite: str) -> None:
    asha = Fidelity(pruner="asha", eta=2)
    with opened(sqlite, specification(fidelity=asha)) as study:
        searched(study, 14)
        runs = runs_of(study)
        repeats = [run for run in runs if run.role is Role.REPEAT]
        assert len(repeats) >= 10
        assert all((run.state, run.epochs_done) == (State.COMPLETE, 3) for run in repeats)
        others = study.records.values_at("s", 1, ACCURACY, states=(State.COMPLETE, State.PRUNED), except_run=0)
        assert len(others) == len(runs) - len(repeats)


def test_failed_repeats_use_up_their_seeds_and_no_trial(sqlite: str) -> None:
    def fails_at_times(task: Task, runtime: RuntimeConfig, callbacks: Callbacks, checkpointer: Checkpointer) -> ResNet:
        if task.seed == 1:
            raise RuntimeError("an unlucky seed")
        return made_up(task, runtime, callbacks, checkpointer)

    with opened(sqlite) as study:
        assert search(study, replace(asked(12), trainer=fails_at_times), Stopper(None), Events())
        runs = runs_of(study)
        assert Counter(run.state for run in runs)[State.COMPLETE] == 12
        assert {run.seed for run in runs if run.state is State.FAILED} == {1}
        check_seeds(runs)


@pytest.mark.parametrize("sampler", ["budget", "tpe"])
def test_a_candidate_whose_training_failed_is_never_trained_with_that_seed_again(sqlite: str, sampler: str) -> None:
    failing: list[Architecture] = []

    def first_fails(task: Task, runtime: RuntimeConfig, callbacks: Callbacks, checkpointer: Checkpointer) -> ResNet:
        failing.extend([] if failing else [task.architecture])
        if task.seed == FIRST_SEED and task.architecture == failing[0]:
            raise RuntimeError("the loss is not finite")
        return made_up(task, runtime, callbacks, checkpointer)

    with opened(sqlite) as study:
        search(study, replace(asked(8, sampler), trainer=first_fails), Stopper(None), Events())
        runs = runs_of(study)
        assert [run.state for run in runs].count(State.FAILED) == 1
        assert len({(key(run), run.seed) for run in runs}) == len(runs) >= 4


def test_the_only_candidate_is_trained_with_the_next_seed_after_a_failure(sqlite: str) -> None:
    def first_fails(task: Task, runtime: RuntimeConfig, callbacks: Callbacks, checkpointer: Checkpointer) -> ResNet:
        if task.seed == FIRST_SEED:
            raise RuntimeError("the loss is not finite")
        return made_up(task, runtime, callbacks, checkpointer)

    with opened(sqlite, specification(space=ONE)) as study:
        assert search(study, replace(asked(2), trainer=first_fails), Stopper(None), Events())
        runs = [(run.seed, run.role, run.state) for run in runs_of(study)]
        assert runs == [
            (0, Role.SEARCH, State.FAILED),
            (1, Role.REPEAT, State.COMPLETE),
            (2, Role.REPEAT, State.COMPLETE),
        ]


# Seeds


def claims(url: str, numbers: tuple[int, ...], seeds: list[int]) -> None:
    with opened(url) as study:
        first = next(run for run in runs_of(study) if run.trial == 0)
        for number in numbers:
            request = RunRequest(Candidate(first.architecture, first.recipe), 0, Role.REPEAT, study="s", trial=number)
            slot = take_slot(study.records, "s", 1_000)
            assert slot is not None
            claim, with_seed = claim_repeat(request, NOTHING, CPU, study.records, slot)
            assert study.records.run(claim.run).seed == with_seed.seed
            seeds.append(with_seed.seed)


def test_simultaneous_repeats_of_a_candidate_get_different_seeds(storage_url: str) -> None:
    with opened(storage_url) as study:
        searched(study, 1)
    seeds: list[int] = []
    threads = [
        threading.Thread(target=claims, args=(storage_url, tuple(range(start, start + 5)), seeds)) for start in (10, 20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seeds) == list(range(1, 11))
    claims(storage_url, (12, 30), seeds)
    with opened(storage_url) as study:
        own = next(run for run in runs_of(study) if run.trial == 12)
    assert seeds[-2:] == [own.seed, 11], "a trial keeps the seed that it had; only a new one gets the next"


# What is made of them


def test_a_report_has_a_repeated_candidate_once(sqlite: str) -> None:
    with opened(sqlite) as study:
        searched(study, 10)
        runs, tables = runs_of(study), study_tables(study.records, "s")
        curves = study.records.curves(run.id for run in runs)
    groups = {candidate: [run for run in runs if key(run) == candidate] for candidate in {key(run) for run in runs}}
    assert len(tables.ranking) == len(groups) < len(runs) == len(tables.complete) == 10
    assert (tables.tallies.trained, tables.tallies.repeats) == (10, 10 - len(groups))
    for ranked in tables.ranking:
        mine = groups[key(ranked.run)]
        assert [each.run for each in ranked.trainings] == mine
        assert (ranked.run, ranked.run.role) == (mine[0], Role.SEARCH)
        assert ranked.accuracy == pytest.approx(statistics.fmean(curves[each.id][-1].eval_accuracy for each in mine))
        assert [each.accuracy for each in ranked.trainings] == [curves[each.id][-1].eval_accuracy for each in mine]
    assert all(better.accuracy >= worse.accuracy for better, worse in pairwise(tables.ranking))
    assert tables.chosen is not None
    best = next(row for row in tables.ranking if row.run == tables.chosen.run)  # by expected accuracy, not the first
    assert (tables.chosen.run, tables.chosen.accuracy) == (best.run, best.accuracy)
    assert tables.chosen.seeds == len(best.trainings)
    repeated = sum(len(group) > 1 for group in groups.values())
    assert f"n = 10 complete runs of {len(groups)} candidates, {repeated} of them with" in tables.notices[-1]
    drawn = history(tables)
    data = drawn.data
    assert [row[0] for row in data.rows] == list(range(1, 11))
    of = dict(zip((training.name for training in tables.complete), (row[-1] for row in data.rows), strict=True))
    assert {name: repeat for name, repeat in of.items() if repeat} == {
        repeat.name: candidate.name for candidate in tables.ranking for repeat in candidate.repeats
    }
    assert len({row[1] for row in accuracy_curves(tables).data.rows}) == 10
    points = {trace.name: len(trace.x) for trace in drawn.figure.data}
    assert (points["searched"], points["repeat"]) == (len(groups), 10 - len(groups))


def test_a_final_uses_all_trainings_of_a_candidate(sqlite: str) -> None:
    with opened(sqlite) as study:
        searched(study, 10)
        runs = [run for run in runs_of(study) if run.role in SEARCHED]
        curves = study.records.curves(run.id for run in runs)
        accuracies = [curves[run.id][-1].eval_accuracy for run in runs]
        trained = [Trained(run.candidate, accuracy) for run, accuracy in zip(runs, accuracies, strict=True)]
        plan = plan_final(runs, trained, ChoiceProtocol(finalists=3, seeds=2), study.specification)
    by_run = {run.id: run for run in runs}
    candidates = [key(by_run[finalist.run]) for finalist in plan.finalists]
    assert len(set(candidates)) == len(candidates) == 3
    for finalist, candidate in zip(plan.finalists, candidates, strict=True):
        mine = [accuracy for run_, accuracy in zip(runs, accuracies, strict=True) if key(run_) == candidate]
        assert (finalist.trainings, by_run[finalist.run].role) == (len(mine), Role.SEARCH)
        assert finalist.accuracy == pytest.approx(statistics.fmean(mine))


def test_seeds_can_be_repeated(sqlite: str) -> None:
    """In a small space of equally good networks the seed comes again too; it stays the seed that it is."""

    def all_alike(task: Task, runtime: RuntimeConfig, callbacks: Callbacks, checkpointer: Checkpointer) -> ResNet:
        accuracy = 0.5 + 0.01 * ((int(task.architecture.digest, 16) + 7 * task.seed) % 5)
        callbacks.on_epoch_end(Epoch(1, 1.0, accuracy, 1.0, accuracy, 0.1, 0.0))
        return NETWORK

    inputs = InputShape(in_channels=3, size=32, classes=10)
    spec = specification(
        space=SearchSpace(blocks=((2, 2),) * 4, widths=(64, 128)),
        recipes=RecipeSpace.model_validate(
            {"epochs": 1, "optimizers": ["sgd"], "sgd": {"learning_rate": [0.1, 0.1], "weight_decay": [5e-4]}}
        ),
        inputs=inputs,
        max_params=1_900_000,
        seeds=("v1-sgd", "v2-sgd"),
    )
    with opened(sqlite, spec) as study:
        assert search(study, replace(asked(30), trainer=all_alike), Stopper(None), Events())
        runs, tables = runs_of(study), study_tables(study.records, "s")
    labelled = {key(run): run.label for run in runs if run.label}
    assert set(labelled.values()) == {"v2-sgd"}
    check_seeds(runs)
    assert any(run.role is Role.REPEAT and key(run) in labelled for run in runs)
    for ranked in tables.ranking:
        assert ranked.label == labelled.get(key(ranked.run), "")
