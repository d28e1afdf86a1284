"""Chaos: workers of a study are killed at random moments, and each is replaced at once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from processes import PATIENCE_SECONDS, Command
from sqlalchemy import Engine, create_engine, func, select

from budgetnas.storage import tables

_MAX_LATER_SECONDS = 0.3


@dataclass(frozen=True)
class Havoc:
    """What was done.

    Attributes:
        killed: Numbers of the killed processes.
        codes: How all others ended.
        told: What all processes wrote.
    """

    killed: tuple[int, ...]
    codes: tuple[int, ...]
    told: str


def wreak(
    url: str, start: Callable[[], Command], *, workers: int, kills: int, epochs: int, generator: random.Random
) -> Havoc:
    """Kill workers at random moments of a study that records about `epochs` epochs in all; wait for the others.

    Each kill comes a random time after a random number of epochs is recorded, so that on a slow machine as on a fast
    one they are spread over the study, and hits any worker: one that trains, or one that has just been started.
    """
    moments = sorted(generator.uniform(0, 0.9 * epochs) for _ in range(kills))
    engine = create_engine(url)  # reads beside the writers, as no engine of the program does
    killed: list[Command] = []
    try:
        with ExitStack() as stack:
            running = [stack.enter_context(start()) for _ in range(workers)]
            for moment in moments:
                deadline = time.monotonic() + PATIENCE_SECONDS
                while _recorded(engine) < moment:
                    assert time.monotonic() < deadline, "\n".join(one.told() for one in running)
                    ended = [one for one in running if one.code is not None]
                    assert not ended, f"ended with {ended[0].code}:\n{ended[0].told()}"
                    time.sleep(0.01)
                time.sleep(generator.uniform(0, _MAX_LATER_SECONDS))
                victim = running.pop(generator.randrange(workers))
                assert victim.kill(), f"ended with {victim.code}:\n{victim.told()}"
                killed.append(victim)
                running.append(stack.enter_context(start()))
            codes = tuple(one.wait() for one in running)
            told = "\n".join(one.told() for one in (*killed, *running))
            return Havoc(tuple(one.pid for one in killed), codes, told)
    finally:
        engine.dispose()


def wreak_to_the_end(
    url: str,
    start: Callable[[], Command],
    *,
    workers: int,
    gap: float,
    generator: random.Random,
    restart: Callable[[], None] | None = None,
) -> Havoc:
    """Kill a worker after every few recorded epochs, until the study and its final have ended.

    Args:
        url: The storage.
        start: Starts a worker.
        workers: Number of workers at a time.
        gap: Mean number of epochs between two kills.
        generator: Decides the moments and the victims.
        restart: Restarts the database server; called once, before one of the first kills.
    """
    engine = create_engine(url, pool_pre_ping=True)
    killed: list[Command] = []
    ended: list[Command] = []
    moment, restart_before = 0.0, generator.randrange(1, 4)
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        running = [stack.enter_context(start()) for _ in range(workers)]
        while True:
            moment += generator.expovariate(1 / gap)
            deadline = time.monotonic() + PATIENCE_SECONDS
            while running and _recorded(engine) < moment:
                assert time.monotonic() < deadline, "\n".join(one.told() for one in running)
                time.sleep(0.01)
                ended += [one for one in running if one.code is not None]
                running = [one for one in running if one.code is None]
            time.sleep(generator.uniform(0, _MAX_LATER_SECONDS))
            if not running:
                break
            if restart is not None and len(killed) == restart_before:
                restart_before = -1
                restart()
                continue
            victim = running.pop(generator.randrange(len(running)))
            (killed if victim.kill() else ended).append(victim)  # it may have ended in this moment
            running += [stack.enter_context(start()) for _ in range(workers - len(running))]
        if restart is not None:  # a program that starts while the server is away refuses
            ended = [one for one in ended if not (one.code == 2 and "cannot be opened" in one.told())]
        codes = tuple(one.wait() for one in ended)
        told = "\n".join(one.told() for one in (*killed, *ended))
        return Havoc(tuple(one.pid for one in killed), codes, told)


def _recorded(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(select(func.count()).select_from(tables.epochs)) or 0)
