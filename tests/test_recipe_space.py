from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from small import run, study_file

from benchmarks import ladder, trainings
from benchmarks.recipes import BASE, differences, extras_of, helpful
from budgetnas.architecture.budget import Budget
from budgetnas.data import Data, DataRequest, load_data
from budgetnas.errors import InputError
from budgetnas.report.wording import summary
from budgetnas.samplers.constraint_filter import ConstraintFilter
from budgetnas.samplers.named import make_sampler
from budgetnas.samplers.tpe import fits_within
from budgetnas.searching.options import SearchOptions, read_study_file, specify, stored_options
from budgetnas.searching.trial import suggest_candidate
from budgetnas.space.candidates import CandidateSpace
from budgetnas.space.initial_trials import INITIAL_TRIALS, initial_candidate
from budgetnas.space.ranges import Choice, draw_evenly
from budgetnas.space.recipe import EXTRAS, Recipe, RecipeSpace, named_extras
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.space.specification import StudySpecification, read_specification

INPUTS = InputShape(in_channels=3, size=32, classes=10)
TUNED = RecipeSpace.model_validate(named_extras("tuned", resolution=32, epochs=20))
SPACES = {
    "paper": RecipeSpace(),
    "measured": RecipeSpace.model_validate(named_extras("measured", resolution=32, epochs=20)),
    "tuned": TUNED,
    "part": RecipeSpace(optimizers=("adam",), nesterov=(True, False), cutout=(8,), ema_decay=(0.5, 0.0)),
}


def candidates(name: str) -> CandidateSpace:
    return CandidateSpace(SearchSpace(), SPACES[name], INPUTS)


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data(DataRequest("digits"))


def asked(digits: Data, **values: Any) -> StudySpecification:
    return specify(SearchOptions.parse({"budget": "5e6", "data": "digits", **values}), digits)


def test_the_paper_space_has_no_parameter_more_than_before() -> None:
    space = candidates("paper")
    assert RecipeSpace.model_validate(named_extras("paper", resolution=32, epochs=20)) == RecipeSpace()
    assert space.joint_names() == (*space.space.ranges(), "optimizer")
    assert space.names_for("sgd") == ("sgd_learning_rate", "sgd_weight_decay")


def test_the_parameters_of_the_tuned_space() -> None:
    space = candidates("tuned")
    ranges = space.ranges()
    assert {name: ranges[name] for name in space.joint_names() if name not in space.space.ranges()} == {
        "optimizer": Choice(("sgd", "adam")),
        "label_smoothing": Choice((0.0, 0.05, 0.1)),
        "decay_norm_and_bias": Choice((True, False)),
        "warmup_epochs": Choice((0, 1, 3)),
        "ema_decay": Choice((0.0, 0.99, 0.995)),
        "cutout": Choice((0, 8, 16)),
        "schedule": Choice(("epoch", "step")),
    }
    assert space.names_for("sgd") == ("sgd_learning_rate", "sgd_weight_decay", "sgd_nesterov")
    assert space.names_for("adam") == ("adam_learning_rate", "adam_weight_decay", "adam_decoupled_decay")
    assert set(ranges) == {*space.joint_names(), *space.names_for("sgd"), *space.names_for("adam")}


@given(st.integers(4, 512), st.integers(1, 50))
def test_a_tuned_space_is_one_for_any_images_and_epochs_and_its_first_choices_are_the_paper_s(
    resolution: int, epochs: int
) -> None:
    extras = named_extras("tuned", resolution=resolution, epochs=epochs)
    assert tuple(extras) == EXTRAS
    space = RecipeSpace.model_validate(extras | {"epochs": epochs})
    assert space.recipe("sgd", 0.1, 0.0) == RecipeSpace(epochs=epochs).recipe("sgd", 0.1, 0.0)


@pytest.mark.parametrize("seed", INITIAL_TRIALS)
@pytest.mark.parametrize("name", ["paper", "tuned"])
def test_both_spaces_include_the_initial_trials_with_the_report_s_recipe(name: str, seed: str) -> None:
    space = candidates(name)
    candidate = initial_candidate(seed, space.recipes, INPUTS)
    assert candidate == initial_candidate(seed, RecipeSpace(), INPUTS)
    params = space.params_of(candidate)
    assert params is not None
    assert space.candidate(params) == candidate


@given(st.sampled_from(list(SPACES)), st.integers(0, 2**32))
def test_parameters_and_candidate_are_one_to_one(name: str, seed: int) -> None:
    space, generator = candidates(name), random.Random(seed)
    ranges = space.ranges()
    drawn = {one: draw_evenly(values, generator) for one, values in ranges.items()}
    params = {one: drawn[one] for one in space.names(drawn)}
    candidate = space.candidate(params)
    assert space.params_of(candidate) == params
    for extra, parameter in (
        ("label_smoothing", "label_smoothing"),
        ("nesterov", "sgd_nesterov"),
        ("cutout", "cutout"),
        ("schedule", "schedule"),
        ("decoupled_decay", "adam_decoupled_decay"),
    ):
        if parameter in params:
            assert candidate.recipe.extra(extra) == params[parameter]


@pytest.mark.parametrize(
    "change",
    [
        {"label_smoothing": 0.2},
        {"warmup_epochs": 2},
        {"ema_decay": 0.9},
        {"decay_norm_and_bias": True},
        {"decoupled_decay": True},
    ],
)
def test_the_space_excludes_extras_outside_the_choices(change: dict[str, Any]) -> None:
    recipes = RecipeSpace.model_validate(TUNED.model_dump() | {"decay_norm_and_bias": False})
    space = CandidateSpace(SearchSpace(), recipes, INPUTS)
    held = space.candidate(space.params_of(initial_candidate("v2-sgd", recipes, INPUTS)) or {})
    other = type(held)(held.architecture, held.recipe.model_copy(update=change))
    assert space.params_of(other) is None


def test_an_extra_that_adam_has_no_use_for_is_its_first_choice() -> None:
    space = RecipeSpace(nesterov=(False, True))
    assert not space.recipe("adam", 0.1, 0.0).nesterov
    assert space.recipe("sgd", 0.1, 0.0, {"nesterov": True}).nesterov


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "gp"])
def test_samplers_propose_in_the_tuned_space(sampler: str) -> None:
    space, budget = candidates("tuned"), Budget(300_000)
    inner = make_sampler(sampler, 0, fits_within(space, budget))
    sampler = ConstraintFilter(inner, space, budget, known=lambda _: False, reject=lambda _: None, seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.enqueue_trial(space.params_of(initial_candidate("v1-adam", space.recipes, INPUTS)) or {})
    recipes = []
    for _ in range(24):
        trial = study.ask()
        recipes.append(suggest_candidate(trial, space).recipe)
        assert set(trial.params) == set(space.names(trial.params))
        study.tell(trial, recipes[-1].label_smoothing - 0.01 * recipes[-1].warmup_epochs)
    assert recipes[0] == initial_candidate("v1-adam", space.recipes, INPUTS).recipe
    assert {one.class_weights for one in recipes} == {"none"}, "no named space searches them"
    for extra in set(EXTRAS) - {"class_weights"}:
        assert len({one.extra(extra) for one in recipes}) > 1, extra


def test_a_sampler_that_learns_sees_the_extras() -> None:
    space, budget = candidates("tuned"), Budget(5_000_000)
    sampler = ConstraintFilter(
        make_sampler("tpe", 0, fits_within(space, budget)),
        space,
        budget,
        known=lambda _: False,
        reject=lambda _: None,
        seed=0,
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for _ in range(60):
        trial = study.ask()
        recipe = suggest_candidate(trial, space).recipe
        study.tell(trial, float(recipe.augmentation.cutout == 16) + float(recipe.ema_decay == 0.99))
    last = [trial.params for trial in study.trials[-20:]]
    assert sum(one["cutout"] == 16 and one["ema_decay"] == 0.99 for one in last) >= 12, "one in nine by chance"


def test_the_default_is_what_was_measured(digits: Data) -> None:
    specification = asked(digits)
    assert specification.recipe_space == "measured"
    assert specification.recipes.extras() == RecipeSpace().extras() | {"nesterov": (True,)}
    assert specification == asked(digits, recipe_space="measured")
    assert asked(digits, recipe_space="paper").recipes.extras() == RecipeSpace().extras()


def test_an_older_study_is_resumed_by_its_name(digits: Data) -> None:
    stored = asked(digits, recipe_space="paper")
    specify(SearchOptions(trials=80).over(stored_options(stored)), digits).require_same(stored, "s")
    with pytest.raises(InputError, match="--recipe-space was paper, now measured"):
        asked(digits).require_same(stored, "s")


def test_a_tuned_study_fits_its_images_and_epochs(digits: Data) -> None:
    recipes = asked(digits, recipe_space="tuned", epochs=2).recipes
    assert recipes.cutout == (0, 2, 4)
    assert recipes.warmup_epochs == (0, 1)
    assert recipes.ema_decay == (0.0, 0.99, 0.995)


def test_an_extra_in_a_study_file_overrides_the_named_space(digits: Data, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('recipe_space = "tuned"\n[recipe]\nlabel_smoothing = 0.1\nwarmup_epochs = [2, 4]\n')
    request = read_study_file(str(path))
    recipes = asked(digits, recipe=request.recipe, recipe_space=request.recipe_space).recipes
    assert (recipes.label_smoothing, recipes.warmup_epochs) == ((0.1,), (2, 4))
    assert recipes.nesterov == (False, True)
    assert asked(digits, recipe=request.recipe, recipe_space="paper").recipes.nesterov == (False,)


def test_fewer_epochs_than_a_study_s_warm_up_are_refused(digits: Data) -> None:
    recipe = read_study_file("mlperf-tiny-ic01").recipe
    with pytest.raises(InputError, match="--epochs 1: warmup_epochs must be below epochs, 1, not 1; change"):
        asked(digits, recipe=recipe, epochs=1)


@pytest.mark.parametrize("space", ["measured", "tuned"])
def test_without_momentum_there_is_no_nesterov(digits: Data, tmp_path: Path, space: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text("[recipe]\nmomentum = 0.0\n")
    recipes = asked(digits, recipe=read_study_file(str(path)).recipe, recipe_space=space).recipes
    assert (recipes.momentum, recipes.nesterov) == (0.0, (False,))


def test_a_study_file_sets_the_schedule_and_the_decay(digits: Data, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('[recipe]\nschedule = "step"\ndecoupled_decay = [false, true]\n')
    specification = asked(digits, recipe=read_study_file(str(path)).recipe)
    assert specification.recipes.recipe("sgd", 0.1, 0.0).schedule == "step"
    space = specification.candidates
    assert "schedule" not in space.ranges() and "adam_decoupled_decay" in space.names_for("adam")
    stored = read_specification(specification.canonical_json())
    specify(stored_options(stored), digits).require_same(stored, "s")


def test_a_study_from_before_a_choice_existed_resumes_without_it(digits: Data) -> None:
    """A tuned study of an earlier version: its JSON has no schedule, and it is not given the choice now."""
    recipes = RecipeSpace.model_validate(
        asked(digits, recipe_space="tuned").recipes.model_dump() | {"schedule": "epoch", "decoupled_decay": False}
    )
    older = asked(digits, recipe_space="tuned", recipe=recipes)
    assert "schedule" not in older.canonical_json() and "decoupled" not in older.canonical_json()
    stored = read_specification(older.canonical_json())
    assert stored.digest == older.digest
    resumed = specify(stored_options(stored), digits)
    assert resumed.recipes.schedule == ("epoch",)
    resumed.require_same(stored, "s")


def test_an_unknown_space_is_refused(digits: Data) -> None:
    with pytest.raises(InputError, match=r"--recipe-space 'best': must be one of measured, paper, tuned"):
        asked(digits, recipe_space="best")


def test_stored_options_give_the_same_specification(digits: Data) -> None:
    for name in ("paper", "measured", "tuned"):
        stored = read_specification(asked(digits, recipe_space=name, epochs=2).canonical_json())
        specify(stored_options(stored), digits).require_same(stored, "s")


def test_another_space_is_rejected_also_where_the_study_sets_the_defaults(digits: Data) -> None:
    stored = asked(digits, recipe_space="paper")
    request = SearchOptions(recipe_space="tuned").over(stored_options(stored))
    with pytest.raises(InputError, match="--recipe-space was paper, now tuned") as raised:
        specify(request, digits).require_same(stored, "s")
    assert raised.value.argument == "--recipe-space"


def test_studies_older_than_recipe_spaces_are_read_as_the_paper_s() -> None:
    older = asked(load_data(DataRequest("digits"))).model_dump(mode="json")
    del older["recipe_space"]
    for extra in EXTRAS:
        older["recipes"].pop(extra, None)
    older["recipes"]["nesterov"] = False
    specification = StudySpecification.model_validate(older)
    assert specification.recipe_space == "paper"
    assert specification.recipes.extras() == RecipeSpace().extras()


def test_a_space_is_described_in_words(digits: Data) -> None:
    assert summary(asked(digits, recipe_space="paper")).recipe.endswith("random crops after 1 pixel of padding")
    strong = asked(digits, recipe={"augmentation": {"rotation": 10, "erasing": 0.1}})
    assert (strong.recipes.augmentation.crop_padding, strong.recipes.augmentation.flip) == (1, False)
    words = "random crops after 1 pixel of padding, rotation up to 10 degrees, erasing 0.1"
    assert words in summary(strong).recipe
    assert summary(asked(digits)).recipe.endswith("; Nesterov's momentum on")
    told = summary(asked(digits, recipe_space="tuned", recipe=RecipeSpace(label_smoothing=(0.1,)))).recipe
    assert told.endswith(
        "; Nesterov's momentum one of off, on; label smoothing 0.1; decay of norms and biases one of on, off; "
        "epochs of warm-up one of 0, 1, 3; average of the weights with decay one of 0, 0.99, 0.995; "
        "cutout of side one of 0, 2, 4; rate set every one of epoch, step; decoupled decay for Adam one of off, on"
    )


@given(st.sampled_from(EXTRAS), st.sampled_from([[], [None], ["x"], [-1]]))
def test_choices_that_make_no_sense_are_refused(extra: str, choices: list[object]) -> None:
    with pytest.raises(ValidationError):
        RecipeSpace.model_validate({extra: choices})


@pytest.mark.slow
def test_a_search_over_the_recipe_and_its_resumption(tmp_path: Path) -> None:
    path = study_file(tmp_path, trials="3", recipe_space='"tuned"')
    searched = run(tmp_path, "search", path)
    assert searched.returncode == 0, searched.stderr
    again = run(tmp_path, "search", "--study", "digits-6k", "--trials", "3")
    assert again.returncode == 0, again.stderr
    for arguments, extra in ((("--recipe-space", "paper"), {}), ((), {"BUDGETNAS_RECIPE_SPACE": "paper"})):
        refused = run(tmp_path, "search", "--study", "digits-6k", *arguments, **extra)
        assert refused.returncode == 2
        assert "--recipe-space was tuned, now paper" in refused.stderr


def test_the_benchmark_changes_each_extra_once_and_nothing_else() -> None:
    base = RecipeSpace(epochs=8).recipe("sgd", 0.1, 5e-4)
    changed = set()
    for change in extras_of(base, 32).values():
        recipe = Recipe.model_validate(base.model_dump() | change)
        (extra,) = (name for name in EXTRAS if recipe.extra(name) != base.extra(name))
        changed.add(extra)
        assert recipe.learning_rate == base.learning_rate
        assert recipe.augmentation.model_copy(update={"cutout": 0}) == base.augmentation
    assert changed == set(EXTRAS) - {"decoupled_decay", "class_weights"}  # the base is SGD, the classes are balanced


def test_the_benchmark_s_differences_are_paired() -> None:
    """By hand: differences of 0.01, 0.02 and 0.03 have mean 0.02 and standard error 0.01 / sqrt(3); t is 4.3027."""
    base = [0.1, 0.5, 0.9]
    found = differences({BASE: base, "good": [0.11, 0.52, 0.93], "noise": [0.11, 0.48, 0.93], "bad": [0.0, 0.4, 0.79]})
    assert found["good"].estimate == pytest.approx(0.02)
    assert found["good"].high - 0.02 == pytest.approx(4.30265 * 0.01 / 3**0.5, rel=1e-5)
    assert helpful(found) == []
    assert helpful(differences({BASE: base, "better": [0.12, 0.52, 0.921], "bad": [0.0, 0.4, 0.79]})) == ["better"]


def test_the_recipes_of_the_ladder_build_on_each_other_and_its_pairs_have_the_same_seed() -> None:
    recipes = list(ladder.ladder(15, 1, resolution=32, flip=True).values())
    changed = [
        {name for name in Recipe.model_fields if getattr(above, name) != getattr(below, name)}
        for below, above in pairwise(recipes)
    ]
    rest = {"warmup_epochs", "ema_decay", "augmentation"}
    assert changed == [{"schedule", "warmup_epochs"}, {"decay_norm_and_bias"}, {"learning_rate"}, rest]
    rows = {("a", 0): 0.5, ("a", 1): 0.6, ("b", 0): 0.51, ("b", 1): 0.63, ("b", 2): 0.9}
    first, second = ladder.table(["a", "b", "c"], rows)
    assert first.startswith("a: mean 55.00%") and first.endswith("n = 2")
    assert "n = 3; minus the recipe before: +1.00, +3.00 points, mean +2.00 (95 % interval" in second


def test_the_ladder_resumes_from_its_file(tmp_path: Path) -> None:
    out = tmp_path / "ladder.csv"
    for seed, accuracy in ((0, 0.25), (1, 0.5)):
        trainings.add(out, ladder.COLUMNS, ("plain", seed, accuracy, "network", 15, 100, "recipe"))
    assert ladder.read(out) == {("plain", 0): 0.25, ("plain", 1): 0.5}
