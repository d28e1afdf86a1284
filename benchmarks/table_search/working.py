"""Makes the searches that are left, in this process or in several, and tells how long it will take."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import typer

from benchmarks.table import Networks
from benchmarks.table_search.problem import Problem
from benchmarks.table_search.rows import Rows
from benchmarks.table_search.samplers import plans
from benchmarks.table_search.searching import Cell, Found, Task, search
from budgetnas.searching.study import quiet_optuna

_TOLD_EVERY_SECONDS: Final = 10.0
_Done = tuple[Task, list[Found], float]


def tasks_left(cells: Iterable[tuple[Cell, int]], rows: Rows) -> list[Task]:
    """Return what is to do, all kinds of searches in turn, so that what is interrupted has some of each.

    Where a sampler is not told how many trainings there will be, a shorter search is the beginning of a longer one,
    and is made once.

    Args:
        cells: What is measured, each with how many seeds.
        rows: What was found already.
    """
    together: dict[tuple[int, str, int, int], list[Cell]] = defaultdict(list)
    for cell, seeds in cells:
        for seed in range(seeds):
            if (cell, seed) not in rows:
                together[seed, cell.sampler, cell.limit, cell.searched if plans(cell.sampler) else 0].append(cell)
    return [Task(tuple(some), key[0]) for key, some in sorted(together.items())]


def work(tasks: Sequence[Task], networks: Networks, jobs: int, rows: Rows) -> None:
    """Do all tasks, and keep what each finds as soon as it is done.

    Args:
        tasks: What is to do.
        networks: The table.
        jobs: How many processes.
        rows: Where what is found is kept.
    """
    progress = _Progress(tasks, jobs)
    with _done(tasks, networks, jobs) as done:
        for task, found, seconds in done:
            rows.add(found)
            progress.tell(task, seconds)


@contextmanager
def _done(tasks: Sequence[Task], networks: Networks, jobs: int) -> Iterator[Iterator[_Done]]:
    if jobs == 1 or len(tasks) < 2:
        quiet_optuna()
        worker = _Worker(networks)
        yield map(worker.do, tasks)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # else every process starts a thread for every core
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(jobs, len(tasks)), _start, (networks,)) as pool:  # ends its processes when it is left
        yield pool.imap_unordered(_do, tasks)


class _Worker:
    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._problems: dict[int, Problem] = {}

    def do(self, task: Task) -> _Done:
        limit, started = task.cells[0].limit, time.perf_counter()
        if limit not in self._problems:
            self._problems[limit] = Problem(self._networks, limit)
        return task, search(task, self._problems[limit]), time.perf_counter() - started


_here: list[_Worker] = []
"""The worker of a process that was started for this."""


def _start(networks: Networks) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the process that writes; it ends the others
    quiet_optuna()
    _here.append(_Worker(networks))


def _do(task: Task) -> _Done:
    return _here[0].do(task)


class _Progress:
    """Tells on stderr how many searches are done, and the time left: by kind, since some take far longer."""

    def __init__(self, tasks: Sequence[Task], jobs: int) -> None:
        self._jobs = jobs
        self._all = len(tasks)
        self._left: dict[tuple[Cell, ...], int] = defaultdict(int)
        for task in tasks:
            self._left[task.cells] += 1
        self._took: dict[tuple[Cell, ...], list[float]] = defaultdict(list)
        self._told_at = time.monotonic()

    def tell(self, task: Task, seconds: float) -> None:
        self._left[task.cells] -= 1
        self._took[task.cells].append(seconds)
        if time.monotonic() - self._told_at >= _TOLD_EVERY_SECONDS:
            self._told_at = time.monotonic()
            left = sum(self._left.values())
            typer.echo(f"{self._all - left:,} of {self._all:,} searches, {self._remaining()} left", err=True)

    def _remaining(self) -> str:
        means = {kind: sum(took) / len(took) for kind, took in self._took.items()}
        unknown = any(count and kind not in means for kind, count in self._left.items())
        seconds = sum(count * means.get(kind, 0.0) for kind, count in self._left.items()) / self._jobs
        told = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:,.0f} min"
        return f"more than {told}" if unknown else f"about {told}"
