"""Processes that start warm: forked from one that has imported the libraries and runs no thread."""
import multiprocessing
import os

FORKS = multiprocessing.get_context("forkserver")  # a process with threads, as pytest's, must not be forked: the copy may wait for ever
FORKS.set_forkserver_preload([
    "pytest", "sklearn.datasets", "sklearn.linear_model", "sklearn.model_selection", "torch._dynamo", "torchmetrics.classification",
    "torchvision", "timm", "pandas", "pyarrow.parquet", "w2snb.experiments.running", "w2snb.results.index",
])  # fmt: skip


def _call(environment, function, *args, **kwargs):
    """In the new process: the environment is that of the caller, not of the process it is forked from."""
    import torch

    os.environ.clear(), os.environ.update(environment)
    torch.set_num_threads(1)
    function(*args, **kwargs)


def start_apart(function, *args, **kwargs):
    """A process that calls a function of a test file."""
    process = FORKS.Process(target=_call, args=(dict(os.environ), function, *args), kwargs=kwargs)
    process.start()
    return process


def wait_apart(process, seconds=300):
    """Its exit code; it is killed after some seconds."""
    process.join(seconds)
    if process.is_alive():
        process.kill()
    process.join()
    return process.exitcode
