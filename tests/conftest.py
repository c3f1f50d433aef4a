"""Tests never touch the user's records or decoded data."""
import os
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("W2SNB_CACHE", tempfile.mkdtemp(prefix="w2snb-cache-"))
os.environ["W2SNB_STORE"] = tempfile.mkdtemp(prefix="w2snb-store-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes with several threads each run many times slower


@pytest.fixture
def root():
    return ROOT


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An empty store, for this test and the processes it starts."""
    monkeypatch.setenv("W2SNB_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


def pytest_collection_modifyitems(items):
    """Tests on real images say why they are skipped."""
    if os.environ.get("W2SNB_DATA"):
        return
    for item in items:
        if "real_data" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs real CIFAR-100: set W2SNB_DATA to the folder that holds it"))
