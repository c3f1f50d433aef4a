"""The main job as users start it: papermill from the shell, and a kernel that has been used."""
import ast
import json
import subprocess
import sys

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel

from conftest import ROOT
from w2snb.core.provenance import stale_modules
from w2snb.experiments.parameters import Parameters
from w2snb.experiments.running import run
from w2snb.results.records import read_records

NOTEBOOK = ROOT / "nbs" / "run_experiment.ipynb"
SHORT = dict(epochs=2, train_size=200, device="cpu")


def papermill(out, cwd=ROOT, **parameters):
    words = [w for k, v in parameters.items() for w in ("-p", k, str(v))]
    command = [sys.executable, "-m", "papermill", str(NOTEBOOK), str(out), "-k", "python3", "--no-progress-bar", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def code_cells():
    return [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code"]


def test_parameters_cell_is_the_model():
    cell = next(c for c in code_cells() if "parameters" in c.metadata.get("tags", []))
    lines = {line.split(":")[0]: line for line in cell.source.splitlines()}
    assert list(lines) == list(Parameters.model_fields)
    values = {s.target.id: ast.literal_eval(s.value) for s in ast.parse(cell.source).body}
    for name, field in Parameters.model_fields.items():
        assert values[name] == field.default, name
        assert field.description.split(",")[0].split(";")[0] in lines[name], f"the comment of {name} is not the model's description"


def test_the_method_that_ran_is_the_method_asked_for(tmp_path, store):
    done = papermill(tmp_path / "out.ipynb", method="kd", T=3, seed=5, **SHORT)
    assert done.returncode == 0, done.stderr
    (record,) = read_records(store)
    assert (record.method, record.seed, record.params["method_params"]) == ("kd", 5, {"T": 3.0})
    again = papermill(tmp_path / "again.ipynb", method="kd", T=3, seed=5, **SHORT)
    assert again.returncode == 0 and "from store, computed" in (tmp_path / "again.ipynb").read_text()
    outputs = [[o["data"] for c in nbformat.read(tmp_path / n, 4).cells if c.cell_type == "code" for o in c.outputs if "data" in o] for n in ("out.ipynb", "again.ipynb")]
    pictures = [[data["image/png"] for data in shown if "image/png" in data] for shown in outputs]  # only the first has lines of progress
    assert pictures[0] and pictures[0] == pictures[1], "the figures of a stored run are the same"


@pytest.mark.slow
def test_a_parameter_of_the_method_alone_can_be_given(tmp_path, store):
    done = papermill(tmp_path / "out.ipynb", method="acd", ramp_fraction=0.5, **SHORT)
    assert done.returncode == 0, done.stderr
    assert read_records(store)[0].params["method_params"]["ramp_fraction"] == 0.5


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (dict(methd="kd"), "ValueError: methd: did you mean method?"),
        pytest.param(dict(method="kdd"), "ValueError: method 'kdd' is unknown: did you mean kd?", marks=pytest.mark.slow),
        pytest.param(dict(method="kd", tau=1), "ValueError: method kd has no parameter 'tau'", marks=pytest.mark.slow),
        pytest.param(dict(epochs=-1), "ValueError: epochs=-1", marks=pytest.mark.slow),
        (dict(data="no/such/folder"), "FileNotFoundError: data folder 'no/such/folder' does not exist"),
    ],
)
def test_wrong_words_end_papermill_with_one_sentence(tmp_path, store, wrong, sentence):
    done = papermill(tmp_path / "out.ipynb", **wrong)
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1].startswith(sentence)
    assert not store.exists() or not list(store.iterdir())


def test_used_kernel_is_not_refused(store):
    """In a kernel with a day's variables, running again from the parameters cell looks at that cell only."""
    manager, client = start_new_kernel(cwd=str(NOTEBOOK.parent))

    def execute(code):
        reply = client.execute_interactive(code, store_history=True, output_hook=lambda message: None, timeout=120)
        return reply["content"]

    try:
        parameters, check = (c.source for c in code_cells()[:2])
        assert execute("# Parameters\nmethd = 'ce'\n")["status"] == "ok"
        refused = execute(check)
        assert refused["status"] == "error" and "did you mean method?" in refused["evalue"]
        execute("x, methd, epochz = 1, 'ce', 3")
        assert execute(parameters)["status"] == "ok"
        assert execute(check)["status"] == "ok"
        assert execute(check)["status"] == "ok", "the check alone, a second time"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.slow
def test_runs_from_the_notebooks_folder(tmp_path, store):
    done = papermill(tmp_path / "out.ipynb", cwd=ROOT / "nbs", **SHORT)
    assert done.returncode == 0, done.stderr
    assert json.loads((next(store.glob("*.json"))).read_text())["method"] == "acd"


def test_modules_are_what_the_notebooks_export():
    assert stale_modules(ROOT) == []


def damaged(tmp_path, store):
    """A truncated shard, a damaged record and a store that cannot be written, each with the parameters that meet it."""
    (tmp_path / "cifar100").mkdir()
    (tmp_path / "cifar100" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 cut short")
    yield dict(experiment="cifar100-resnet56_from_resnet20", data=tmp_path), "ValueError: ", "is not a whole parquet file"
    (tmp_path / "file").write_text("")
    yield dict(store=tmp_path / "file" / "store"), "OSError: store ", "cannot be written"
    record = run(**SHORT, progress=False)
    (store / f"{record.id}.json").write_text("{}")
    yield SHORT, "ValueError: ", "delete it to run again"


@pytest.mark.slow
def test_damaged_things_end_papermill_with_one_sentence(tmp_path, store):
    for parameters, start, end in damaged(tmp_path, store):
        done = papermill(tmp_path / "out.ipynb", **parameters)
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode != 0 and last.startswith(start) and end in last, last
