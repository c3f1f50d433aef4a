"""Every notebook shows what it has stored; what some of them assert also holds for the module that is exported from them."""
from importlib import import_module

import nbformat
import pytest
from execnb.nbio import read_nb
from execnb.shell import CaptureShell

from conftest import ROOT
from w2snb.reporting.docs import documented, execute, output_differences

QUICK = "experiments/05_engines training/04_team results/06_representation reporting/01_figures reporting/03_pages reporting/05_docs reporting/06_site".split()
REGISTRIES = {"losses.methods": "METHODS", "models.small": "NETWORKS", "experiments.registry": "EXPERIMENTS", "models.features": "BACKBONES", "experiments.tables": "TABLES"}


@pytest.mark.slow
@pytest.mark.parametrize("path", documented(ROOT), ids=lambda p: "/".join(p.parts[-2:]))
def test_notebook(path, store):
    differences = output_differences(nbformat.read(path, as_version=4), execute(path))
    assert not differences, "run w2snb_docs and read what changed:\n" + "\n".join(differences)


@pytest.fixture
def unchanged(monkeypatch):
    """What a notebook registers or sets is gone after it."""
    import matplotlib
    import torch

    import w2snb.reporting.lookup  # noqa: F401  whatever registers has done so before

    monkeypatch.setenv("IN_TEST", "1")
    kept = [(registry, dict(registry)) for registry in (getattr(import_module(f"w2snb.{m}"), name) for m, name in REGISTRIES.items())]
    threads, style = torch.get_num_threads(), dict(matplotlib.rcParams)
    yield
    for registry, before in kept:
        registry.clear(), registry.update(before)
    torch.set_num_threads(threads), dict.update(matplotlib.rcParams, style)


def with_module(path):
    """The notebook, in which names come from its module and not from the cells that are exported."""
    notebook = read_nb(path)
    (module,) = [c.source.split()[2] for c in notebook.cells if c.source.startswith("#| default_exp")]
    load = f"import w2snb.{module} as module; globals().update({{k: v for k, v in vars(module).items() if k[:2] != '__'}})"
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.startswith("#| export"):
            cell.source, load = load, ""
        if "nbdev_export(" in cell.source:
            cell.source = ""
    return notebook


@pytest.mark.quick
@pytest.mark.notebook
@pytest.mark.parametrize("name", QUICK)
def test_the_module_does_what_its_notebook_asserts(name, store, unchanged, monkeypatch):
    """nbdev_test runs the cells themselves; users import the module."""
    path = ROOT / "nbs" / f"{name}.ipynb"
    monkeypatch.chdir(path.parent)
    shell = CaptureShell(path)
    shell.run_all(with_module(path), exc_stop=True)
