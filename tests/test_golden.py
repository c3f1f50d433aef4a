"""Records of schema 1 stay readable for ever.

The files in tests/golden and tests/golden_expected.json never change: where one of these tests fails, the code is wrong.
Eleven are committed records as they stand in reports/results, one is a run that failed, as a sweep writes it.
"""
import hashlib
import json
import shutil

import pytest

from conftest import ROOT
from w2snb.core.files import content_hash
from w2snb.reporting.figures import run_table, summarize
from w2snb.results.index import find_records, store_index
from w2snb.results.records import Store, parse_record, read_records

EXPECTED = json.loads((ROOT / "tests" / "golden_expected.json").read_text())
FILES = {p.stem: p for p in sorted((ROOT / "tests" / "golden").glob("*.json"))}


def test_the_golden_files_are_those_that_were_stored():
    assert {name: hashlib.sha256(p.read_bytes()).hexdigest() for name, p in FILES.items()} == {k: v["sha256"] for k, v in EXPECTED.items()}
    assert len(FILES) == 12


@pytest.mark.parametrize("name", EXPECTED)
def test_a_golden_record_is_what_it_was(name, tmp_path):
    text, e = FILES[name].read_text(), EXPECTED[name]
    r = parse_record(text)
    assert r.to_json() == text
    assert [r.id, r.experiment, r.method, r.seed, r.status] == [e[k] for k in ("id", "experiment", "method", "seed", "status")]
    assert r.params["method_params"] == e["method_params"] and content_hash(r.params) == e["config"]
    assert [r.metrics.get(k) for k in ("student", "pgr", "test_images")] == [e[k] for k in ("student", "pgr", "test_images")]
    assert {k: int(r.hits(k).sum()) for k in r.correct} == e["hits"]
    assert {k: len(v) for k, v in r.history.items()} == e["epochs"]
    assert run_table(r)["last epoch"].to_dict() == e["table"]
    summary = summarize([r])
    assert len(summary) == (e["means"] is not None)
    if e["means"]:
        assert {k: summary.iloc[0][k].value for k in e["means"]} == pytest.approx(e["means"], rel=1e-9)


def test_a_store_of_golden_records(tmp_path):
    store = Store(tmp_path / "store")
    store.folder.mkdir()
    for name, path in FILES.items():
        shutil.copy(path, store.path(EXPECTED[name]["id"]))
    index = store_index(store)
    for e in EXPECTED.values():
        row = index.loc[e["id"]]
        assert [row[k] for k in ("experiment", "method", "seed", "status", "config")] == [e[k] for k in ("experiment", "method", "seed", "status", "config")]
    assert sorted(r.id for r in read_records(store.folder)) == sorted(e["id"] for e in EXPECTED.values())
    found = find_records(store, [e["config"] for e in EXPECTED.values()])
    assert {r.id for r in found.values()} == {e["id"] for e in EXPECTED.values() if e["status"] != "failed"}
