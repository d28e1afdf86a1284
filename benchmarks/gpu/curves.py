"""The curves of the replays in a folder, as a CSV file: every ``replay_NAME.db`` has one run."""

from __future__ import annotations

import csv
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

COLUMNS = ("epoch", "train_loss", "train_accuracy", "eval_loss", "eval_accuracy", "seconds")


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of the databases.")],
    out: Annotated[Path, typer.Option(help="CSV file.")],
) -> None:
    """Write all epochs, and print the last and the best of each run."""
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("run", *COLUMNS))
        for path in sorted(folder.glob("replay_*.db")):
            name = path.stem.removeprefix("replay_")
            with closing(sqlite3.connect(path)) as connection:
                rows = connection.execute(f"SELECT {', '.join(COLUMNS)} FROM epochs ORDER BY epoch").fetchall()
            writer.writerows((name, *row) for row in rows)
            if rows:
                best, seconds = max(row[4] for row in rows), sum(row[5] for row in rows)
                print(f"{name}: {len(rows)} epochs, last {rows[-1][4]:.4f}, best {best:.4f}, {seconds:.1f} s")


if __name__ == "__main__":
    typer.run(main)
