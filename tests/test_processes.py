"""Two processes leave the record that one leaves which cuts its batches in the same chunks."""
import os
import subprocess
import sys

import pytest
import torch

from w2snb.core.locks import Busy, Lock, living
from w2snb.experiments import running
from w2snb.experiments.registry import resolve
from w2snb.experiments.running import run
from w2snb.results.records import Store
from w2snb.training.loop import check_team
from w2snb.training.recipes import RECIPES
from w2snb.training.team import Team, launch

WHAT = dict(experiment="digits-cnn_from_cnn", epochs=2, train_size=256, device="cpu")
CALL = "import torch; torch.set_num_threads({threads}); torch.ones(999, 999) @ torch.ones(999, 999); from w2snb.experiments.running import run; run(store={store!r}, progress=False, save={save}, **{what!r})"


def close(a, b, eps=2e-3):
    """Numbers, and lists of numbers, equal to float tolerance after some dozen steps."""
    return torch.allclose(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64), atol=eps, rtol=eps)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The records of one process, by method."""
    store = tmp_path_factory.mktemp("one")
    return {m: run(**WHAT, method=m, bn_chunk=16, store=store, progress=False) for m in ("acd", "kd")}


def same(record, one):
    assert record.id == one.id
    assert record.params["training"]["bn_chunk"] == 16
    for k in ("student_loss", "ceiling_loss", "teacher_loss"):
        assert close(record.history[k], one.history[k]), k
    assert close([record.metrics[k] for k in ("student", "teacher", "ceiling")], [one.metrics[k] for k in ("student", "teacher", "ceiling")], 0.01)
    if record.method == "acd":
        assert close(record.history["weight_histogram"], one.history["weight_histogram"], 0.02)


def test_from_a_notebook(one, tmp_path):
    """Under force, too, and then the record is a new one."""
    before = one["acd"].model_copy(update=dict(message="of a run long ago"))
    Store(tmp_path).put(before)
    code = CALL.format(threads=2, store=str(tmp_path), save=True, what=WHAT | dict(method="acd", num_processes=2, force=True))  # its threads are not its children's
    alone = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, env=alone)
    record = run(**WHAT, method="acd", num_processes=2, store=tmp_path, progress=False)
    assert record.message == "" and record.provenance["processes"] == 2
    same(record, one["acd"])


@pytest.mark.slow
def test_accelerate_launch(one, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(CALL.format(threads=1, store=str(tmp_path), save=True, what=WHAT | dict(method="kd", num_processes=2)))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    subprocess.run([*command, str(script)], check=True, timeout=300)
    assert len(list(tmp_path.glob("*.json"))) == 1
    same(run(**WHAT, method="kd", bn_chunk=16, store=tmp_path, progress=False), one["kd"])


def test_a_team_waits_for_others(one, tmp_path, monkeypatch):
    """It starts once nobody else computes the run, and holds the run and the networks it will train."""
    record, waited, held = one["acd"], [], []
    other = Lock(tmp_path / "locks", f"run-{record.id}")
    assert other.try_acquire()
    monkeypatch.setattr(Busy, "wait", lambda busy: (waited.append(busy.lock.name), other.release()))
    monkeypatch.setattr(running, "launch", lambda *_, **__: held.extend(living(tmp_path / "locks")))
    run(**WHAT, method="acd", num_processes=2, store=tmp_path, progress=False)
    assert waited == [f"run-{record.id}"] and waited[0] in held
    assert [name[:4] for name in sorted(held)] == ["fit-", "fit-", "run-"]  # teacher, student alone
    held.clear()
    run(**WHAT, method="acd", num_processes=2, store=tmp_path, progress=False)
    assert not held and not living(tmp_path / "locks")  # all is there


def test_what_failed_is_said(tmp_path):
    """By this process if it can be known, else the last word of the one that failed."""
    with pytest.raises(ValueError, match="resnet8 does not take images of 8x8x1"):
        run("digits", student="resnet8", num_processes=2, store=tmp_path, progress=False)
    with pytest.raises(RuntimeError, match="a process of the team failed: ZeroDivisionError"):
        launch(lambda: 1 // 0, 2, cpu=True)


@pytest.mark.quick
def test_refusals():
    with pytest.raises(ValueError, match="num_processes=5 does not divide the batch of 64"):
        resolve("digits", num_processes=5)
    with pytest.raises(ValueError, match="compile=True with num_processes"):
        resolve("digits", num_processes=2, compile=True)
    with pytest.raises(ValueError, match="2 processes normalise in chunks"):
        check_team(Team(0, 2), RECIPES["digits"], 100)
