"""``budgetnas fit``: the nearest networks within a budget, by named edits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from budgetnas.api.networks import asked_budget, described, nearest_within
from budgetnas.architecture import Architecture, Counts, count
from budgetnas.architecture.budget import BYTES, Budget, Quantity, amount, heading
from budgetnas.cli.completion import network_names
from budgetnas.cli.console import print_json, stdout, table
from budgetnas.cli.options import (
    BlockOption,
    BudgetOption,
    ClassesOption,
    InChannelsOption,
    JsonFlag,
    MaxActivationsOption,
    MaxMacsOption,
    MaxRamOption,
    MaxWeightsOption,
    SeOption,
    SizeOption,
    StemKernelOption,
    StemStrideOption,
    StemWidthOption,
    StridesOption,
    option,
)
from budgetnas.errors import InputError

if TYPE_CHECKING:
    from budgetnas.architecture.fit import Near


def fit_command(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="v1, v2, resnet18, ... resnet152.", autocompletion=network_names),
    ] = None,
    blocks: Annotated[str | None, option("Blocks of each stage, e.g. 2,2,2,2; instead of a name.")] = None,
    widths: Annotated[str | None, option("Width of each stage, e.g. 64,128,256,512.")] = None,
    block: BlockOption = None,
    stem_width: StemWidthOption = None,
    stem_kernel: StemKernelOption = None,
    stem_stride: StemStrideOption = None,
    strides: StridesOption = None,
    se: SeOption = False,
    in_channels: InChannelsOption = 3,
    size: SizeOption = 32,
    classes: ClassesOption = 10,
    budget: BudgetOption = None,
    max_macs: MaxMacsOption = None,
    max_activations: MaxActivationsOption = None,
    max_weights_kb: MaxWeightsOption = None,
    max_ram_kb: MaxRamOption = None,
    top: Annotated[int, option("Number of networks to list, in addition to networks with a name.")] = 10,
    as_json: JsonFlag = False,
) -> None:
    """Find the networks within a budget that are nearest to a network over it, by named edits.

    Example: budgetnas fit resnet18 --budget 5e6
    """
    limits = asked_budget(context.params, required=True)
    assert limits is not None, "they are required"
    networks = described(() if name is None else (name,), context.params)
    if not networks:
        raise InputError("NAME", None, "is missing: which network to fit", "try budgetnas fit resnet18 --budget 5e6")
    if len(networks) > 1:
        raise InputError("NAME", name, "cannot be combined with --blocks and --widths", "give a single network")
    listed = nearest_within(networks[0][1], limits, top)
    if as_json:
        print_json([_json(near, networks[0][1]) for near in listed])
    else:
        _print(networks[0], limits, listed)


def _json(near: Near, network: Architecture) -> dict[str, Any]:
    from budgetnas.architecture.edits import to_dicts

    whole = count(network)
    return {
        "edits": to_dicts(near.edits, network),
        "architecture": near.architecture.to_dict(),
        **near.counts._asdict(),
        "params_saved": whole.params - near.counts.params,
        "params_kept": near.counts.params / whole.params,
        "macs_kept": near.counts.macs / whole.macs,
        "name": near.name,
        "beaten": near.beaten,
    }


def _print(asked: tuple[str, Architecture], limits: Budget, listed: Sequence[Near]) -> None:
    name, network = asked
    verdict = limits.verdict(network)
    console = stdout()
    already = " already" if verdict.fits else ""
    console.print(f"{name}{already} {verdict.sentence()}", soft_wrap=True)
    if verdict.fits and len(listed) == 1:
        return
    console.print()
    others = [limit.quantity for limit in limits.limits if limit.quantity in BYTES]
    columns = ["edits", "network", "nearest", "parameters", "saved", "multiply-accumulates", "kept", "activations"]
    rows = [_row(near, network, verdict.counts, others) for near in listed]
    columns += map(heading, others)
    console.print(table(f"Within {limits}, nearest to {name}: {network.describe()}", columns, rows, left=3))


def _row(near: Near, network: Architecture, whole: Counts, others: Sequence[Quantity]) -> tuple[str, ...]:
    from budgetnas.architecture.edits import sentences

    saved = whole.params - near.counts.params
    return (
        "; ".join(sentences(near.edits, network)) or "none",
        near.name or "",
        "beaten" if near.beaten else "yes",
        f"{near.counts.params:,}",
        f"{saved:,}",
        f"{near.counts.macs:,}",
        f"{near.counts.macs / whole.macs:.1%}",
        f"{near.counts.activations:,}",
        *(amount(quantity, getattr(near.counts, quantity)) for quantity in others),
    )
