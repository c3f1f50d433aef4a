"""Tests never touch the user's records or decoded data.

`pytest` leaves out what is `slow`; `pytest -m quick` reaches every module in a minute and ends with the lines it reached; `pytest -m slow`
runs the long campaigns. What `nbdev_test` runs anyway, notebooks in this process, is marked `notebook` and belongs to `quick` only.
"""
import os
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("W2SNB_CACHE", tempfile.mkdtemp(prefix="w2snb-cache-"))
os.environ["W2SNB_STORE"] = tempfile.mkdtemp(prefix="w2snb-store-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes with several threads each run many times slower
LINES = pytest.StashKey()  # what measures the lines that are reached


@pytest.fixture
def root():
    return ROOT


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An empty store, for this test and the processes it starts."""
    monkeypatch.setenv("W2SNB_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


def pytest_collection_modifyitems(items):
    """Tests on real images say why they are skipped; notebooks come last: what they leave in a process meets no other test."""
    items.sort(key=lambda item: "notebook" in item.keywords)
    if os.environ.get("W2SNB_DATA"):
        return
    for item in items:
        if "real_data" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs real CIFAR-100: set W2SNB_DATA to the folder that holds it"))


def pytest_addoption(parser):
    parser.addoption("--lines", type=float, metavar="PERCENT", help="print the share of each module's lines that are reached, and fail where it is below PERCENT; "
                     "60 for `-m quick` without paths")  # fmt: skip


def pytest_configure(config):
    """Measure lines, in each process that runs tests."""
    whole = config.option.markexpr == "quick" and config.args_source == config.ArgsSource.TESTPATHS
    if config.option.lines is None and whole:
        config.option.lines = 60
    if config.option.lines is None or config.option.collectonly:
        return
    import coverage

    os.environ.setdefault("W2SNB_LINES", tempfile.mkdtemp(prefix="w2snb-lines-"))  # workers of pytest-xdist inherit it
    config.stash[LINES] = coverage.Coverage(data_file=os.path.join(os.environ["W2SNB_LINES"], "lines"), data_suffix=True, source=["w2snb"])
    config.stash[LINES].start()


def lines_reached(measured):
    """Module -> percent of its lines."""
    reached = {}
    for path in sorted((ROOT / "w2snb").rglob("*.py")):
        if path.stem not in ("__init__", "_modidx"):
            _, lines, _, missing, _ = measured.analysis2(str(path))
            reached[f"{path.parent.name}.{path.stem}"] = 100 * (1 - len(missing) / len(lines))
    return reached


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """Keep what was measured; the first process puts it together, and what is below the limit is a failure."""
    config = session.config
    if LINES not in config.stash:
        return
    measured = config.stash[LINES]
    measured.stop(), measured.save()
    if not hasattr(config, "workerinput"):
        measured.combine()
        config.stash[LINES] = lines_reached(measured)
        if session.exitstatus == 0 and min(config.stash[LINES].values()) < config.option.lines:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    if not isinstance(reached := config.stash.get(LINES, None), dict):
        return
    terminalreporter.section(f"lines reached, of each module; {config.option.lines:g} % are asked for")
    for module, percent in reached.items():
        terminalreporter.write_line(f"{module:<28} {percent:5.1f} %" + ("  too few" if percent < config.option.lines else ""))
