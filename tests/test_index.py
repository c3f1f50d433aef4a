"""The index of a store agrees with the records, whatever happens to it and whoever writes at the same time."""
import os

import pandas as pd
import pytest

from apart import start_apart, wait_apart
from w2snb.core.files import content_hash
from w2snb.results.index import find_records, index_path, store_index
from w2snb.results.metrics import pack_hits
from w2snb.results.records import Record, Store


def params(i):
    return dict(experiment="digits", method="acd", seed=i, teacher_seed=i, supervision="teacher", teacher="digits_linear", student="digits_cnn", method_params={}, epochs=1)


def record(i, **said):
    return Record(**dict(id=content_hash(i), experiment="digits", method="acd", seed=i, params=params(i), metrics=dict(student=1.0, test_images=4), history=dict(student_test=[1.0]),
                         correct=dict(student=pack_hits([True] * 4)), status="ok", provenance=dict(date="2026-01-01"), seconds=1.0, images_per_second=None) | said)  # fmt: skip


def write_some(folder, first):
    """Forty records, some of them twice, and the index in between."""
    store = Store(folder)
    for i in range(first, first + 40):
        store.put(record(i))
        if i % 5 == 0:
            store.put(record(i, status="collapsed"))
        if i % 3 == 0:
            store_index(store)


@pytest.mark.slow
def test_concurrent_writers_and_readers(tmp_path):
    store = Store(tmp_path / "store")
    store.check_writable()
    writers = [start_apart(write_some, store.folder, first) for first in (0, 100)]
    while any(w.is_alive() for w in writers):
        assert not (store_index(store)["status"] == "damaged").any()
    assert [wait_apart(w) for w in writers] == [0, 0]
    index = store_index(store)
    truth = {r.id: r.status for r in store.records()}
    assert index["status"].to_dict() == truth and len(truth) == 80
    assert not list(index_path(store).parent.glob(".*"))


@pytest.mark.quick
def test_a_wrong_index_is_mended(tmp_path):
    store = Store(tmp_path)
    for i in range(5):
        store.put(record(i))
    good, path = store_index(store), index_path(store)
    frame = pd.read_parquet(path)
    for wrong in (frame.iloc[:2], frame.drop(columns="config"), frame.assign(size=1), pd.concat([frame, frame.assign(id="f" * 16)])):
        wrong.to_parquet(path)
        pd.testing.assert_frame_equal(store_index(store), good)
        pd.testing.assert_frame_equal(pd.read_parquet(path), frame)


@pytest.mark.quick
def test_a_line_that_lies_is_not_believed(tmp_path):
    """The index says where to look; what counts is the record."""
    store = Store(tmp_path)
    store.put(record(0)), store.put(record(1))
    store_index(store)
    frame = pd.read_parquet(index_path(store))
    frame["config"] = frame["config"].iloc[::-1].to_numpy()
    frame.to_parquet(index_path(store))
    found = find_records(store, [content_hash(params(0))])
    assert {content_hash(r.params) for r in found.values()} <= {content_hash(params(0))}


@pytest.mark.quick
def test_a_failed_run_is_not_found(tmp_path):
    store = Store(tmp_path)
    store.put(record(0, status="failed", message="why"))
    assert store_index(store).loc[content_hash(0), "message"] == "why"
    assert find_records(store, [content_hash(params(0))]) == {}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_read(tmp_path):
    store = Store(tmp_path)
    store.put(record(0))
    tmp_path.chmod(0o555)
    try:
        assert len(store_index(store)) == 1 and not index_path(store).exists()
    finally:
        tmp_path.chmod(0o755)
