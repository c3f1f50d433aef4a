"""Whatever call fails, and wherever a process is killed: nothing is lost, doubled or half, and the next call goes on."""

import os
import time

import numpy as np
import pytest
import torch
from torch import nn

from conftest import ROOT
from faults import KINDS, every_fault
from w2snb.core.files import write_atomic
from w2snb.core.locks import Lock, living
from w2snb.data.images import digits
from w2snb.models.features import frozen_features
from w2snb.reporting.lookup import find_parts
from w2snb.reporting.regenerating import write_table
from w2snb.reporting.tables import make_sheets
from w2snb.results.index import store_index
from w2snb.results.records import Store, read_records
from w2snb.training.checkpoints import Checkpoints
from w2snb.training.loop import Fit
from w2snb.training.shared import shared_fit, stored_fit

RECORDS = read_records(ROOT / "reports" / "results" / "digits.jsonl")[:3]
KINDS = [pytest.param(k, marks=pytest.mark.quick) if k == "ENOSPC" else k for k in KINDS]
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.parametrize("kind", KINDS)]


def visible(folder):
    """Files that have a name of their own; what begins with a dot was never finished."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts))


def test_a_record(kind, tmp_path):
    old, new = RECORDS[0], RECORDS[0].model_copy(update=dict(seconds=RECORDS[0].seconds + 1))

    def prepare(folder):
        Store(folder).put(old)
        write_atomic(Store(folder).fit_path(old.id), b"a student")

    def check(folder, finished):
        assert Store(folder).get(old.id) in ((new,) if finished else (old, new))
        assert not finished or visible(folder) == [folder / f"{old.id}.json"]

    assert every_fault(prepare, lambda folder: Store(folder).put(new), check, tmp_path, kind) >= 5


def test_a_checkpoint(kind, tmp_path):
    state = lambda n: dict(step=n, weights=torch.arange(4.0) + n)  # noqa: E731

    def prepare(folder):
        Checkpoints(folder).save(1, state(1)), Checkpoints(folder).save(2, state(2))

    def check(folder, finished):
        newest = Checkpoints(folder).newest()
        assert newest["step"] in ((3,) if finished else (2, 3)) and newest["weights"].tolist() == (torch.arange(4.0) + newest["step"]).tolist()
        assert len(visible(folder)) <= (2 if finished else 3)

    assert every_fault(prepare, lambda folder: Checkpoints(folder).save(3, state(3)), check, tmp_path, kind) >= 5


def test_a_shared_network(kind, tmp_path):
    build = lambda: nn.Linear(2, 1)  # noqa: E731

    def make(model):
        nn.init.constant_(model.weight, 3)
        return Fit(model, dict(loss=[0.5]), 1.0, 100.0)

    def check(folder, finished):
        fit = stored_fit(folder / "network.safetensors", build)
        assert (fit is None and not finished) or fit.model.weight.tolist() == [[3, 3]]

    act = lambda folder: shared_fit(folder / "network.safetensors", build, make)  # noqa: E731
    assert every_fault(lambda folder: None, act, check, tmp_path, kind) >= 3


def test_features(kind, tmp_path, monkeypatch):
    images, expected = digits()[:12], []

    def act(folder):
        monkeypatch.setenv("W2SNB_CACHE", str(folder))
        x = frozen_features(images, "digits_random_cnn", device="cpu", batch=4, shard=8, progress=False)
        expected.append(np.array(x))
        assert np.array_equal(x, expected[0])

    def check(folder, finished):
        whole = [p for p in (folder / "features").glob("*/x.npy") if not p.parent.name.startswith(".")]
        assert len(whole) == 1 if finished else len(whole) <= 1
        assert all(np.array_equal(np.load(p), expected[0]) for p in whole if expected)

    assert every_fault(lambda folder: None, act, check, tmp_path, kind) >= 8


def test_an_index(kind, tmp_path):
    def prepare(folder):
        for r in RECORDS:
            Store(folder).put(r)

    def check(folder, finished):
        if finished:
            assert store_index(Store(folder))["status"].tolist() == [r.status for r in sorted(RECORDS, key=lambda r: r.id)]
        assert [Store(folder).get(r.id) for r in RECORDS] == RECORDS

    assert every_fault(prepare, lambda folder: store_index(Store(folder)), check, tmp_path, kind) >= 5


def test_a_lock(kind, tmp_path):
    def act(folder):
        lock = Lock(folder / "locks", "work")
        assert lock.try_acquire(), "nobody has it"
        try:
            count = folder / "count"
            write_atomic(count, str(int(count.read_text()) + 1))
        finally:
            lock.release()

    def check(folder, finished):
        for path in (folder / "locks").glob("*.lock"):
            if not path.read_bytes():  # killed before it had written its name: this counts for some seconds, which pass here
                os.utime(path, (time.time() - 60,) * 2)
        assert int((folder / "count").read_text()) in (0, 1, 2) and not living(folder / "locks")

    assert every_fault(lambda folder: write_atomic(folder / "count", "0"), act, check, tmp_path, kind) >= 5


def test_a_report(kind, tmp_path):
    sheets = make_sheets("digits_labels", "Labels", find_parts("digits_labels"))[:1]
    write_table("digits_labels", sheets, tmp_path / "whole")
    whole = {p.name: p.read_bytes() for p in visible(tmp_path / "whole")}

    def check(folder, finished):
        found = {p.name: p.read_bytes() for p in visible(folder)}
        assert found.items() <= whole.items() and (found == whole or not finished)

    assert every_fault(lambda folder: None, lambda folder: write_table("digits_labels", sheets, folder), check, tmp_path, kind) >= 5
