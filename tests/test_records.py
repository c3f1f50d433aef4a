"""A file that is not what was written, or contradicts itself, is never taken for a result."""
import json
import os
import threading
import warnings

import pytest
import torch

from conftest import ROOT
from w2snb.core.files import write_atomic
from w2snb.experiments.registry import resolve
from w2snb.experiments.running import run
from w2snb.losses import METHODS, register_method
from w2snb.reporting.figures import run_table
from w2snb.reporting.lookup import published_for
from w2snb.reporting.regenerating import all_sheets
from w2snb.results.index import store_index
from w2snb.results.metrics import pack_hits
from w2snb.results.records import Store, parse_record, read_records

SHORT = dict(epochs=1, train_size=64, device="cpu", progress=False)
GOLDEN = json.loads((ROOT / "tests" / "golden" / "digits.json").read_text())
ID, IMAGES = GOLDEN["id"], 500


def golden(part=None, **changed):
    """The golden record with some fields replaced, or with some keys of one field."""
    return GOLDEN | (changed if part is None else {part: GOLDEN[part] | changed})


def without(part, key):
    return GOLDEN | {part: {k: v for k, v in GOLDEN[part].items() if k != key}}


WRONG = {
    "other schema": (golden(schema=99), "its schema is 99, and this version reads 1"),
    "old schema": (golden(schema=0), "its schema is 0, and this version reads 1"),
    "other seed": (golden(seed=5), f"seed is 5, and {GOLDEN['seed']} in its params"),
    "other method": (golden(method="gone"), "method is 'gone', and 'acd' in its params"),
    "other experiment": (golden(experiment="probe"), "experiment is 'probe', and 'digits' in its params"),
    "no parameters": (golden(params={}), "its params lack experiment"),
    "no method parameters": (golden("params", method_params=1), "method_params is no table of names and values"),
    "percent": (golden("metrics", student=37.5), "student is 37.5, not from 0 to 1"),
    "negative": (golden("metrics", fix_rate=-0.1), "fix_rate is -0.1, not from 0 to 1"),
    "other accuracy": (golden("metrics", student=0.999), "student is 0.999, and its hits are 459 of 500"),
    "no metrics": (golden(metrics={}), "its metrics lack test_images"),
    "no hits": (golden(correct={}), "teacher is 0.814, and it has no hits"),
    "no hits and no accuracy": (golden(metrics=dict(test_images=500.0), correct={}), "it has no hits"),
    "one role without hits": (without("correct", "ceiling"), "ceiling is 0.99, and it has no hits"),
    "hits of other images": (golden("correct", student=pack_hits([True] * 8)), "the hits of student are 8 bits, for 500 images"),
    "hits that are none": (golden("correct", student="?"), "the hits of student are no packed bits"),
    "no history": (golden(history={}), "its history has nothing of the student"),
    "short history": (golden("history", student_loss=[1.0]), "student_loss has 1 entries, for 20 epochs"),
    "no date": (without("provenance", "date"), "its provenance lacks date"),
    "code a list": (golden("provenance", code=[]), "code in its provenance is no table of names and values"),
    "unknown field": (golden(extra=1), "extra: Extra inputs are not permitted"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_record_is_checked_against_itself_everywhere(name, tmp_path, capsys):
    """By a store, by its index, by a file of records and by a report, with one sentence that names file and reason."""
    content, reason = WRONG[name]
    store = Store(tmp_path / "store")
    path, text = write_atomic(store.path(ID), json.dumps(content)), f"is not a valid record ({reason})"
    with pytest.raises(ValueError) as error:
        store.get(ID)
    assert str(error.value) == f"{path} (delete it to run again) {text}"
    line = store_index(store).loc[ID]
    assert (line["status"], line["message"]) == ("damaged", f"{ID}.json {text}")
    lines = write_atomic(tmp_path / "x.jsonl", json.dumps(GOLDEN) + "\n" + json.dumps(content) + "\n")
    with pytest.raises(ValueError) as error:
        read_records(lines)
    assert str(error.value) == f"{lines} line 2 {text}"
    assert not all_sheets(["digits"], store)["digits"] and f"{ID}.json; delete them" in capsys.readouterr().err


def test_what_a_record_may_be():
    """PGR may be anything, a training that diverged is shorter, a run that failed has nothing."""
    assert parse_record(json.dumps(golden("metrics", pgr=-7.9))).metrics["pgr"] == -7.9
    short = {k: v[:3] for k, v in GOLDEN["history"].items()}
    assert parse_record(json.dumps(golden(status="diverged", history=short))).status == "diverged"
    assert parse_record(json.dumps(golden(status="failed", metrics={}, correct={}, history={}))).status == "failed"
    with pytest.raises(ValueError, match="has 3 entries, for 20 epochs"):
        parse_record(json.dumps(golden(history=short)))


def test_a_record_that_is_a_folder(tmp_path):
    store = Store(tmp_path)
    store.path(ID).mkdir()
    with pytest.raises(ValueError) as error:
        store.records()
    assert str(error.value) == f"{store.path(ID)} (delete it to run again) is not a valid record (Is a directory)"
    assert store_index(store).loc[ID, "message"] == f"{ID}.json is not a valid record (Is a directory)"


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda r: r["params"]["method_params"].update(tau=3.0), "its params are not those of its id"),
        (lambda r: [r.update(method="gone"), r["params"].update(method="gone")], "its method 'gone' is unknown"),
    ],
)
def test_a_record_under_the_id_of_another_run(change, reason, tmp_path):
    record = run("digits", "acd", store=tmp_path, **SHORT)
    path = tmp_path / f"{record.id}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError) as error:
        run("digits", "acd", store=tmp_path, **SHORT)
    assert str(error.value) == f"{path} (delete it to run again) is not a valid record ({reason})"


def test_a_report_shows_records_of_a_method_that_is_gone(tmp_path):
    """A user's own loss is known in the session that made it only; its records are shown all the same."""
    store = Store(tmp_path)
    write_atomic(store.path(ID), json.dumps(golden("params", method="gone") | dict(method="gone")))
    (_, students) = all_sheets(["digits"], store)["digits"]
    assert students.texts.index[0].startswith("gone") and students.texts.iloc[0]["last epoch"] == "91.8"


def damaged(path):
    """One byte in four of the weights."""
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    for i in range(start, len(data), 4):
        data[i + (len(data) > i + 2) * 2] ^= 0x55
    path.write_bytes(data)


def last_bit(path):
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def other_facts(path):
    """The history of its training says something else."""
    path.write_bytes(path.read_bytes().replace(b"seconds", b"sekonds"))


def no_hash(path):
    path.write_bytes(path.read_bytes().replace(b"sha256", b"sha257"))


def cut(path):
    path.write_bytes(path.read_bytes()[:50])


REASON = {damaged: "its content is not that of its sha256", last_bit: "its content is not that of its sha256",
          other_facts: "its content is not that of its sha256", no_hash: "it holds no sha256", cut: ""}  # fmt: skip


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """What two methods give when nothing is damaged."""
    store = tmp_path_factory.mktemp("twice")
    run("digits", "soft_ce", store=store, **SHORT)
    return run("digits", "acd", store=store, **SHORT)


@pytest.mark.parametrize("harm", REASON)
def test_a_network_that_changed_is_trained_again(harm, tmp_path, twice):
    run("digits", "soft_ce", store=tmp_path, **SHORT)
    files = sorted((tmp_path / "fits").glob("*.safetensors"))
    assert len(files) == 3
    for path in files:
        harm(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        record = run("digits", "acd", store=tmp_path, **SHORT)
    texts = {str(w.message) for w in caught}
    for path in files:
        start = f"{path} is damaged or of an earlier version; its network is trained again ({REASON[harm]}"
        assert any(t.startswith(start) for t in texts)
    assert (record.id, record.metrics, record.history, record.correct) == (twice.id, twice.metrics, twice.history, twice.correct)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run("digits", "hard_ce", store=tmp_path, **SHORT)  # what was trained again is whole


def test_all_committed_records_agree_with_themselves():
    records = [r for p in sorted((ROOT / "reports" / "results").glob("*.jsonl*")) for r in read_records(p)]
    assert len(records) >= 3290 and len({r.id for r in records}) == len(records)


def test_published_numbers_stand_beside_the_published_run_only():
    """One rule for the table of a run and for the tables of a report."""
    pair = "cifar100-resnet56_from_resnet20"
    record = parse_record(json.dumps(GOLDEN))
    for altered, there in (({}, True), (dict(seed=3), True), (dict(tau=2.0), False), (dict(epochs=1), False), (dict(precision="bf16"), False)):
        params = resolve(pair, "acd", **altered).plain()
        shown = run_table(record.model_copy(update=dict(experiment=pair, params=params)))
        assert ("published" in shown, bool(published_for(params, "acd"))) == (there, there), altered


def test_only_a_method_that_observes_adds_to_the_history(tmp_path):
    """Not every parameter called tau is AdaptConf's."""

    @register_method(source="mine")
    def mine(student, teacher, *, tau=2.0):
        return -((teacher / tau).softmax(-1) * student.log_softmax(-1)).sum(-1).mean()

    @register_method(source="mine", observe=lambda student, teacher, params: dict(agreed=torch.bincount((student.argmax(-1) == teacher.argmax(-1)).long(), minlength=2)))
    def watched(student, teacher, *, tau=2.0):
        return mine(student, teacher, tau=tau)

    try:
        quiet, seen = (run("digits", m, store=tmp_path, **SHORT) for m in ("mine", "watched"))
        probed = run("digits-random_cnn_from_pixels", "watched", store=tmp_path, epochs=1, device="cpu", progress=False)
    finally:
        del METHODS["mine"], METHODS["watched"]
    assert "weight_histogram" not in quiet.history and quiet.history.keys() < seen.history.keys()
    for r in (seen, probed):
        ((no, yes),) = r.history["student_agreed"]
        assert no + yes == pytest.approx(1, abs=2e-6) and 0 < yes < 1
    assert [m for m, x in METHODS.items() if x.observe] == ["acd"]


def test_a_new_file_has_the_permissions_of_any_new_file_and_the_umask_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask was set"))
    write_atomic(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_threads_write_one_file(tmp_path):
    """It is one of the contents, and nothing is left beside it."""
    threads = [threading.Thread(target=write_atomic, args=(tmp_path / "x", str(i) * 1000)) for i in range(8)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert (tmp_path / "x").read_text() in {str(i) * 1000 for i in range(8)} and len(list(tmp_path.iterdir())) == 1
