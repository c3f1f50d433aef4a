"""What a new user sees first: progress, refusals, the run notebook, and figures for those who do not see them."""
import ast
import io
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import w2snb.core.progress
from conftest import ROOT
from w2snb.core.files import array_hash, default_store, shown_path
from w2snb.core.messages import check_choice
from w2snb.core.progress import StageLine, progress_bar, stage_text
from w2snb.data.images import canonical
from w2snb.data.label_files import read_labels_table
from w2snb.experiments.parameters import check_parameters, notebook_parameters, short_errors
from w2snb.reporting.docs import last_unit
from w2snb.reporting.figures import opening_code, run_table
from w2snb.reporting.pages import notebook_html
from w2snb.results.records import Store, read_records

REPORTS = sorted((ROOT / "nbs" / "reports").glob("*.ipynb"))


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The run notebook, executed without a front end on a second of training: notebook and folder of its record."""
    store = tmp_path_factory.mktemp("store")
    notebook = nbformat.read(ROOT / "nbs" / "run_experiment.ipynb", as_version=4)
    short = f"# Parameters\nepochs = 1\ntrain_size = 100\ndevice = 'cpu'\nstore = {str(store)!r}\n"
    notebook.cells.insert(2, nbformat.v4.new_code_cell(short))
    env = {k: v for k, v in os.environ.items() if k != "JPY_SESSION_NAME"}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=dict(metadata=dict(path=str(ROOT)))).execute(env=env)
    return notebook, store


def outputs(notebook, start):
    """What the cell that holds a text shows, in words."""
    cell = next(c for c in notebook.cells if c.cell_type == "code" and start in c.source)
    return [o.get("text") or o["data"].get("text/markdown") or o["data"].get("text/plain") for o in cell.outputs]


def test_a_stage_is_one_line_and_stderr_is_empty(executed):
    notebook, _ = executed
    *stages, end = outputs(notebook, "run(**given)")
    assert [re.sub(r"\d\d:\d\d$", "TIME", s) for s in stages] == [f"{s}: done in TIME" for s in ("ceiling", "student alone", "student (acd)")]
    assert re.fullmatch(r"\w+, \d+ s\n", end)
    assert not [o for c in notebook.cells for o in c.get("outputs", []) if o.get("name") == "stderr"]


def test_the_verdict_comes_before_table_and_figures(executed):
    notebook, _ = executed
    sources = [c.source for c in notebook.cells]
    order = [next(i for i, s in enumerate(sources) if text in s) for text in ("verdict(record)", "run_table(record)", "plot_training(record)")]
    assert order == sorted(order)


def test_the_plan_is_in_words(executed):
    (plan,) = outputs(executed[0], "plan_table(resolve")
    assert "| student | digits_cnn, taught with weak labels only |" in plan and "| epochs | 1 |" in plan
    assert not [code for code in ("Recipe(", "None", "{") if code in plan]


def test_the_lines_that_open_the_record_work_as_printed(executed, tmp_path, monkeypatch):
    notebook, store = executed
    (text,) = outputs(notebook, "opening_code(record")
    code = re.search("```python\n(.*)\n```", text, re.S)[1]
    *lines, last = code.splitlines()
    monkeypatch.chdir(tmp_path)
    names = {}
    exec("\n".join(lines), names)
    table = eval(last, names)
    (record,) = read_records(store)
    assert table.loc["student", "last epoch"] == f"{100 * record.metrics['student']:.1f}"


def run_cell(start, **names):
    """A cell of the run notebook that holds a text, run alone; its last expression."""
    notebook = nbformat.read(ROOT / "nbs" / "run_experiment.ipynb", as_version=4)
    body = ast.parse(next(c.source for c in notebook.cells if c.cell_type == "code" and start in c.source)).body
    last = ast.Expression(body.pop().value) if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    return last and eval(compile(last, "cell", "eval"), names)


@pytest.mark.parametrize("store", ["~/mine", "mine", "./mine/../mine"])
def test_a_store_is_opened_where_it_was_written(store, tmp_path, monkeypatch):
    """As the notebook prints it: the file that exists, and lines that open it from another folder and another home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    given = notebook_parameters(dict(store=store))
    record = read_records(ROOT / "reports" / "results" / "digits.jsonl")[0]
    path = Store(given["store"]).put(record)
    assert (tmp_path / "mine" / f"{record.id}.json").exists(), path
    names = dict(Markdown=str, Store=Store, default_store=default_store, shown_path=shown_path, opening_code=opening_code)
    text = run_cell("opening_code(record", store=store, given=given, record=record, **names)
    file = Path(re.match("`(.*?)` holds the record", text)[1])
    assert file.samefile(tmp_path / "mine" / f"{record.id}.json")
    *lines, last = re.search("```python\n(.*)\n```", text, re.S)[1].splitlines()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    found = {}
    exec("\n".join(lines), found)
    assert eval(last, found).equals(run_table(record))


@pytest.mark.parametrize("store", ["~/mine", "mine", Path("mine")], ids=repr)
def test_opening_code_holds_a_whole_path(store, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    record = SimpleNamespace(id="0" * 16)
    assert opening_code(record, store).endswith(f"run_table(Store({str(tmp_path.resolve() / 'mine')!r}).get({record.id!r}))")


def test_a_refusal_of_the_advice_is_shown_as_one_line():
    def recommend(**given):
        check_choice("adc", ["acd", "kd"], "method")

    record = SimpleNamespace(metrics=dict(student_validation=0.5), params=dict(dataset="folder"))
    with pytest.raises(ValueError) as refused:
        run_cell("recommend(**", experiment="probe", record=record, given={}, recommend=recommend, short_errors=short_errors)
    assert refused.value._render_traceback_() == ["ValueError: method 'adc' is unknown: did you mean acd? choices are acd, kd"]


def test_no_advice_says_why(executed):
    assert outputs(executed[0], "why_no_advice(record)") == [
        "No advice: methods are compared after a run of experiment `probe` on images of your own; for registered "
        "experiments `nbs/findings/` compares them over many seeds."]


@pytest.mark.parametrize("given, sentence", [
    (dict(methd="kd"), "ValueError: methd: did you mean method?"),
    (dict(method="kdd"), "ValueError: method 'kdd' is unknown: did you mean kd?"),
    (dict(epochs=-1), "ValueError: epochs=-1: input should be greater than or equal to 1"),
])
def test_a_refusal_is_shown_as_one_line(given, sentence):
    cell = "# Parameters\n" + "\n".join(f"{k} = {v!r}" for k, v in given.items())
    with pytest.raises(ValueError) as refused:
        notebook_parameters(dict(In=[cell, "running cell"]))
    (line,) = refused.value._render_traceback_()
    assert line.startswith(sentence) and "\n" not in line


def test_an_error_below_the_package_keeps_its_traceback():
    with pytest.raises(ValueError) as error, short_errors():
        int("x")
    assert not hasattr(error.value, "_render_traceback_")


@pytest.mark.parametrize("fails", [
    lambda: canonical(np.zeros((1, 2, 2, 3), np.uint8), ["cat"], ["cat", "dog"], "pets"),
    lambda: array_hash([[1], [2, 3]]),
    lambda: last_unit("1e+x"),
], ids=["NumPy's, for labels that are words", "NumPy's, for rows of two lengths", "of int"])
def test_an_error_of_c_code_that_the_package_calls_keeps_its_traceback(fails):
    """Its last line is one of w2snb, but no `raise`."""
    with pytest.raises(ValueError) as error, short_errors():
        fails()
    assert not hasattr(error.value, "_render_traceback_")
    assert error.traceback[-1].frame.f_globals["__name__"].startswith("w2snb.")


@pytest.mark.parametrize("refuse, sentence", [
    (lambda: check_choice("adc", ["acd"], "method"), "ValueError: method 'adc' is unknown: did you mean acd? choices are acd"),
    (lambda: check_parameters(epochs=-1), "ValueError: epochs=-1: input should be greater than or equal to 1"),  # from None
    (lambda: read_labels_table("no.csv"), "FileNotFoundError: file of labels 'no.csv' does not exist"),
])
def test_a_raise_of_the_package_is_short(refuse, sentence):
    with pytest.raises((ValueError, OSError)) as error, short_errors():
        refuse()
    assert error.value._render_traceback_() == [sentence]


@pytest.mark.quick
@pytest.mark.parametrize("done, options, text", [
    (0, {}, "ceiling: 0 %"),
    (5, dict(note="epoch 6/20"), "ceiling: 25 %, epoch 6/20, 00:21 left"),
    (15, dict(begun=10), "ceiling: 75 %, 00:07 left"),
    (5, dict(stopped=True), "ceiling: stopped at 25 % after 00:07"),
    (20, {}, "ceiling: done in 00:07"),
])
def test_stage_text(done, options, text):
    assert stage_text("ceiling", done, 20, 7, **options) == text


@pytest.mark.quick
@pytest.mark.parametrize("shell, front_end, kind", [
    (None, False, "std"), (SimpleNamespace(), False, "std"),
    (SimpleNamespace(kernel=1), False, "line"), (SimpleNamespace(kernel=1), True, "notebook"),
])
def test_progress_suits_the_place(monkeypatch, shell, front_end, kind):
    import tqdm.notebook
    import tqdm.std
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(w2snb.core.progress, "_has_front_end", lambda shell: front_end)
    kinds = dict(std=tqdm.std.tqdm, line=StageLine, notebook=tqdm.notebook.tqdm)
    assert type(progress_bar(total=1, disable=True, file=io.StringIO())) is kinds[kind]


@pytest.mark.parametrize("here, parent, variables, seen", [
    ({}, {}, {}, False),
    (dict(JPY_SESSION_NAME="a.ipynb"), {}, {}, True),
    (dict(JPY_SESSION_NAME="a.ipynb"), dict(JPY_SESSION_NAME="a.ipynb"), {}, False),
    ({}, {}, dict(__vsc_ipynb_file__="a.ipynb"), True),
])
def test_a_front_end_is_known_by_its_mark(monkeypatch, here, parent, variables, seen):
    import psutil
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    for k, v in here.items():
        monkeypatch.setenv(k, v)
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(parent=lambda: SimpleNamespace(environ=lambda: parent)))
    assert w2snb.core.progress._has_front_end(SimpleNamespace(user_ns=variables)) is seen


@pytest.mark.parametrize("path", REPORTS, ids=lambda p: p.stem)
def test_figures_of_the_report_have_texts_of_their_own(path):
    texts = re.findall(r'<img alt="(.*?)"', notebook_html(nbformat.read(path, as_version=4), path.stem))
    assert "figure" not in texts and all(len(t) > 15 for t in texts)
    assert len(set(texts)) == len(texts)


def test_widgets_are_locked():
    assert re.search(r"^ipywidgets==8", (ROOT / "requirements.txt").read_text(), re.M)
