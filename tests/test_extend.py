"""What a user adds stands in one file, and sweeps, workers and reports work with it; the file is that of nbs/extend.ipynb."""
import json
import re
import sys

import pytest
import torch

from conftest import ROOT
from w2snb.core import additions
from w2snb.core.additions import use_additions
from w2snb.experiments.registry import EXPERIMENTS, resolve
from w2snb.experiments.running import run
from w2snb.experiments.sweeps import _command
from w2snb.experiments.tables import TABLES
from w2snb.losses import METHODS
from w2snb.models.small import NETWORKS
from w2snb.reporting.figures import stacked_hits, stacked_units
from w2snb.reporting.regenerating import main as report_main
from w2snb.reporting.tables import COLUMNS
from w2snb.results.intervals import two_way
from w2snb.results.metric_groups import GROUPS
from w2snb.results.metrics import pack_hits
from w2snb.results.records import Record, Store
from w2snb.tasks.contract import TASKS, added_code

EPISODES = "digits-episodes-random_cnn_from_pixels"
ADDED = {  # what each addition of the notebook adds to which registry
    "loss": (METHODS, "brier"), "network": (NETWORKS, "digits_mlp"), "experiment": (EXPERIMENTS, "digits-mlp_from_linear"),
    "metric": (GROUPS, "overconfidence"), "column": (COLUMNS, "overconfidence"), "table": (TABLES, "own_digits"),
    "task": (TASKS, "episodes"),
}  # fmt: skip


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The marked cells of the notebook as a file of a user's; what it registers is gone after the test."""
    registries = [METHODS, NETWORKS, EXPERIMENTS, GROUPS, COLUMNS, TABLES, TASKS, additions.USED]
    kept = [dict(r) for r in registries]
    cells = ["".join(c["source"]) for c in json.loads((ROOT / "nbs" / "extend.ipynb").read_text())["cells"]]
    path = tmp_path / "mine.py"
    path.write_text("\n\n".join(c for c in cells if c.startswith("#| use")))
    yield path
    for registry, before in zip(registries, kept):
        registry.clear(), registry.update(before)


@pytest.mark.quick
@pytest.mark.parametrize("what", ADDED)
def test_one_file_is_touched_for_each_addition(mine, what):
    registry, name = ADDED[what]
    assert name not in registry
    use_additions(str(mine))
    added = registry[name]
    module = getattr(added, "loss", None) or getattr(added, "measure", None) or added
    if hasattr(module, "__module__") and what in ("loss", "network", "metric"):
        assert module.__module__ == "own_mine"
    assert list(additions.USED) == [mine]


def test_the_task_runs_and_its_units_reach_the_record(mine, tmp_path):
    records = [run(EPISODES, "hard_ce", s, use=str(mine), store=str(tmp_path / "store"), device="cpu", progress=False) for s in (0, 1)]
    r = records[0]
    assert r.params["task"] == "episodes" and "use" not in r.params and r.status == "ok"
    assert r.provenance["additions"].keys() == {"mine.py"} and "student_overconfidence" in r.metrics
    assert {k: len(set(v.tolist())) for k, v in r.units().items()} == dict(episodes=40, classes=10)
    again = run(EPISODES, "hard_ce", 0, use=str(mine), store=str(tmp_path / "store"), device="cpu", progress=False)
    assert again.to_json() == r.to_json()
    width = lambda i: i.high - i.low
    student = lambda a: a["student"]
    assert width(two_way(stacked_hits(records), student, units=stacked_units(records))) > width(two_way(stacked_hits(records), student))
    assert Record.model_validate_json(r.to_json()).units().keys() == r.units().keys()
    with pytest.raises(ValueError, match="it numbers episodes of 1 units, for 2000"):
        Record.model_validate(r.model_dump(by_alias=True) | dict(provenance=r.provenance | dict(units={"": {"episodes": [[0, 1]]}})))


@pytest.mark.slow  # a kernel starts; nbs/extend.ipynb shows two workers in every run of the notebooks
def test_a_worker_and_a_report_know_the_file(mine, tmp_path, monkeypatch, capsys):
    store = str(tmp_path / "store")
    assert _command(["own_episodes", "--use", str(mine), "--store", store, "--seeds", "10", "--workers", "1", "--no-notebooks", "device=cpu"]) == 0
    assert {r.method for r in Store(store).records()} == {"hard_ce", "soft_ce"}
    out = tmp_path / "report"
    monkeypatch.setattr(sys, "argv", ["w2snb_report", "own_episodes", "--use", str(mine), "--store", store, "--out", str(out)])
    report_main()
    text = (out / "tables" / "own_episodes.md").read_text()
    assert "over seeds, classes and episodes" in text and "overconfidence" in text and "hard_ce" in text


@pytest.mark.quick
@pytest.mark.parametrize(
    "text, sentence",
    [
        (None, "use={path} cannot be read: No such file or directory"),
        ("import nothing_of_that_name", "{path}, line 1, cannot be used: ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("x = 1\ndef f(:", "{path}, line 2, cannot be used: SyntaxError: invalid syntax (mine.py, line 2)"),
        ("from w2snb.losses import register_method\n@register_method()\ndef f(student, teacher, T=1): pass",
         "{path}, line 2, cannot be used: ValueError: f: put a * before T, parameters of a loss are given by name"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_gets_one_sentence(mine, text, sentence, tmp_path):
    mine.unlink()
    if text is not None:
        mine.write_text(text)
    with pytest.raises((ValueError, OSError)) as e:
        run("digits", use=str(mine), store=str(tmp_path / "store"))
    assert str(e.value) == sentence.format(path=mine)
    assert not (tmp_path / "store").exists() and not additions.USED


@pytest.mark.quick
def test_the_file_may_be_named_by_a_variable(mine, monkeypatch):
    monkeypatch.setenv("W2SNB_USE", str(mine))
    assert resolve(EPISODES, "hard_ce").task == "episodes"


@pytest.mark.quick
def test_a_changed_addition_makes_another_id_and_no_other_does(mine):
    before = added_code(resolve("digits", "acd"))
    use_additions(str(mine))
    assert before == added_code(resolve("digits", "acd")) == {}
    config = resolve(EPISODES, "hard_ce")
    one = added_code(config)
    mine.write_text(mine.read_text().replace("weak.argmax(-1)", "weak.argmin(-1)"))
    use_additions(str(mine))
    assert one.keys() == added_code(config).keys() == {"episodes"} and one != added_code(config)


@pytest.mark.quick
def test_hits_of_a_further_test_have_their_own_units():
    text = (ROOT / "reports" / "results" / "digits.jsonl").read_text().splitlines()[0]
    r = json.loads(text)
    hits = torch.tensor([True, False, True])
    more = dict(metrics=r["metrics"] | {"5_shot_student": 2 / 3, "5_shot_test_images": 3}, correct=r["correct"] | {"5_shot_student": pack_hits(hits)})
    record = Record.model_validate(r | more)
    assert record.hits("5_shot_student").tolist() == hits.tolist() and len(record.hits("student")) == r["metrics"]["test_images"]


TYPE_TESTS = re.compile(r"isinstance\([^)]*(Config|Experiment|Task|ProbeData|EndToEnd)|\[['\"]training['\"]\]|[!=]= ?['\"](probe|end_to_end)['\"]")


@pytest.mark.quick
def test_no_type_tests_on_tasks_outside_them():
    found = {p: TYPE_TESTS.findall(p.read_text()) for p in (ROOT / "w2snb").rglob("*.py") if p.parent.name != "tasks"}
    assert not {k: v for k, v in found.items() if v}
