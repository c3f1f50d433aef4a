"""Committed records are what the present code would compute and name."""
import functools
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from conftest import ROOT
from w2snb.core.random import resolve_device
from w2snb.experiments.registry import EXPERIMENTS, resolve
from w2snb.experiments.running import run
from w2snb.experiments.tables import TABLES, table_configs
from w2snb.results.records import read_records
from w2snb.tasks.contract import TASKS, run_id, task_name
from w2snb.tasks.end_to_end import load_task

FILES = sorted((ROOT / "reports" / "results").glob("digits*.jsonl"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_ids_are_those_of_the_present_code(path):
    records = read_records(path)
    tasks = {}
    for r in records:
        config = resolve(r.experiment, r.method, r.seed, **{k: v for k, v in r.params["method_params"].items() if v is not None})
        place = (config.dataset, config.gold, config.teacher_seed)
        if place not in tasks:
            tasks[place] = load_task(config, resolve_device("cpu"))
        assert run_id(config, tasks[place].key) == r.id
    assert len({r.id for r in records}) == len(records)
    assert len({r.provenance["commit"] for r in records}) == 1 and "+changes" not in records[0].provenance["commit"]


ALL = sorted((ROOT / "reports" / "results").glob("*.jsonl*"))
KEYS = json.loads((ROOT / "tests" / "data_keys.json").read_text())  # of CIFAR-100's features, for records that do not hold it


@functools.cache
def digits_key():
    return load_task(resolve("digits", "acd"), resolve_device("cpu")).key


@pytest.mark.quick
@pytest.mark.parametrize("path", ALL, ids=lambda p: p.name)
def test_ids_follow_from_parameters_and_data(path):
    """Those of all committed records, whatever their task; any other parameter, or other data, make another."""
    for r in read_records(path):
        config = TASKS[task_name(r.params)].Config.from_plain(r.params)
        name = f"{config.student} {config.teacher} {config.precision}"
        known = r.provenance.get("data") or (digits_key() if config.dataset == "digits" else KEYS[name])
        data = SimpleNamespace(key=known)  # older records do not say what they were computed from
        assert config.plain() == r.params and run_id(config, data.key) == r.id
    others = [replace(config, seed=config.seed + 1), replace(config, weak_labels="asymmetric(0.1)"), replace(config, teacher=("a", "b"))]
    assert len({r.id, run_id(config, "other"), *(run_id(c, data.key) for c in others)}) == 5


@pytest.mark.real_data
def test_ids_of_trained_networks():
    """Those of the table, by the images themselves."""
    records = read_records(ROOT / "reports" / "results" / "cifar100_short.jsonl")
    configs = table_configs(TABLES["cifar100_short"])
    task = load_task(configs[0], resolve_device("cpu"))
    assert {c.teacher_seed for c in configs} == {0}
    assert sorted(run_id(c, task.key) for c in configs) == sorted(r.id for r in records)
    assert {r.provenance["data"] for r in records} == {task.key} and all("+changes" not in r.provenance["commit"] for r in records)


def test_metrics_are_those_of_the_present_code(tmp_path):
    short = dict(epochs=1, train_size=100, store=tmp_path, device="cpu", progress=False)
    keys = {e: run(e, "soft_ce", **short).metrics.keys() for e in ("digits", "digits-cnn_from_cnn")}
    for path in FILES:
        for r in read_records(path):
            if r.experiment in EXPERIMENTS:
                assert r.metrics.keys() == keys.get(r.experiment, keys["digits"])
