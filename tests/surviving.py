"""The whole campaign: kill -9 of kernels, drivers and Dask workers at random moments and at each named write.

python tests/surviving.py OUT.csv [moments] [kinds ...] adds a line for each trial; nbs/findings/surviving.ipynb shows them.
A trial is a sweep of two runs in a store of its own; what must hold afterwards is in tests/sweeping.py (`check`).
"""
import csv
import os
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

import sweeping
from sweeping import KILLER, check, kernels, result, wait_for
from w2snb.experiments.running import run_many
from w2snb.experiments.sweeps import sweep

SHORT = dict(epochs=1, train_size=50, device="cpu")
RUNS = dict(what="digits", methods=["soft_ce", "acd"], seeds=[0])
COMMAND = dict(what=["digits", "--methods", "soft_ce", "acd"])
ID = "[0-9a-f]{16}"
WRITES = dict(  # what is written -> (who writes it, its path)
    network=("kernel", rf"/fits/{ID}\.safetensors$"), record=("kernel", rf"/store/{ID}\.json$"), index=("driver", r"/index/records-\d+\.parquet$"),
    run_lock=("kernel", r"/locks/run-.*\.lock$"), network_lock=("kernel", r"/locks/fit-.*\.lock$"),
    job_lock=("driver", r"/locks/job-.*\.lock$"), notebook=("driver", rf"/notebooks/{ID}\.ipynb$"))


def here(store, **kwargs):
    """A sweep in this process; its kernels are not."""
    ended = []
    work = threading.Thread(target=lambda: ended.append(sweep(**RUNS, store=store, progress=False, **SHORT, **kwargs)))
    work.start()
    return work, ended


def kill_kernel(store, moment, **kwargs):
    """A kernel is killed; the sweep itself goes on."""
    work, ended = here(store, **kwargs)
    (kernel, *_) = wait_for(lambda: kernels(os.getpid()))
    time.sleep(moment)
    killed = kernel.is_running() and work.is_alive()
    if killed:
        (kernel.parent() if kwargs else kernel).kill()
    work.join(400)
    return killed, bool(ended) and len(ended[0].done) == 2


def kill_worker(store, moment):
    """A worker of a Dask cluster is killed, which its kernel notices."""
    return kill_kernel(store, moment, engine="dask", workers=2)


def kill_driver(store, moment):
    """The command is killed; nothing else."""
    process = sweeping.start(store, **COMMAND)
    time.sleep(moment)
    killed = process.poll() is None
    process.kill()
    process.communicate()
    return killed, True


def kill_write(store, who, path, when):
    """Who writes it dies just before or after."""
    tool = store.parent / "tool"
    tool.mkdir()
    (tool / "sitecustomize.py").write_text(KILLER)
    mine = os.environ.get("PYTHONPATH", "")
    given = dict(PYTHONPATH=os.pathsep.join([str(tool), mine]), W2SNB_KILL_AT=path, W2SNB_KILL_ONCE=str(store.parent / "killed"), W2SNB_KILL_WHEN=when)
    if who == "driver":
        sweeping.finish(sweeping.start(store, **COMMAND, **given))
    else:
        os.environ.update(given)
        work, ended = here(store)
        work.join(400)
        for name in given:
            os.environ.pop(name)
        os.environ["PYTHONPATH"] = mine
    return (store.parent / "killed").exists(), who == "driver" or bool(ended)


def trial(kind, expected, detail, act):
    """One line: was something killed, how many records were there, was all well in the end, how long did it take."""
    start, store = time.monotonic(), Path(tempfile.mkdtemp()) / "store"
    killed, alone = act(store)
    before = sweeping.seconds_of(store) if store.exists() else {}
    restarted = not alone or kind == "driver" or len(before) < 2
    try:
        ended = sweep(**RUNS, store=store, progress=False, **SHORT)
        assert len(ended.done) == 2, ended
        check(store, expected)
        after = sweeping.seconds_of(store)
        assert {id: after[id] for id in before} == before, "computed again"
        assert alone, "the sweep itself did not end"
        outcome = "all well"
    except Exception as e:  # a damaged record, a sweep that fails: whatever it is, it is what the line says
        outcome = (str(e) or repr(e)).splitlines()[0]
    return dict(killed=kind, at=detail, was_killed=killed, records_before_restart=len(before), restarted=restarted, outcome=outcome,
                seconds=round(time.monotonic() - start))


def main():
    out, moments, kinds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10, sys.argv[3:] or ["kernel", "driver", "worker", "write"]
    start, store = time.monotonic(), tempfile.mkdtemp()
    expected = {r.id: result(r) for r in run_many("digits", RUNS["methods"], RUNS["seeds"], store=store, progress=False, **SHORT)}
    process = sweeping.start(Path(tempfile.mkdtemp()) / "store", **COMMAND)
    start = time.monotonic()
    sweeping.finish(process)
    whole, draw = time.monotonic() - start, random.Random(os.getpid())
    trials = []
    for _ in range(moments):
        for kind, act in dict(kernel=kill_kernel, driver=kill_driver, worker=kill_worker).items():
            moment = draw.random() * whole * (1 if kind == "driver" else 0.6)
            if kind in kinds:
                trials.append((kind, f"{moment:.1f} s", lambda store, act=act, moment=moment: act(store, moment)))
    if "write" in kinds:
        trials += [(who, f"{when} {name.replace('_', ' ')}", lambda store, who=who, path=path, when=when: kill_write(store, who, path, when))
                   for when in ("before", "after") for name, (who, path) in WRITES.items()]
    for kind, detail, act in trials:
        row = trial(kind, expected, detail, act)
        new = not out.exists()
        with open(out, "a", newline="") as f:
            table = csv.DictWriter(f, row)
            if new:
                table.writeheader()
            table.writerow(row)
        print(row, flush=True)


if __name__ == "__main__":
    main()
