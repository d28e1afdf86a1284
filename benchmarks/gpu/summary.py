"""The results of the scripts in a folder, together: ``summary.json``, and ``summary.md`` to read."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer


def collect(folder: Path) -> dict[str, Any]:
    """Return everything that the scripts left in a folder, by file."""
    found: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        if path.name == "summary.json":
            continue
        if path.suffix == ".jsonl":
            found[path.stem] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        elif path.suffix == ".json":
            found[path.stem] = _json_in(path.read_text(encoding="utf-8"))
        elif path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                found[path.stem] = list(csv.DictReader(file))
    return found


def markdown(found: dict[str, Any]) -> str:
    """Return the page."""
    parts = ["# Measurements on a GPU", "", *_machine(found.get("machine") or {}), ""]
    steps = found.get("steps", [])
    parts += _section("Steps of the scripts", ("script", "step", "code", "seconds", "limit"), steps)
    columns = ("batch", "precision", "layout", "graphs", "cudnn", "images_per_second", "startup_seconds", "peak_mib")
    parts += _section("Steps of a training", columns, found.get("step_times", []))
    columns = ("arch", "batch", "precision", "trainings", "images_per_second", "slowest", "fastest", "peak_mib")
    parts += _section("Trainings side by side", columns, found.get("side_by_side", []))
    parts += _section(
        "Replays", ("run", "epochs", "last", "best", "seconds"), _ends(found.get("replays", []), ("run",))
    )
    ends = _ends(found.get("long_training", []), ("network", "recipe", "epochs"), accuracy="validation_accuracy")
    parts += _section("Long trainings", ("network", "recipe", "epochs", "last", "best", "seconds"), ends)
    failed = (found.get("failed_capture") or {}).get("commands", [])
    parts += _section("A capture that fails", ("what", "code", "expected"), failed)
    return "\n".join(parts)


def _machine(machine: dict[str, Any]) -> list[str]:
    gpu = machine.get("gpu", {})
    names = ", ".join(one["name"] for one in gpu.get("gpus", [])) or "no GPU: a dry run, whose figures mean nothing"
    return [f"{names}; torch {gpu.get('torch')}, cuDNN {machine.get('cudnn')}, Python {machine.get('python')}."]


def _section(title: str, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> list[str]:
    lines = [f"| {' | '.join(str(row.get(column, '')) for column in columns)} |" for row in rows]
    if not lines:
        return []
    head = [f"## {title}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return [*head, *lines, ""]


def _ends(
    rows: list[dict[str, str]], keys: tuple[str, ...], accuracy: str = "eval_accuracy"
) -> Iterable[dict[str, Any]]:
    """Return the last and the best accuracy of each curve, and the time of its epochs."""
    curves: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        curves.setdefault(tuple(row[key] for key in keys), []).append(row)
    for names, curve in curves.items():
        values = [float(row[accuracy]) for row in curve]
        yield (
            {"epochs": len(curve)}
            | dict(zip(keys, names, strict=True))
            | {
                "last": f"{values[-1]:.2%}",
                "best": f"{max(values):.2%}",
                "seconds": round(sum(float(row["seconds"]) for row in curve), 1),
            }
        )


def _json_in(text: str) -> Any:
    """Return the JSON value in the output of a command, which may print other lines before it; None without any."""
    lines = text.splitlines()
    for start, line in enumerate(lines):
        if line in ("{", "[") or line.startswith(('{"', '["')):
            try:
                return json.loads("\n".join(lines[start:]))
            except ValueError:
                continue
    return None


def main(folder: Annotated[Path, typer.Argument(help="Folder of the results.")]) -> None:
    """Write both files."""
    found = collect(folder)
    (folder / "summary.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "summary.md").write_text(markdown(found), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
