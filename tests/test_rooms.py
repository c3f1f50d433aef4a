"""The house: which room may import which, which code counts for results, what loads what."""
import ast
import re
import subprocess
import sys

import pytest

from conftest import ROOT
from w2snb.core.provenance import code_hashes

FLOORS = ["core", "losses data", "models", "training results", "tasks", "experiments", "reporting"]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
MODULES = [p for p in sorted((ROOT / "w2snb").glob("*/*.py")) if p.stem != "__init__"]
pytestmark = pytest.mark.quick


def rooms_imported(path):
    for line in path.read_text().splitlines():
        if found := re.match(r"\s*(?:from \.\.|from w2snb\.|import w2snb\.|from w2snb import )(\w+)", line):
            yield found[1], line.strip()


def test_rooms_import_from_lower_floors_only():
    assert {p.parent.name for p in MODULES} == FLOOR.keys() == {p.name for p in (ROOT / "w2snb").iterdir() if p.is_dir() and p.name != "__pycache__"}
    upward = {(p.parent.name, p.stem): line for p in MODULES for room, line in rooms_imported(p) if room != p.parent.name and FLOOR[room] >= FLOOR[p.parent.name]}
    assert not upward


def test_a_folder_of_notebooks_is_a_package():
    for path in (ROOT / "nbs").glob("*/*.ipynb"):
        exported = re.search(r'"#\| default_exp ([\w.]+)', path.read_text())
        assert not exported or exported[1].split(".")[0] == path.parent.name, path


def test_all_code_up_to_the_tasks_counts_for_results():
    assert code_hashes().keys() == {f"{p.parent.name}.{p.stem}" for p in MODULES if FLOOR[p.parent.name] <= FLOOR["tasks"]}


def test_importing_the_package_reads_nothing_else():
    code = "import sys; before = set(sys.modules); import w2snb; new = sys.modules.keys() - before; "
    code += "print(sorted(m for m in new if m.split('.')[0] not in sys.stdlib_module_names))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "['w2snb']\n"


def without_docment(path):
    """Parameters of public functions that no comment explains."""
    lines = path.read_text().split("\n")
    for node in ast.parse("\n".join(lines)).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        for f in [] if getattr(node, "name", "_").startswith("_") else inside:
            if not isinstance(f, ast.FunctionDef) or (f.name.startswith("_") and f.name not in ("__init__", "__call__")):
                continue
            for a in [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs, *filter(None, [f.args.vararg, f.args.kwarg])]:
                if a.arg not in ("self", "cls") and "#" not in lines[a.lineno - 1] and not lines[a.lineno - 2].strip().startswith("#"):
                    yield f"{path.stem}.{f.name}({a.arg})"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: f"{p.parent.name}.{p.stem}")
def test_every_public_parameter_is_explained(path):
    assert not list(without_docment(path))
