"""A Dask cluster as the place where joblib's tasks run."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from backbench import UserError

PATIENCE = 10
"""Seconds a scheduler has to answer, and a worker to be there."""


@contextmanager
def connected(scheduler: str) -> Iterator:
    """Within it ``joblib.Parallel`` runs on the cluster at this Dask address; gives Dask's client.

    Raises UserError where Dask isn't installed, nothing answers there, there is no worker, or workers die one after
    another over the same task.
    """
    try:
        from dask.distributed import Client, KilledWorker
    except ImportError:
        raise UserError("--scheduler needs Dask: pip install 'backbench[cluster]'") from None
    import joblib

    start = "dask scheduler, and on each machine: dask worker ADDRESS --nthreads 1"
    with ExitStack() as stack:
        try:
            client = stack.enter_context(Client(scheduler, timeout=PATIENCE))
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            found = "no Dask worker has come to" if "workers" in str(error) else "no Dask scheduler answers at"
            raise UserError(f"{found} {scheduler} ({error}). Start one with: {start}") from None
        except (OSError, ValueError) as error:
            raise UserError(f"no Dask scheduler answers at {scheduler} ({error}). Start one with: {start}") from None
        stack.enter_context(joblib.parallel_config("dask", client=client))
        try:
            yield client
        except KilledWorker as error:
            raise UserError(
                f"workers at {scheduler} died over the same task, again and again ({error}). Mostly they lack memory. "
                "What was computed is kept: the same command goes on."
            ) from None
        except ModuleNotFoundError as error:
            raise UserError(f"the workers at {scheduler} lack {error.name}: install backbench there, too.") from None
