"""Runs that go wrong, in every way a user can ask for, end with one sentence and leave nothing half-written."""
import json
import os
import shutil
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from w2snb.core.random import resolve_device, seeded
from w2snb.data.sources import DATASETS
from w2snb.experiments.registry import resolve
from w2snb.experiments.running import run, run_many
from w2snb.losses import METHODS, get_method
from w2snb.models.build import build_model
from w2snb.models.small import NETWORKS
from w2snb.results.records import Store, parse_record
from w2snb.tasks.end_to_end import feature_objective, load_task
from w2snb.training.loop import train
from w2snb.training.objectives import LabelObjective, WeakObjective
from w2snb.training.recipes import RECIPES

SHORT = dict(epochs=2, train_size=200, device="cpu", progress=False)
TINY = SHORT | dict(epochs=1, train_size=64)


def test_runs_of_one_seed_are_paired(tmp_path):
    records = run_many("digits", ["soft_ce", "acd", "hard_ce"], [0, 1], store=tmp_path, **SHORT)
    by_seed = {s: [r for r in records if r.seed == s] for s in (0, 1)}
    for same in by_seed.values():
        assert len({json.dumps([r.correct[k] for k in ("teacher", "student_alone", "ceiling")]) for r in same}) == 1
        assert len({r.correct["student"] for r in same}) > 1
    assert by_seed[0][0].correct["teacher"] != by_seed[1][0].correct["teacher"]


def test_many_equal_single(tmp_path):
    together = run_many("digits", ["soft_ce", "acd"], [3], store=tmp_path / "a", **SHORT)
    for record in together:
        alone = run("digits", record.method, 3, store=tmp_path / "b" / record.method, **SHORT)
        assert (alone.id, alone.metrics, alone.history, alone.correct) == (record.id, record.metrics, record.history, record.correct)


def test_one_teacher_for_all_seeds(tmp_path):
    records = run_many("digits", ["soft_ce"], [0, 1], teacher_seed=0, store=tmp_path, **SHORT)
    assert records[0].correct["teacher"] == records[1].correct["teacher"]
    assert records[0].correct["student"] != records[1].correct["student"]


def test_collapse_is_a_status(tmp_path):
    record = run("digits", "aug_conf", alpha=1.0, ramp_fraction=0.0, store=tmp_path, epochs=8, device="cpu", progress=False)
    assert record.status == "collapsed" and record.message.startswith("collapsed: the student predicts")
    assert Store(tmp_path).get(record.id).status == "collapsed"


@pytest.mark.slow
def test_nearly_uniform_teacher_collapses_acd(tmp_path):
    """The self-term of acd wins against a teacher that is right but has almost no opinion."""

    class Faint(nn.Module):
        def __init__(self, classes=10):
            super().__init__()
            self.inner = NETWORKS["digits_cnn"](classes)

        def forward(self, x):
            return 0.02 * self.inner(x)

    NETWORKS["faint"] = Faint
    try:
        record = run("digits", "acd", teacher="faint", tau=0.5, store=tmp_path, epochs=12, device="cpu", progress=False)
        listener = run("digits", "hard_ce", teacher="faint", store=tmp_path, epochs=12, device="cpu", progress=False)
    finally:
        del NETWORKS["faint"]
    assert record.status == "collapsed" and listener.status == "ok"


def test_divergence_is_a_status_and_keeps_the_history(tmp_path):
    record = run("digits", "soft_ce", lr=1e30, store=tmp_path, **SHORT)
    assert record.status == "diverged" and "stopped being finite" in record.message
    assert record.history["student_loss"] and parse_record(record.to_json()).status == "diverged"


@pytest.mark.quick
def test_damaged_record_is_named_not_replaced(tmp_path):
    record = run("digits", store=tmp_path, **SHORT)
    path = tmp_path / f"{record.id}.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(ValueError, match="delete it to run again"):
        run("digits", store=tmp_path, **SHORT)
    assert len(path.read_text()) == 200


def test_damaged_teacher_is_trained_again(tmp_path):
    record = run("digits", "acd", store=tmp_path, **SHORT)
    for fit in (tmp_path / "fits").iterdir():
        fit.write_bytes(fit.read_bytes()[:50])
    with pytest.warns(UserWarning, match="damaged"):
        again = run("digits", "soft_ce", store=tmp_path, **SHORT)
    assert again.correct["ceiling"] == record.correct["ceiling"]


@pytest.mark.quick
@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (dict(method="kdd"), "did you mean kd?"),
        (dict(methd="kd"), "methd: did you mean method?"),
        (dict(method="kd", tau=0.5), "kd has no parameter 'tau'"),
        (dict(epochs=-1), "epochs=-1"),
        (dict(epochs=2.5), "epochs=2.5"),
        (dict(lr=0), "lr=0"),
        (dict(method="ce"), "use hard_ce"),
        (dict(data="no/such/folder"), "data folder 'no/such/folder' does not exist"),
        (dict(experiment="cifar100-resnet56_from_resnet20"), "dataset 'cifar100' was not found"),
        (dict(teacher="resnet21"), "network 'resnet21' is unknown"),
        (dict(student="timm:nonsense"), "timm network 'nonsense' is unknown"),
        (dict(student="resnet8"), "resnet8 does not take images of 8x8x1"),
        (dict(tau=float("inf")), "tau=inf"),
        (dict(ramp_fraction="x"), "ramp_fraction='x'"),
        (dict(ramp_fraction=-1), "ramp_fraction=-1"),
        (dict(train_size=5), "cannot hold all 10 classes"),
        (dict(train_size=5000), "5000 images were requested, but 1047 are left"),
        (dict(device="tpu"), "device 'tpu' is unknown"),
    ],
)
def test_bad_words(tmp_path, monkeypatch, wrong, sentence):
    monkeypatch.delenv("W2SNB_DATA", raising=False)
    monkeypatch.setenv("W2SNB_CACHE", str(tmp_path / "cache"))
    with pytest.raises((ValueError, OSError)) as error:
        run(**{"store": tmp_path / "store", "progress": False} | wrong)
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob("*.safetensors"))


def test_unwritable_store(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written"):
        run(store=tmp_path / "file" / "store", progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_nothing_of_the_run_depends_on_where_it_is_started(tmp_path, monkeypatch):
    first = run("digits", store=tmp_path / "a", **SHORT)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run("digits", store="b", **SHORT).id == first.id
    assert os.path.exists(tmp_path / "b" / f"{first.id}.json"), "a given path is relative to the caller"


@pytest.mark.real_data
def test_real_images_end_to_end(tmp_path):
    record = run("cifar100-resnet56_from_resnet20", "acd", store=tmp_path, epochs=1, train_size=500, device="cpu", progress=False)
    assert record.metrics["test_images"] == 10_000 and record.metrics["pgr"] is None
    assert record.metrics["student_alone"] == record.metrics["ceiling"] and len(list((tmp_path / "fits").iterdir())) == 2


def test_an_edited_loss_is_not_silently_skipped(tmp_path, monkeypatch):
    run("digits", store=tmp_path, **SHORT)
    monkeypatch.setattr("w2snb.core.provenance.code_hashes", lambda: {"losses": "edited"})
    with pytest.warns(UserWarning, match="computed before .*imitation.* changed; force=True"):
        run("digits", store=tmp_path, **SHORT)


def test_user_network_is_known_by_its_source(tmp_path):
    """An edited network of the user's is another network: its old results are not taken for it."""

    def make(name, width):
        namespace = {}
        exec(f"def {name}(classes=10):\n    return NETWORKS['digits_cnn'](classes, {width})", {"NETWORKS": dict(NETWORKS)}, namespace)
        return namespace[name]

    records = []
    try:
        for width in (8, 12):
            NETWORKS["mine"] = make("mine", width)
            records.append(run("digits", "soft_ce", student="mine", store=tmp_path, **SHORT))
    finally:
        del NETWORKS["mine"]
    assert records[0].id != records[1].id and records[0].correct["ceiling"] != records[1].correct["ceiling"]


def test_one_call_takes_a_bare_name_and_numpy_seeds(tmp_path):
    import numpy as np

    (record,) = run_many("digits", "soft_ce", np.int64(0), store=tmp_path, **SHORT)
    assert record.id == run("digits", "soft_ce", 0, store=tmp_path, **SHORT).id


def test_force_trains_what_is_shared_once(tmp_path, monkeypatch):
    from w2snb.tasks import end_to_end as runs

    run_many("digits", ["soft_ce", "hard_ce"], [0], store=tmp_path, **SHORT)
    trained, real = [], runs.train
    monkeypatch.setattr(runs, "train", lambda *a, **k: trained.append(1) or real(*a, **k))
    run_many("digits", ["soft_ce", "hard_ce"], [0], store=tmp_path, force=True, **SHORT)
    assert len(trained) == 4, "ceiling, student alone and two students; the teacher is linear"


def test_a_crash_after_training_does_not_lose_the_student(tmp_path, monkeypatch):
    from w2snb.tasks import end_to_end as runs

    record = run("digits", store=tmp_path, save=False, **SHORT)  # the process ends here
    monkeypatch.setattr(runs, "train", lambda *a, **k: 1 / 0)
    again = run("digits", store=tmp_path, **SHORT)
    assert (again.metrics, again.history, again.correct) == (record.metrics, record.history, record.correct)
    assert not (tmp_path / "fits" / f"{record.id}.safetensors").exists()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A store in which teachers and ceilings are trained once for all tests of this file and worker."""
    return tmp_path_factory.mktemp("shared")


@pytest.mark.parametrize("method", [m for m in METHODS if METHODS[m].loss])
def test_every_method_runs_where_it_can(method, shared):
    """On digits if a teacher's word is enough, else refused; with features and labels on its twin."""
    m = METHODS[method]
    if m.features or not m.uses_teacher:
        with pytest.raises(ValueError, match=method):
            run("digits", method, store=shared, **TINY)
    else:
        assert run("digits", method, store=shared, **TINY).status in ("ok", "collapsed")
    assert run("digits-cnn_from_cnn", method, store=shared, **TINY).metrics["pgr"] is None


@pytest.mark.quick
def test_a_feature_run_is_repeatable_and_paired(tmp_path):
    """Same bytes twice; the adapter takes nothing from the streams of the student, the order and the augmentation."""
    twice = [run("digits-cnn_from_cnn", "fitnet", store=tmp_path / n, **TINY) for n in "ab"]
    assert twice[0].metrics == twice[1].metrics and twice[0].history == twice[1].history
    assert twice[0].history["student_lr"] and twice[0].metrics["student"] != twice[0].metrics["student_alone"]
    config = resolve("digits-cnn_from_cnn", "reviewkd", train_size=64)
    task = load_task(config, resolve_device("cpu"))
    networks = [build_model(n, 10) for n in (config.student, config.teacher)]
    views = torch.rand(2, 1, 8, 8)
    before = torch.get_rng_state()
    objective = feature_objective(config, *networks, task.y, views)
    assert torch.equal(before, torch.get_rng_state())
    assert sum(p.numel() for p in objective.adapter.parameters()) > 0


@pytest.mark.quick
def test_labels_reach_a_loss_that_takes_them(tmp_path):
    """dkd takes the teacher's class where the student may not see labels, and the true class where it may."""
    seen = []
    objective = lambda labels: WeakObjective(replace(get_method("dkd"), loss=lambda s, t, labels, **p: seen.append(labels) or s.sum()), {}, torch.zeros(4, 3), labels)
    index = torch.tensor([2, 0])
    objective(None)(torch.zeros(2, 3), index, None, 0.0)
    objective(torch.tensor([0, 1, 2, 0]))(torch.zeros(2, 3), index, None, 0.0)
    assert seen[0] is None and seen[1].tolist() == [2, 0]


def test_a_linear_teacher_has_no_maps(store):
    with pytest.raises(ValueError, match="no maps"):
        run("digits-cnn_from_cnn", "fitnet", teacher="digits_linear", **TINY)


@pytest.mark.quick
def test_a_preset_is_a_setting(store):
    config = resolve("digits", "acd:few_shot_meta")
    assert config.method == "acd" and {k: config.method_params[k] for k in ("T", "tau", "ramp_fraction")} == dict(T=10.0, tau=0.25, ramp_fraction=0.25)
    assert resolve("digits", "acd:few_shot_meta", tau=1.0).method_params["tau"] == 1.0
    with pytest.raises(ValueError, match="did you mean few_shot_meta"):
        resolve("digits", "acd:few_shot_mata")


@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles for the CPU with g++")
@pytest.mark.slow
def test_compiled_networks_learn_the_same():
    x, y = torch.randint(0, 256, (64, 8, 8, 1), dtype=torch.uint8), torch.arange(64) % 10
    def losses(compile):
        with seeded(0, "student"):
            net = build_model("digits_small_cnn", 10)
        return train(net, x, LabelObjective(y), replace(RECIPES["digits"], epochs=2), DATASETS["digits"], 0, compile=compile).history["loss"]
    assert losses(True) == pytest.approx(losses(False), rel=1e-3)
