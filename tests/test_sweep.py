"""Sweeps with real processes: what is killed, hangs or exits costs time, never a record."""
import os
import signal
import subprocess
import threading

import nbformat
import pytest

import sweeping
from sweeping import check, kernels, planned, result, wait_for
from conftest import ROOT
from w2snb.experiments.plans import note_failed
from w2snb.experiments.running import run_many
from w2snb.experiments.sweeps import main, plan, store_status, sweep
from w2snb.results.records import Store, read_records

SHORT = dict(epochs=1, train_size=50, device="cpu")


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What four runs give if nobody disturbs them: id -> result."""
    store = tmp_path_factory.mktemp("whole")
    return {r.id: result(r) for r in run_many("digits", ["soft_ce", "acd"], [0, 1], store=store, progress=False, **SHORT)} | dict(store=store)


def of_seed(expected, seed):
    return {r.id: expected[r.id] for r in run_many("digits", ["soft_ce", "acd"], [seed], store=expected["store"], progress=False, **SHORT)}


@pytest.mark.slow
def test_killed_kernel_and_killed_driver(expected, tmp_path):
    """A kernel is killed, and another takes its place; the driver is killed, its kernel follows, and the next call does the rest."""
    whole, locks = of_seed(expected, 0), tmp_path / "locks"
    first = sweeping.start(tmp_path, what=["digits", "--methods", "soft_ce", "acd"])
    try:
        (kernel,) = wait_for(lambda: kernels(first.pid))
        wait_for(lambda: list(locks.glob("run-*")))  # it is at work
        kernel.kill()
        (orphan,) = wait_for(lambda: [k for k in kernels(first.pid) if k.pid != kernel.pid])
        wait_for(lambda: list(locks.glob("run-*.1.lock")))  # the other has taken over
    finally:
        first.kill()
        first.communicate()
    wait_for(lambda: not orphan.is_running(), 60)
    before = sweeping.seconds_of(tmp_path)
    assert len(sweep("digits", ["soft_ce", "acd"], [0], store=tmp_path, progress=False, **SHORT).done) == 2
    check(tmp_path, whole)
    after = sweeping.seconds_of(tmp_path)
    assert {id: after[id] for id in before} == before, "what was done was not computed again"
    assert not list((tmp_path / "locks").glob("*.lock")) and not list(tmp_path.rglob("*.steps"))


def test_stopped_by_hand(tmp_path):
    """Ctrl-C ends all kernels and says how to go on."""
    def press():
        wait_for(lambda: kernels(os.getpid()))
        wait_for(lambda: list((tmp_path / "locks").glob("run-*")))  # it is at work, and known to the engine
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt, match="stopped: 0 of 1 runs are done; the same command goes on"):
        sweep("digits", ["acd"], [0], store=tmp_path, progress=False, **SHORT | dict(epochs=1000))
    assert not kernels(os.getpid()) and not list(tmp_path.glob("*.json")) and not list((tmp_path / "locks").glob("job-*"))


BAD = """import os, sys, time
if seed == 0: sys.exit(0)
if seed == 1: raise KeyError('missing')
if seed == 2: time.sleep(10_000)
if seed == 3: os.kill(os.getpid(), 9)"""


def notebook(path, code=BAD):
    """Stands in for run_experiment: seed 0 exits, 1 fails, 2 hangs, 3 kills its kernel."""
    nbformat.write(
        nbformat.v4.new_notebook(cells=[
            nbformat.v4.new_code_cell("seed = -1", metadata=dict(tags=["parameters"])),
            nbformat.v4.new_code_cell(code),
        ]), path)
    return path


WRONG = {0: "ended without a record, as after sys.exit(0)", 1: "KeyError: 'missing'", 2: "stopped after 15 s", 3: "process died"}


@pytest.mark.parametrize("seeds", [pytest.param([0, 1, 2, 3], marks=pytest.mark.slow), [3]], ids=str)
def test_what_goes_wrong_in_a_notebook(seeds, tmp_path):
    store = tmp_path / "store"
    asked = dict(store=store, epochs=1, train_size=50, device="cpu")
    bad = notebook(tmp_path / "bad.ipynb")
    if 2 in seeds:
        sweep("digits", ["acd"], [2], notebook=bad, timeout=15, progress=False, **asked)
    end = sweep("digits", ["acd"], seeds, notebook=bad, timeout=300, workers=2, progress=False, **asked)
    records = {r.seed: r for r in Store(store).records()}
    assert {r.status for r in records.values()} == {"failed"} and end.failed == {r.id for r in end.runs}
    for seed in seeds:
        assert WRONG[seed] in records[seed].message, records[seed].message
    again = sweep("digits", ["acd"], seeds, progress=False, **asked)
    assert again.failed == end.failed, "what failed stays failed until somebody asks"
    other = notebook(tmp_path / "other.ipynb", "raise KeyError('again')")
    sweep("digits", ["acd"], seeds[-1:], notebook=other, retry_failed=True, progress=False, **asked)
    assert [r.message for r in Store(store).records() if r.seed == seeds[-1]] == ["KeyError: 'again'"]


def test_several_at_once(expected, tmp_path, monkeypatch):
    """Three sweeps on one store, two of which have the same jobs and one the same runs in others: every record is written once."""
    tool, log = tmp_path / "tool", tmp_path / "log"
    tool.mkdir()
    (tool / "sitecustomize.py").write_text(
        "import os\n_replace = os.replace\n"
        "def replace(a, b, **k):\n    open(os.environ['W2SNB_TEST_LOG'], 'a').write(f'{b}\\n'); _replace(a, b, **k)\nos.replace = replace\n")
    monkeypatch.setenv("PYTHONPATH", str(tool))
    monkeypatch.setenv("W2SNB_TEST_LOG", str(log))
    store = tmp_path / "store"
    asked = [["soft_ce", "acd"], ["soft_ce", "acd"], ["acd", "soft_ce"]]
    ended = []
    crowd = [threading.Thread(target=lambda m=m: ended.append(sweep("digits", m, [0, 1], store=store, workers=1, notebooks=False, progress=False, **SHORT))) for m in asked]
    for t in crowd:
        t.start()
    for t in crowd:
        t.join(300)
    assert [len(plan.done) for plan in ended] == [4] * 3
    records = [line for line in log.read_text().splitlines() if line.endswith(".json")]
    assert len(records) == len(set(records)) == 4
    assert {r.id: result(r) for r in Store(store).records()} == {id: r for id, r in expected.items() if id != "store"}


@pytest.mark.slow
def test_dask_survives_a_lost_worker(expected, tmp_path):
    """The job of a worker that is killed is done by another."""
    pytest.importorskip("distributed")
    ended = []
    work = threading.Thread(target=lambda: ended.append(sweep("digits", ["soft_ce", "acd"], [0], engine="dask", workers=2, store=tmp_path, progress=False, **SHORT)))
    work.start()
    kernel = wait_for(lambda: kernels(os.getpid()) or not work.is_alive())
    if kernel is not True:
        worker = kernel[0].parent()
        assert worker.pid != os.getpid()
        worker.kill()
    work.join(300)
    assert len(ended[0].done) == 2 and not ended[0].failed
    check(tmp_path, of_seed(expected, 0))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own; asks for the right to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small disk is refused here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_full_disk(small_disk):
    """One sentence, and nothing half-written."""
    (small_disk / "rest").write_bytes(bytes(200_000))
    asked = dict(store=small_disk / "store", progress=False, notebooks=False, **SHORT)
    with pytest.raises(OSError, match="No space left on device"):
        sweep("digits", ["acd"], [0], **asked)
    assert not list((small_disk / "store").glob("*.json")) and not list((small_disk / "store" / "locks").glob("*.lock"))


def test_read_only_store(small_disk, capsys):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(SystemExit) as end:
        main(["digits", "--store", str(small_disk / "store")])
    assert end.value.code == 2
    last = capsys.readouterr().err.strip()
    assert last.startswith("w2snb_sweep: store ") and last.endswith("cannot be written: Read-only file system") and "\n" not in last


@pytest.mark.quick
@pytest.mark.parametrize(
    "words, sentence",
    [
        (["digts"], "digts: no table and no experiment"),
        (["digits", "methd=kd"], "methd: did you mean method?"),
        (["digits", "--shard", "9/8"], "shard 9/8: the first of 8 is 1/8"),
        (["digits", "--notebook", "no.ipynb"], "no.ipynb is not there"),
        (["cifar100_pairs", "data=no/such/folder"], "data folder "),
        ([], "name a table or an experiment"),
    ],
)
def test_wrong_words(words, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main([*words, "--store", str(tmp_path / "store")])
    said = capsys.readouterr().err.strip()
    assert end.value.code == 2 and said.startswith("w2snb_sweep: ") and sentence in said and "\n" not in said, said
    assert not (tmp_path / "store").exists()


def test_a_plan_knows_what_is_done_damaged_and_failed(tmp_path):
    """By its records alone, among many others."""
    runs, (some, *_) = plan("digits_losses", store=tmp_path).runs, read_records(ROOT / "reports" / "results" / "digits.jsonl")
    text = some.to_json()
    for i in range(1000):
        id = runs[i].id if i < 100 else f"{i:016x}"
        (tmp_path / f"{id}.json").write_text(text.replace(some.id, id))
    (tmp_path / f"{runs[100].id}.json").write_text(text[:200])
    note_failed(Store(tmp_path), runs[101], "it had to", 1.0)
    found = plan("digits_losses", store=tmp_path)
    assert found.done == {r.id for r in runs[:100]} and found.damaged == {runs[100].id} and found.failed == {runs[101].id}
    assert "1 damaged record will be computed again" in str(found) and "1 damaged" in store_status(Store(tmp_path))
    assert found.seconds > 98 * some.seconds


@pytest.mark.quick
def test_shards_together_are_the_whole(tmp_path):
    whole = {r.id for r in plan("probes_scaled", store=tmp_path).runs}
    parts = [r.id for i in (1, 2, 3) for r in plan("probes_scaled", shard=f"{i}/3", store=tmp_path).runs]
    assert sorted(parts) == sorted(whole) and len(planned(tmp_path)) == 4
