"""A run killed at any moment ends, when it is called again, with the bytes of a run nobody killed."""
import json
import os
import signal
import time
from dataclasses import replace

import pytest
import torch

import w2snb.results.records
import w2snb.training.checkpoints
import w2snb.training.shared
import w2snb.core.files
from apart import start_apart, wait_apart
from w2snb.data.sources import DATASETS
from w2snb.experiments.running import run
from w2snb.models.build import build_model, to_device
from w2snb.results.records import Store
from w2snb.training.loop import train
from w2snb.training.objectives import FeatureObjective, LabelObjective, WeakObjective
from w2snb.training.recipes import RECIPES

WHAT = dict(experiment="digits", method="acd", seed=0, epochs=2, train_size=100, device="cpu")
WRITES = 11  # three shared networks, the student, the record, two checkpoints of each of three trainings


def compute(store, every=0.0, kill_at=None):
    """The run in a process of its own; it kills itself at a write if told to."""
    w2snb.training.checkpoints.Checkpoints.__init__.__defaults__ = (every, 2)
    count, write = [0], w2snb.core.files.write_atomic

    def dying(path, data):
        count[0] += 1
        if count[0] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return write(path, data)

    for module in (w2snb.training.checkpoints, w2snb.training.shared, w2snb.results.records):
        module.write_atomic = dying
    run(store=str(store), progress=False, **WHAT)


def compute_apart(*args, stop_after=300, **kwargs):
    """The exit code of the run in a process of its own, killed after some seconds."""
    return wait_apart(start_apart(compute, *args, **kwargs), stop_after)


def result(store):
    (record,) = [r for r in map(Store(store).get, [p.stem for p in store.glob("*.json")])]
    return json.dumps([record.metrics, record.history, record.correct], sort_keys=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    store = tmp_path_factory.mktemp("whole")
    assert compute_apart(store, every=1e9) == 0
    return result(store)


@pytest.mark.slow
def test_killed_at_random(undisturbed, tmp_path):
    expected, start = undisturbed, time.monotonic()
    assert compute_apart(tmp_path / "measured", every=1e9) == 0
    seconds = time.monotonic() - start
    moments = 0.9 * torch.rand(10, generator=torch.Generator().manual_seed(0)) * seconds
    killed = 0
    for i, moment in enumerate(moments.tolist()):
        store = tmp_path / str(i)
        killed += compute_apart(store, stop_after=moment) == -signal.SIGKILL
        assert compute_apart(store) == 0 and result(store) == expected, f"after {moment:.3f} of {seconds:.3f} s"
        assert not list(store.rglob("*.steps"))
    assert killed >= 5


@pytest.mark.parametrize("n", [n if n in (1, 6, WRITES) else pytest.param(n, marks=pytest.mark.slow) for n in range(1, WRITES + 1)])
def test_killed_at_every_write(undisturbed, tmp_path, n):
    assert compute_apart(tmp_path, kill_at=n) == -signal.SIGKILL
    assert compute_apart(tmp_path) == 0 and result(tmp_path) == undisturbed


def test_stopped_by_hand(tmp_path, monkeypatch):
    """Ctrl-C in the student's second epoch: one sentence, and the next call goes on."""
    monkeypatch.setattr(w2snb.training.checkpoints.Checkpoints.__init__, "__defaults__", (0.0, 2))
    calls, end = [], WeakObjective.epoch_end

    def stop(self):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return end(self)

    monkeypatch.setattr(WeakObjective, "epoch_end", stop)
    with pytest.raises(KeyboardInterrupt, match="stopped; the same call goes on after epoch 1"):
        run(store=tmp_path, progress=False, **WHAT)
    assert not list(tmp_path.glob("*.json"))
    run(store=tmp_path, progress=False, **WHAT)
    assert len(calls) == 3  # the second epoch, done again


def test_a_projector_goes_on_too(tmp_path, monkeypatch):
    """A feature method trains a projector beside the student; both are in the checkpoint."""
    what = WHAT | dict(experiment="digits-cnn_from_cnn", method="fitnet", epochs=3, progress=False)
    monkeypatch.setattr(w2snb.training.checkpoints.Checkpoints.__init__, "__defaults__", (0.0, 2))
    whole, calls, end = run(store=tmp_path / "whole", **what), [], FeatureObjective.epoch_end

    def stop(self):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return end(self)

    monkeypatch.setattr(FeatureObjective, "epoch_end", stop)
    with pytest.raises(KeyboardInterrupt, match="after epoch 1"):
        run(store=tmp_path / "cut", **what)
    again = run(store=tmp_path / "cut", **what)
    assert (again.metrics, again.history, again.correct) == (whole.metrics, whole.history, whole.correct)


def test_everything_random_goes_on(tmp_path):
    """Mixed and distorted images, normalised in chunks: whatever draws numbers goes on where it was."""
    x = torch.randint(0, 256, (64, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    recipe = replace(RECIPES["v1"], batch=32, bn_chunk=16, epochs=4, warmup=0.25)

    class Cut(LabelObjective):
        def epoch_end(self):
            if os.path.exists(tmp_path / "after-000002.pt"):
                raise KeyboardInterrupt
            return {}

    def go(objective, folder=None):
        torch.manual_seed(0)
        net = to_device(build_model("resnet8", 100), x)
        kept = w2snb.training.checkpoints.Checkpoints(folder, every=0.0) if folder else None
        return train(net, x, objective(torch.arange(64)), recipe, DATASETS["cifar100"], 0, checkpoints=kept)

    whole = go(LabelObjective)
    with pytest.raises(KeyboardInterrupt):
        go(Cut, tmp_path)
    again = go(LabelObjective, tmp_path)
    assert again.history == whole.history
    assert all(torch.equal(a, b) for a, b in zip(again.model.state_dict().values(), whole.model.state_dict().values()))
