"""``budgetnas space``: a look at a space before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from budgetnas.architecture import Architecture, count
from budgetnas.cli.console import print_json, stdout, table
from budgetnas.cli.options import BudgetOption, JsonFlag, MaxActivationsOption, MaxMacsOption, StudyFileArgument
from budgetnas.errors import check_seed

if TYPE_CHECKING:
    from budgetnas.space.survey import Share, Suggestion, Survey, ValueShare

_MOST_NAMED = 16
MOST_ROWS = 30
"""Rows of a table of values; where there are more values, neighbours share a row."""


def space_command(
    study_file: StudyFileArgument = None,
    budget: BudgetOption = None,
    max_macs: MaxMacsOption = None,
    max_activations: MaxActivationsOption = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="cifar10, cifar100, fashion-mnist, digits or folder:DIR; nothing of it is loaded.",
            envvar="BUDGETNAS_DATA",
            show_default="cifar10",
        ),
    ] = None,
    in_channels: Annotated[int | None, typer.Option(help="Channels of an image.", show_default="the data's")] = None,
    size: Annotated[int | None, typer.Option(help="Side of an image in pixels.", show_default="the data's")] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes.", show_default="the data's")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws, for a space too large to be counted.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Say how much of a search space fits a budget, and which ranges waste proposals; nothing is trained.

    Example: budgetnas space --budget 5e6
    """
    from budgetnas.search.options import SearchOptions, read_study_file
    from budgetnas.space.initial_trials import INITIAL_TRIALS
    from budgetnas.space.search_space import SearchSpace
    from budgetnas.space.shape import data_shape
    from budgetnas.space.survey import survey

    request = SearchOptions.parse(
        {"budget": budget, "max_macs": max_macs, "max_activations": max_activations, "data": data}
    )
    if study_file is not None:
        request = request.over(read_study_file(study_file))
    limits = request.limits()
    inputs, origin = data_shape(request.data_request(), in_channels=in_channels, size=size, classes=classes)
    seeds = INITIAL_TRIALS if request.seeds is None else request.seeds
    found = survey(request.space or SearchSpace(), inputs, limits, seeds=seeds, seed=check_seed(seed))
    if as_json:
        print_json(_json(found, origin))
    else:
        _print(found, origin)


def _json(found: Survey, origin: str) -> dict[str, Any]:
    tally, suggestion = found.tally, found.suggestion
    ends = {"smallest": tally.smallest, "largest_fitting": tally.largest_fitting, "largest": tally.largest}
    return {
        "data": origin,
        "inputs": found.inputs.model_dump(),
        "space": found.space.model_dump(mode="json"),
        "networks": found.space.size(),
        "budget": found.budget.max_params,
        "max_macs": found.budget.max_macs,
        "max_activations": found.budget.max_activations,
        "share": _share_json(tally.share),
        **{
            name: None if one is None else {"certain": one.certain, **_network_json(one.architecture)}
            for name, one in ends.items()
        },
        "parameters": [
            {"name": name, "values": [_value_json(found, name, one) for one in values]}
            for name, values in tally.values.items()
        ],
        "seeds": [
            {
                "name": one.name,
                "seeds": list(one.seeds),
                "held": one.held,
                "fits": one.fits,
                "left": dict(one.left),
                **_network_json(one.architecture),
            }
            for one in found.seeds
        ],
        "suggestion": None
        if suggestion is None
        else {
            "space": suggestion.space.model_dump(mode="json"),
            "toml": suggestion.toml(),
            "widths_dropped": list(suggestion.widths_dropped),
            "blocks_dropped": [list(one) for one in suggestion.blocks_dropped],
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


def _value_json(found: Survey, name: str, one: ValueShare) -> dict[str, Any]:
    value = found.space.widths[one.value] if name.startswith("width") else one.value
    return {"value": value, "possible": one.possible, **_share_json(one.share)}


def _network_json(architecture: Architecture) -> dict[str, Any]:
    return {**count(architecture)._asdict(), "architecture": architecture.to_dict()}


def _print(found: Survey, origin: str) -> None:
    console = stdout()
    space, inputs = found.space, found.inputs
    shape = f"{inputs.in_channels}x{inputs.size}x{inputs.size} images, {inputs.classes} classes ({origin})"
    say(console, f"{space.size():,} networks of {space.num_stages} stages of {space.block} blocks; {shape}")
    say(console, f"limits: {', '.join(map(str, found.budget.limits))}\n")
    say(console, _share_sentence(found.tally.share, "the space"))
    console.print()
    _print_ends(console, found)
    _print_ranges(console, found)
    _print_seeds(console, found)
    _print_suggestion(console, found)


def say(console: Console, text: str) -> None:
    """Print a line as it is."""
    console.print(text, markup=False, soft_wrap=True)


def _share_sentence(share: Share, of_what: str) -> str:
    one_in = f"; a proposal drawn evenly fits one time in {share.of / share.fits:,.3g}" if share.fits else ""
    told = f"{percent(share.estimate)} of {of_what} fits"
    if share.counted:
        return f"{told}: {share.fits:,} of {share.of:,} networks, all counted{one_in}"
    low, high = (percent(one) for one in share.interval)
    measured = f"{share.fits:,} of {share.of:,} networks drawn evenly, 95 % interval {low} to {high}"
    return f"{told}: {measured}{one_in}"


def percent(share: float) -> str:
    """Return a share in percent, as 0 or 100 only where it is: ``63.0%``, ``0.85%``, ``1.3e-05%``, ``over 99.9%``."""
    if 0.9995 <= share < 1:
        return "over 99.9%"
    return f"{share:.1%}" if share >= 0.01 or share == 0 else f"{100 * share:.2g}%"


def _print_ends(console: Console, found: Survey) -> None:
    tally = found.tally
    ends = (("smallest", tally.smallest), ("largest that fits", tally.largest_fitting), ("largest", tally.largest))
    rows = []
    for name, one in ends:
        if one is not None:
            told = name if one.certain else f"{name}, of those seen"
            counts = count(one.architecture)
            rows.append((told, one.architecture.describe(), *(f"{each:,}" for each in counts)))
    columns = ("by parameters", "network", "parameters", "multiply-accumulates", "activations")
    console.print(table("Ends of the space", columns, rows, left=2))


def _print_ranges(console: Console, found: Survey) -> None:
    stages = range(1, found.space.num_stages + 1)
    values = found.tally.values
    rows = []
    for name, shares in sorted(values.items(), key=lambda one: -_spread(one[1])):
        best, worst = (end(shares, key=lambda one: one.share.estimate) for end in (max, min))
        never = [str(_shown(found, name, one)) for one in shares if not one.possible]
        told = f"{never[0]} to {never[-1]}" if len(never) > 2 else ", ".join(never) or "-"
        rows.append(
            (
                f"{'width' if name.startswith('width') else 'blocks'} of stage {name.rpartition('_')[2]}",
                *(f"{percent(one.share.estimate)} with {_shown(found, name, one)}" for one in (best, worst)),
                told,
            )
        )
    columns = ("range", "fits most often", "most seldom", "can never fit")
    console.print()
    console.print(table("Which ranges waste proposals, the worst first", columns, rows))
    for kind in ("width", "blocks"):
        merged = [_merged(found, kind, group) for group in _groups(values, kind, found.space.num_stages)]
        console.print()
        console.print(table(f"Share that fits, by {kind}", (kind, *(f"stage {stage}" for stage in stages)), merged))
    if not found.tally.share.counted:
        reach = max((high - low) / 2 for one in values.values() for low, high in (each.share.interval for each in one))
        say(console, f"The shares of single values are off by up to {percent(reach)} (half a 95 % interval).")


def _spread(shares: tuple[ValueShare, ...]) -> float:
    estimates = [one.share.estimate for one in shares]
    return max(estimates) - min(estimates)


def _shown(found: Survey, name: str, one: ValueShare) -> int:
    return found.space.widths[one.value] if name.startswith("width") else one.value


def _groups(values: Any, kind: str, stages: int) -> list[list[int]]:
    """Return the values of a kind of parameter, those of all stages together, as many as a row has to hold."""
    every = sorted({one.value for stage in range(1, stages + 1) for one in values[f"{kind}_{stage}"]})
    step = -(-len(every) // MOST_ROWS)
    return [every[start : start + step] for start in range(0, len(every), step)]


def _merged(found: Survey, kind: str, group: list[int]) -> tuple[str, ...]:
    ends = [found.space.widths[one] if kind == "width" else one for one in (group[0], group[-1])]
    label = f"{ends[0]} to {ends[1]}" if len(group) > 1 else str(ends[0])
    cells = []
    for stage in range(1, found.space.num_stages + 1):
        there = [one for one in found.tally.values[f"{kind}_{stage}"] if one.value in group]
        fits, of = sum(one.share.fits for one in there), sum(one.share.of for one in there)
        if not there:
            cells.append("-")
        elif not any(one.possible for one in there):
            cells.append("never")
        else:
            cells.append(percent(fits / of) if of else "not drawn")
    return label, *cells


def _print_seeds(console: Console, found: Survey) -> None:
    rows = []
    for one in found.seeds:
        left = (
            f"{amount:,} to spare" if amount >= 0 else f"{-amount:,} too many"
            for amount in (one.left[limit.quantity] for limit in found.budget.limits)
        )
        verdict = "fits" if one.fits else "over the budget"
        rows.append((one.name, ", ".join(one.seeds) or "none", "yes" if one.held else "no", verdict, *left))
    columns = ("network", "seed trials", "in the space", "verdict", *(limit.words for limit in found.budget.limits))
    console.print()
    console.print(table("Seed networks", columns, rows, left=2))


def _print_suggestion(console: Console, found: Survey) -> None:
    one = found.suggestion
    console.print()
    if one is None:
        say(console, "Suggested ranges: none. Every value fits often enough, or a seed network that fits needs it.")
        return
    kept = "all" if one.kept == 1 and one.kept_counted else percent(one.kept)
    how = "" if one.kept_counted else ", by the draws"
    say(console, f"Suggested ranges, without {_dropped(one)}; {kept} of the networks that fit are in them{how}:")
    say(console, _share_sentence(one.share, "that"))
    say(console, f"\n{one.toml()}")


def _dropped(one: Suggestion) -> str:
    """Return what is gone: ``widths 448, 512 and 3 blocks in stage 1``."""
    from budgetnas.errors import listed

    widths = [str(width) for width in one.widths_dropped]
    told = [f"{'width' if len(widths) == 1 else 'widths'} {listed(widths, limit=_MOST_NAMED)}"] if widths else []
    for stage, gone in enumerate(one.blocks_dropped, start=1):
        if gone:
            numbers = str(gone[0]) if len(gone) == 1 else f"{gone[0]} to {gone[-1]}"
            told.append(f"{numbers} blocks in stage {stage}")
    return " and ".join((", ".join(told[:-1]), told[-1])) if len(told) > 1 else told[0]
