"""Every notebook runs from top to bottom in a process of its own and shows what it has stored."""
import nbformat
import pytest

from conftest import ROOT
from w2snb.docs import documented, execute, output_differences


@pytest.mark.parametrize("path", documented(ROOT), ids=lambda p: p.name)
def test_notebook(path, store):
    differences = output_differences(nbformat.read(path, as_version=4), execute(path))
    assert not differences, "run w2snb_docs and read what changed:\n" + "\n".join(differences)
