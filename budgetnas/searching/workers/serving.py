"""``worker --all``: one worker of the queue in this process, or a pool of them."""

from __future__ import annotations

from budgetnas.errors import SearchFailedError
from budgetnas.runs.interrupts import Stopper
from budgetnas.searching.callbacks import MessageCallbacks
from budgetnas.searching.loop import reporting_outcome
from budgetnas.searching.options import SearchOptions
from budgetnas.searching.workers.pools import gpus, idle_gpus, pool_for
from budgetnas.searching.workers.queue import run_queue_worker
from budgetnas.searching.workers.supervisor import WatchedQueue, run_pool
from budgetnas.searching.workers.worker import WorkerRequest, WorkerResult
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import for_other_processes, parse_storage
from budgetnas.training import runtime_rules


def train_queue(
    request: WorkerRequest, options: SearchOptions, stopper: Stopper, callbacks: MessageCallbacks
) -> WorkerResult:
    """Train what is queued in a storage, in this process or by a pool of workers.

    Args:
        request: What each worker does.
        options: Which pool: device, workers, per_device, ray and gpus_per_trial.
        stopper: Requests to stop.
        callbacks: Called with what the workers report.

    Raises:
        InputError: If the storage cannot be opened, or this machine cannot have such a pool.
    """
    url = parse_storage(request.storage)
    rules = runtime_rules(request.device, request.precision)
    if (idle := idle_gpus(options, gpus(request.device, rules))) is not None:
        callbacks.on_message(idle)
    with pool_for(options, url, rules) as pool:
        if pool is None:
            return run_queue_worker(request, stopper, callbacks)
        records = open_records(url)
        for note in rules.notes:
            callbacks.on_message(note)
        callbacks.on_message(f"the queue is trained by {pool.workers} workers")
        data_dir = None if request.data_dir is None else request.data_dir.expanduser().absolute()
        here = {"storage": for_other_processes(url), "data_dir": data_dir, "threads": pool.threads, "planned": True}
        each = request.model_copy(update=here)
        with reporting_outcome(callbacks) as outcome, stopper.listening():
            run_pool(pool, each, WatchedQueue(records), stopper, callbacks)
            if (reason := pool.failure()) is not None:
                raise SearchFailedError(f"no worker is left: {reason}")
            outcome.finished = True
    return WorkerResult(records, outcome)
