"""The project is what its notebooks say: export, clean and README change nothing."""
import configparser
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import version

import nbformat
import pytest
from nbformat import read

from w2snb.reporting.docs import to_readme

NOTEBOOKS = "nbs/**/*.ipynb"


@pytest.fixture
def copy(root, tmp_path):
    """The tracked files of the project, somewhere else."""
    for name in ("nbs", "w2snb", "settings.ini", "pyproject.toml"):
        source = root / name
        ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(source, tmp_path / name, ignore=ignore) if source.is_dir() else shutil.copy(source, tmp_path)
    return tmp_path


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for d in ("nbs", "w2snb") for p in sorted((folder / d).rglob("*")) if p.suffix in (".py", ".ipynb")}


@pytest.mark.parametrize("command", ["nbdev_export", "nbdev_clean"])
def test_nothing_left_to_do(copy, command):
    before = contents(copy)
    if command == "nbdev_export":
        for module in (copy / "w2snb").rglob("*.py"):
            if module.name != "__init__.py":
                module.unlink()
    subprocess.run([sys.executable, "-c", f"from nbdev.export import nb_export; from nbdev import *; from nbdev.clean import *; {command}()"], cwd=copy, check=True)
    after = contents(copy)
    changed = [str(p) for p in before.keys() | after.keys() if before.get(p) != after.get(p)]
    assert not changed, f"run {command} and commit: {changed}"


def test_readme_in_sync(root):
    expected = to_readme(read(root / "nbs" / "index.ipynb", as_version=4))
    assert (root / "README.md").read_text() == expected, "run w2snb_docs --readme"


def test_readme_links_exist(root):
    text = (root / "README.md").read_text()
    missing = [target for target in re.findall(r"\]\(([^)#:\s]+)\)", text) + re.findall(r'src="([^"]+)"', text) if "://" not in target and not (root / target).exists()]
    assert not missing


def budget(path):
    cells = json.loads(path.read_text())["cells"]
    code = ["".join(c["source"]).strip() for c in cells if c["cell_type"] == "code"]
    prose = sum(c["cell_type"] == "markdown" for c in cells)
    exported = [len(c.split("\n")) for c in code if re.match(r"#\|\s*export", c)]
    return len(cells), prose / max(len(code), 1), exported


def test_notebooks_stay_readable(root):
    lengths = []
    for path in sorted(root.glob(NOTEBOOKS)):
        cells, prose, exported = budget(path)
        assert cells <= 72, f"{path.name} has {cells} cells: split it by idea"
        assert prose >= 0.4, f"{path.name} has {prose:.2f} prose cells per code cell"
        assert max(exported, default=0) <= 40, f"{path.name} exports a cell of {max(exported)} lines"
        lengths += exported
    lengths.sort()
    assert lengths[len(lengths) // 2] <= 16 and lengths[int(len(lengths) * 0.9)] <= 30


def test_parameters_tag_survives(root):
    notebook = nbformat.read(root / "nbs" / "run_experiment.ipynb", as_version=4)
    assert [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]


def test_no_output_of_a_machine_in_notebooks(root):
    for path in root.glob(NOTEBOOKS):
        assert not re.search(r"(?<![\w:/.\\])/(?:home|root|work|tmp|Users)/[\w.-]+", path.read_text()), path.name


def test_versions_agree(root):
    settings = configparser.ConfigParser()
    settings.read(root / "settings.ini")
    import w2snb

    assert settings["DEFAULT"]["version"] == w2snb.__version__
    assert f"version: {w2snb.__version__}" in (root / "CITATION.cff").read_text()


def test_tools_that_must_move_together():
    assert version("nbdev") == "2.4.14"
    below = dict(execnb=(0, 2), fastcore=(2, 0), ghapi=(2, 0))
    for tool, limit in below.items():
        assert tuple(map(int, version(tool).split(".")[:2])) < limit, tool


def test_losses_import_nothing_heavy():
    heavy = "import sys, w2snb.losses; print([m for m in ('torchvision', 'timm', 'sklearn', 'pandas', 'seaborn', 'pydantic', 'pyarrow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_exported_lines_fit_a_screen(root):
    for module in (root / "w2snb").rglob("*.py"):
        lines = re.sub(r"^__all__ = \[.*?\]", "", module.read_text(), flags=re.M | re.S).splitlines()
        if module.name != "_modidx.py":
            assert max(map(len, lines), default=0) <= 110, f"{module.name} has a line of {max(map(len, lines))} columns"
