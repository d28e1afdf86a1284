"""``budgetnas space``: a survey of a search space before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from budgetnas.architecture import Architecture, count
from budgetnas.architecture.budget import BYTES, QUANTITIES, amount, heading, plain_limits
from budgetnas.cli.console import print_json, stdout, table
from budgetnas.cli.options import (
    BudgetOption,
    JsonFlag,
    MaxActivationsOption,
    MaxMacsOption,
    MaxRamOption,
    MaxWeightsOption,
    StudyFileArgument,
    option,
)
from budgetnas.errors import listed

if TYPE_CHECKING:
    from budgetnas.space.survey import Share, Suggestion, Survey, ValueShare

_MAX_NAMED = 16
MAX_ROWS = 30
"""Largest number of rows of a table of values; with more values, neighbours share a row."""


def space_command(
    context: typer.Context,
    study_file: StudyFileArgument = None,
    budget: BudgetOption = None,
    max_macs: MaxMacsOption = None,
    max_activations: MaxActivationsOption = None,
    max_weights_kb: MaxWeightsOption = None,
    max_ram_kb: MaxRamOption = None,
    data: Annotated[
        str | None,
        option(
            "cifar10, cifar100, fashion-mnist, digits or folder:DIR; no images are loaded.",
            "BUDGETNAS_DATA",
            default="cifar10",
        ),
    ] = None,
    in_channels: Annotated[int | None, option("Channels of an image.", default="the data's")] = None,
    size: Annotated[int | None, option("Side of an image in pixels.", default="the data's")] = None,
    classes: Annotated[int | None, option("Number of classes.", default="the data's")] = None,
    seed: Annotated[int, option("Seed of the draws, for spaces too large to count.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Show how much of a search space fits a budget, and which ranges waste proposals; nothing is trained.

    Example: budgetnas space --budget 5e6
    """
    from budgetnas.searching.options import SearchOptions, read_study_file
    from budgetnas.space.initial_trials import INITIAL_TRIALS
    from budgetnas.space.search_space import SearchSpace
    from budgetnas.space.shape import data_shape
    from budgetnas.space.survey import survey

    given = {name: value for name, value in context.params.items() if name in SearchOptions.model_fields}
    request = SearchOptions.parse(given)
    if study_file is not None:
        request = request.over(read_study_file(study_file))
    limits = request.limits()
    inputs, origin = data_shape(request.data_request(), in_channels=in_channels, size=size, classes=classes)
    seeds = INITIAL_TRIALS if request.seeds is None else request.seeds
    result = survey(request.space or SearchSpace(), inputs, limits, seeds=seeds, seed=seed)
    if as_json:
        print_json(_json(result, origin))
    else:
        _print(result, origin)


def _json(survey: Survey, origin: str) -> dict[str, Any]:
    tally, suggestion = survey.tally, survey.suggestion
    ends = {"smallest": tally.smallest, "largest_fitting": tally.largest_fitting, "largest": tally.largest}
    return {
        "data": origin,
        "inputs": survey.inputs.model_dump(),
        "space": survey.space.model_dump(mode="json"),
        "networks": survey.space.size(),
        **plain_limits(survey.budget),
        "share": _share_json(tally.share),
        **{
            name: None if end is None else {"certain": end.certain, **_network_json(end.architecture)}
            for name, end in ends.items()
        },
        "parameters": [
            {"name": name, "values": [_value_json(name, value) for value in values]}
            for name, values in tally.values.items()
        ],
        "seeds": [
            {
                "name": network.name,
                "seeds": list(network.trials),
                "held": network.in_space,
                "fits": network.fits,
                "left": dict(network.left),
                **_network_json(network.architecture),
            }
            for network in survey.initial_networks
        ],
        "suggestion": None
        if suggestion is None
        else {
            "space": suggestion.space.model_dump(mode="json"),
            "toml": suggestion.toml(),
            "widths_dropped": list(suggestion.widths_dropped),
            "blocks_dropped": [list(dropped) for dropped in suggestion.blocks_dropped],
            "never_fitting_only": suggestion.never,
            "networks": suggestion.space.size(),
            "share": _share_json(suggestion.share),
            "kept": {"share": suggestion.kept, "counted": suggestion.kept_counted},
        },
    }


def _share_json(share: Share) -> dict[str, Any]:
    low, high = share.interval
    how = "counted" if share.counted else "drawn"
    return {"share": share.estimate, "low": low, "high": high, "fits": share.fits, "of": share.of, "how": how}


def _value_json(name: str, value: ValueShare) -> dict[str, Any]:
    number = bool(value.value) if name == "se" else value.value
    return {"value": number, "possible": value.possible, **_share_json(value.share)}


def _network_json(architecture: Architecture) -> dict[str, Any]:
    return {**count(architecture)._asdict(), "architecture": architecture.to_dict()}


def _print(survey: Survey, origin: str) -> None:
    console = stdout()
    space, inputs = survey.space, survey.inputs
    shape = f"{inputs.in_channels}x{inputs.size}x{inputs.size} images, {inputs.classes} classes ({origin})"
    say(console, f"{space.size():,} networks of {space.describe()}; {shape}")
    say(console, f"limits: {', '.join(map(str, survey.budget.limits))}\n")
    say(console, _share_sentence(survey.tally.share, "the space"))
    console.print()
    _print_ends(console, survey)
    _print_ranges(console, survey)
    _print_initial_networks(console, survey)
    _print_suggestion(console, survey)


def say(console: Console, text: str) -> None:
    """Print a line without wrapping."""
    console.print(text, soft_wrap=True)


def _share_sentence(share: Share, of_what: str) -> str:
    odds = f" (1 in {1 / share.estimate:,.3g})" if share.fits else ""
    text = f"{percent(share.estimate)} of evenly drawn proposals from {of_what} fit{odds}"
    if share.counted:
        return f"{text}: all networks counted, {share.fits:,} of {share.of:,} fit"
    low, high = (percent(end) for end in share.interval)
    return f"{text}: {share.fits:,} of {share.of:,} drawn, 95 % interval {low} to {high}"


def percent(share: float) -> str:
    """Return a share in percent, without rounding to 0 or 100: ``63.0%``, ``0.85%``, ``1.3e-05%``, ``over 99.9%``."""
    if 0.9995 <= share < 1:
        return "over 99.9%"
    return f"{share:.1%}" if share >= 0.01 or share == 0 else f"{100 * share:.2g}%"


def _print_ends(console: Console, survey: Survey) -> None:
    tally, limited = survey.tally, {limit.quantity for limit in survey.budget.limits}
    shown = [quantity for quantity in QUANTITIES if quantity in limited or quantity not in BYTES]
    ends = (("smallest", tally.smallest), ("largest that fits", tally.largest_fitting), ("largest", tally.largest))
    rows = []
    for name, end in ends:
        if end is not None:
            label = name if end.certain else f"{name}, of those drawn"
            counts = count(end.architecture)
            amounts = (amount(quantity, getattr(counts, quantity)) for quantity in shown)
            rows.append((label, end.architecture.describe(), *amounts))
    columns = ("by parameters", "network", *map(heading, shown))
    console.print(table("Ends of the space", columns, rows, left=2))


def _print_ranges(console: Console, survey: Survey) -> None:
    stages = range(1, len(survey.space.blocks) + 1)
    values = survey.tally.values
    rows = []
    for name, shares in sorted(values.items(), key=lambda item: -_spread(item[1])):
        best, worst = (extreme(shares, key=lambda value: value.share.estimate) for extreme in (max, min))
        never = [_shown(name, value) for value in shares if not value.possible]
        impossible = f"{never[0]} to {never[-1]}" if len(never) > 2 else ", ".join(never) or "-"
        cells = (f"{percent(value.share.estimate)} with {_shown(name, value)}" for value in (best, worst))
        rows.append((_label(name), *cells, impossible))
    columns = ("range", "fits most often", "least often", "cannot fit")
    console.print()
    console.print(table("Ranges that waste proposals, worst first", columns, rows))
    for kind in ("width", "blocks"):
        merged = [_merged(survey, kind, group) for group in _groups(values, kind, len(stages))]
        console.print()
        console.print(table(f"Share that fits, by {kind}", (kind, *(f"stage {stage}" for stage in stages)), merged))
    if not survey.tally.share.counted:
        intervals = [value.share.interval for shares in values.values() for value in shares]
        error = percent(max((high - low) / 2 for low, high in intervals))
        say(console, f"The error of the shares of single values is up to {error} (half a 95 % interval).")


def _spread(shares: tuple[ValueShare, ...]) -> float:
    estimates = [value.share.estimate for value in shares]
    return max(estimates) - min(estimates)


def _label(name: str) -> str:
    kind, _, stage = name.partition("_")
    return {"stages": "number of stages", "se": "squeeze-and-excitation"}.get(name, f"{kind} of stage {stage}")


def _shown(name: str, value: ValueShare) -> str:
    return ("off", "on")[value.value] if name == "se" else str(value.value)


def _groups(values: Any, kind: str, stages: int) -> list[list[int]]:
    """Return the values of a kind of parameter in all stages, grouped into rows."""
    every = sorted({value.value for stage in range(1, stages + 1) for value in values[f"{kind}_{stage}"]})
    step = -(-len(every) // MAX_ROWS)
    return [every[start : start + step] for start in range(0, len(every), step)]


def _merged(survey: Survey, kind: str, group: list[int]) -> tuple[str, ...]:
    label = f"{group[0]} to {group[-1]}" if len(group) > 1 else str(group[0])
    cells = []
    for stage in range(1, len(survey.space.blocks) + 1):
        values = [value for value in survey.tally.values[f"{kind}_{stage}"] if value.value in group]
        fits, of = sum(value.weight * value.share.estimate for value in values), sum(value.weight for value in values)
        if not values:
            cells.append("-")
        elif not any(value.possible for value in values):
            cells.append("never")
        else:
            cells.append(percent(fits / of) if any(value.share.of for value in values) else "not drawn")
    return label, *cells


def _print_initial_networks(console: Console, survey: Survey) -> None:
    rows = []
    for network in survey.initial_networks:
        left = (
            f"{number:,} to spare" if number >= 0 else f"{-number:,} too many"
            for number in (network.left[limit.quantity] for limit in survey.budget.limits)
        )
        verdict = "fits" if network.fits else "over the budget"
        trials = ", ".join(network.trials) or "none"
        rows.append((network.name, trials, "yes" if network.in_space else "no", verdict, *left))
    columns = ("network", "initial trials", "in the space", "verdict", *(limit.words for limit in survey.budget.limits))
    console.print()
    console.print(table("Networks of the initial trials", columns, rows, left=2))


def _print_suggestion(console: Console, survey: Survey) -> None:
    suggestion = survey.suggestion
    console.print()
    if suggestion is None:
        say(console, "No ranges are suggested. Every value fits often enough, or an initial trial needs it.")
        return
    kept = "all" if suggestion.kept == 1 and suggestion.kept_counted else percent(suggestion.kept)
    how = "" if suggestion.kept_counted else ", estimated from draws"
    say(console, f"Suggested ranges, without {_dropped(suggestion)}; they keep {kept} of the proposals that fit{how}:")
    say(console, _share_sentence(suggestion.share, "this space"))
    say(console, f"\n{suggestion.toml()}")


def _dropped(suggestion: Suggestion) -> str:
    """Return the dropped values: ``widths 448, 512 and 3 blocks in stage 1``."""
    widths = [str(width) for width in suggestion.widths_dropped]
    parts = [f"{'width' if len(widths) == 1 else 'widths'} {listed(widths, limit=_MAX_NAMED)}"] if widths else []
    for stage, blocks in enumerate(suggestion.blocks_dropped, start=1):
        if blocks:
            numbers = str(blocks[0]) if len(blocks) == 1 else f"{blocks[0]} to {blocks[-1]}"
            parts.append(f"{numbers} blocks in stage {stage}")
    return " and ".join((", ".join(parts[:-1]), parts[-1])) if len(parts) > 1 else parts[0]
