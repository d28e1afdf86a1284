"""``budgetnas count``: parameters, multiply-accumulates, activations and bytes of networks, without building them."""

from __future__ import annotations

from typing import Annotated

import typer

from budgetnas.api.networks import Counted, asked_budget, described
from budgetnas.architecture import Architecture, Counts, count, count_parts
from budgetnas.architecture.budget import QUANTITIES, Budget, Limit, Quantity, amount, heading, parse_budget
from budgetnas.cli.completion import network_names
from budgetnas.cli.console import print_json, stdout, table
from budgetnas.cli.options import (
    BlockOption,
    ClassesOption,
    InChannelsOption,
    JsonFlag,
    SeOption,
    SizeOption,
    StemKernelOption,
    StemStrideOption,
    StemWidthOption,
    StridesOption,
    option,
)
from budgetnas.errors import EXIT_OVER_BUDGET, InputError

_DEFAULT_BUDGET = "5e6"


def count_command(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="v1, v2, resnet18, ... resnet152.", autocompletion=network_names),
    ] = None,
    blocks: Annotated[str | None, option("Blocks of each stage, e.g. 2,2,2,2.")] = None,
    widths: Annotated[str | None, option("Width of each stage, e.g. 64,128,128,128.")] = None,
    block: BlockOption = None,
    stem_width: StemWidthOption = None,
    stem_kernel: StemKernelOption = None,
    stem_stride: StemStrideOption = None,
    strides: StridesOption = None,
    se: SeOption = False,
    in_channels: InChannelsOption = 3,
    size: SizeOption = 32,
    classes: ClassesOption = 10,
    budget: Annotated[str | None, option("Limit on parameters; exit code 3 if exceeded.", "BUDGETNAS_BUDGET")] = None,
    max_macs: Annotated[str | None, option("Limit on multiply-accumulates, e.g. 600M; needs --budget.")] = None,
    max_activations: Annotated[str | None, option("Limit on activations, e.g. 600e3; needs --budget.")] = None,
    max_weights_kb: Annotated[
        str | None, option("Limit on KB (1,024 bytes) of int8 weights, scales and biases; needs --budget.")
    ] = None,
    max_ram_kb: Annotated[str | None, option("Limit on KB of int8 activations alive at once; needs --budget.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Count parameters, multiply-accumulates, activations, and bytes in int8, exactly and per part.

    Example: budgetnas count resnet18 v2 --budget 5e6 --max-macs 600M
    """
    limits = asked_budget(context.params, required=False)
    networks = described(names or (), context.params)
    if not networks:
        raise InputError("NAME", None, "is missing: which network to count", "try budgetnas count v2")
    if as_json:
        values = [Counted(name, architecture, limits).to_dict() for name, architecture in networks]
        print_json(values[0] if len(values) == 1 else values)
    elif len(networks) == 1:
        _print_one(*networks[0], limits)
    else:
        _print_side_by_side(networks, limits)
    if limits is not None and not all(limits.fits(architecture) for _, architecture in networks):
        raise typer.Exit(EXIT_OVER_BUDGET)


def _print_one(name: str, architecture: Architecture, limits: Budget | None) -> None:
    shown = limits or Budget(parse_budget(_DEFAULT_BUDGET))
    rows = [_row(part.name, part.counts, shown) for part in count_parts(architecture)]
    title = f"{name}: {architecture.describe()}"
    several = len(shown.limits) > 1
    columns = ["part"]
    for quantity, bound in _limits_of(shown).items():
        columns += [heading(quantity), *([f"share of {bound.short if several else shown}"] if bound else [])]
    console = stdout()
    console.print(table(title, columns, [*rows, _row("total", count(architecture), shown)]))
    verdict = shown.verdict(architecture).sentence()
    console.print(f"\n{verdict[:1].upper()}{verdict[1:]}.{'' if limits else ' (No --budget given: 5e6 is shown.)'}")


def _row(name: str, counts: Counts, shown: Budget) -> tuple[str, ...]:
    cells = [name]
    for quantity, bound in _limits_of(shown).items():
        cells += [amount(quantity, getattr(counts, quantity)), *([f"{bound.share(counts):.1%}"] if bound else [])]
    return tuple(cells)


def _limits_of(budget: Budget) -> dict[Quantity, Limit | None]:
    """Return every counted quantity with its limit, or None."""
    limits = {limit.quantity: limit for limit in budget.limits}
    return {quantity: limits.get(quantity) for quantity in QUANTITIES}


def _print_side_by_side(networks: list[tuple[str, Architecture]], limits: Budget | None) -> None:
    architectures = [architecture for _, architecture in networks]
    params = [{part.name: part.counts.params for part in count_parts(network)} for network in architectures]
    ends = {"stem": 0, "head": 2}
    parts = sorted({part for network in params for part in network}, key=lambda part: (ends.get(part, 1), part))
    rows = [
        (f"parameters of {part}", *(f"{network[part]:,}" if part in network else "-" for network in params))
        for part in parts
    ]
    totals = [count(network) for network in architectures]
    for quantity in QUANTITIES:
        rows.append((heading(quantity), *(amount(quantity, getattr(counts, quantity)) for counts in totals)))
    rows.append(("blocks per stage", *("-".join(map(str, network.blocks)) for network in architectures)))
    rows.append(("width per stage", *("-".join(map(str, network.widths)) for network in architectures)))
    rows.append(("block", *(f"{network.block}{', SE' if network.se else ''}" for network in architectures)))
    shown = limits or Budget(parse_budget(_DEFAULT_BUDGET))
    several = len(shown.limits) > 1
    for limit in shown.limits:
        rows.append((f"share of {limit if several else shown}", *(f"{limit.share(counts):.1%}" for counts in totals)))
    rows.append(("verdict", *("fits" if shown.fits(network) else "over the budget" for network in architectures)))
    for limit in shown.limits:
        label = f"excess {limit.words}" if several else "excess"
        rows.append((label, *(f"{max(0, limit.count(counts) - limit.value):,}" for counts in totals)))
    title = "Counts for one image" + ("" if limits else " (no --budget given: 5e6 is shown)")
    stdout().print(table(title, ("", *(name for name, _ in networks)), rows))
