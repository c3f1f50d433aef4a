"""Every notebook runs from top to bottom in a process of its own and shows what it has stored; the quick ones also run in this process."""
from importlib import import_module

import nbformat
import pytest
from nbdev.test import test_nb as run_cells  # by its own name pytest would take it for a test

from conftest import ROOT
from w2snb.docs import documented, execute, output_differences

QUICK = [p for p in sorted((ROOT / "nbs").glob("*.ipynb")) if p.name[0] in "01"]
REGISTRIES = {"methods": "METHODS", "networks": "NETWORKS", "experiments": "EXPERIMENTS", "frozen": "BACKBONES", "tables": "TABLES"}


@pytest.mark.slow
@pytest.mark.parametrize("path", documented(ROOT), ids=lambda p: p.name)
def test_notebook(path, store):
    differences = output_differences(nbformat.read(path, as_version=4), execute(path))
    assert not differences, "run w2snb_docs and read what changed:\n" + "\n".join(differences)


@pytest.fixture
def unchanged(monkeypatch):
    """What a notebook registers or sets is gone after it."""
    import matplotlib
    import torch

    monkeypatch.setenv("IN_TEST", "1")
    kept = [(registry, dict(registry)) for registry in (getattr(import_module(f"w2snb.{m}"), name) for m, name in REGISTRIES.items())]
    threads, style = torch.get_num_threads(), dict(matplotlib.rcParams)
    yield
    for registry, before in kept:
        registry.clear(), registry.update(before)
    torch.set_num_threads(threads), dict.update(matplotlib.rcParams, style)


@pytest.mark.quick
@pytest.mark.notebook
@pytest.mark.parametrize("path", QUICK, ids=lambda p: p.name)
def test_cells(path, store, unchanged):
    """What nbdev_test does, in this process."""
    passed, _ = run_cells(path, skip_flags=["slow", "cuda", "data"])
    assert passed, f"nbdev_test --path nbs/{path.name} says why"
