"""What the tests of sweeps and the campaign share: sweeps as processes of their own, and what must hold afterwards."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from w2snb.experiments.plans import plan_jobs, read_state, requests
from w2snb.results.records import Store

ROOT = Path(__file__).resolve().parent.parent
SHORT = ["epochs=1", "train_size=50", "device=cpu"]  # a run of a second or two
WHAT = ["digits", "--methods", "soft_ce", "acd", "--seeds", "0-1"]  # two jobs of two runs

# Imported by every Python process that is started with its folder on PYTHONPATH: kills the process once, at a named write.
KILLER = """
import os, re, signal
_what, _once, _replace, _open = os.environ.get("W2SNB_KILL_AT"), os.environ.get("W2SNB_KILL_ONCE"), os.replace, os.open
def _die(target):
    if not re.search(_what, str(target)): return
    try: os.close(_open(_once, os.O_CREAT | os.O_EXCL))
    except FileExistsError: return
    os.kill(os.getpid(), signal.SIGKILL)
def _dying_replace(a, b, **k):
    after = os.environ.get("W2SNB_KILL_WHEN") == "after"
    if not after: _die(b)
    _replace(a, b, **k)
    if after: _die(b)
def _dying_open(path, flags, *a, **k):
    lock = flags & os.O_EXCL and str(path).endswith(".lock")
    if lock and os.environ.get("W2SNB_KILL_WHEN") == "before": _die(path)
    handle = _open(path, flags, *a, **k)
    if lock: _die(path)
    return handle
if _what: os.replace, os.open = _dying_replace, _dying_open
"""


def start(store, *words, what=WHAT, short=SHORT, **environment):
    """The command in a process of its own."""
    command = [sys.executable, "-c", "from w2snb.experiments.sweeps import main; main()", *what, *short, "--store", str(store), *words]
    env = os.environ | dict(OMP_NUM_THREADS="1", W2SNB_STORE=str(store)) | {k: str(v) for k, v in environment.items()}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def finish(process, timeout=240):
    """Its exit status and what it said."""
    try:
        said, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill_all(process.pid)
        said, _ = process.communicate()
        raise AssertionError(f"still there after {timeout} s: {said[-2000:]}")
    return process.returncode, said


def sweep(store, *words, timeout=240, **kwargs):
    return finish(start(store, *words, **kwargs), timeout)


def descendants(pid):
    """Processes that were started by it, and by those."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def kernels(pid):
    return [p for p in descendants(pid) if "ipykernel_launcher" in " ".join(cmdline(p))]


def cmdline(p):
    try:
        return p.cmdline()
    except psutil.Error:
        return []


def kill_all(pid):
    for p in descendants(pid):
        try:
            p.kill()
        except psutil.Error:
            pass
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def planned(store, methods=("soft_ce", "acd"), seeds=(0, 1), experiment="digits", **short):
    short = short or dict(epochs=1, train_size=50, device="cpu")
    return [r for j in plan_jobs(requests(experiment, list(methods), list(seeds), store=str(store), **short)) for r in j.runs]


def result(record):
    """What must be the same however often it was killed."""
    return json.dumps([record.metrics, record.history, record.correct], sort_keys=True)


def check(store, expected):
    """Every record is valid, none is missing, none is there twice, all are what they are without disturbance."""
    store = Store(store)
    records = {p.stem: store.get(p.stem) for p in store.folder.glob("*.json")}  # raises for a damaged one
    assert "failed" not in {r.status for r in records.values()}, [r.message for r in records.values()]
    assert {id: result(r) for id, r in records.items()} == expected
    state = read_state(store)
    assert state.done == expected.keys(), "each run is done"
    assert state.notebooks == set(expected), "each has its notebook"
    for path in (store.folder / "notebooks").glob("*.ipynb"):
        json.loads(path.read_text())


def seconds_of(store):
    """When each record was computed and how long that took: a record that is computed again has another pair."""
    return {r.id: (r.seconds, r.provenance["date"]) for r in Store(store).records()}
