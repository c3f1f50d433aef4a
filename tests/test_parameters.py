"""Wrong parameters, paths and checkpoint files: one sentence that names what is wrong, before any work."""
import inspect
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from w2snb.core.messages import first_line, shown_value
from w2snb.experiments.parameters import check_parameters, notebook_parameters
from w2snb.experiments.running import label_images, run
from w2snb.experiments.sweeps import parse_assignments
from w2snb.losses import ALLOWED, METHODS, check_params
from w2snb.models.build import load_weights

REFUSED = [
    (dict(seed=True), "seed=True: input should be a valid integer"),
    (dict(seed="1"), "seed='1': input should be a valid integer"),
    (dict(epochs="1"), "epochs='1': input should be a valid integer"),
    (dict(epochs=2.0), "epochs=2.0: input should be a valid integer"),
    (dict(T=True), "T=True: input should be a valid number"),
    (dict(lr="0.1"), "lr='0.1': input should be a valid number"),
    (dict(force="1"), "force='1': input should be a valid boolean"),
    (dict(compile=1), "compile=1: input should be a valid boolean"),
    (dict(student=3), "student=3: input should be a valid string"),
    (dict(T=1e30), "T=1e+30: T of method acd must be a number in 0.001..1000"),
    (dict(tau=1e-300), "tau=1e-300: tau of method acd must be a number in 0.001..1000000"),
    (dict(method="dkd", beta=1e300), "beta=1e+300: beta of method dkd must be a number in 0..1000"),
    (dict(method="dkd", alpha=1e9), "alpha=1000000000.0: alpha of method dkd must be a number in 0..1000"),
    (dict(method="gce", q=1e-300), "q=1e-300: q of method gce must be a number in 1e-06..1"),
    (dict(Tau=2), "Tau: did you mean tau?"),
    (dict(METHOD="kd"), "METHOD: did you mean method?"),
    (dict(store="a\0b"), "store='a\\x00b': a path holds no null byte"),
    (dict(data="a\0b"), "data='a\\x00b': a path holds no null byte"),
    (dict(teacher="a\0.csv"), "teacher='a\\x00.csv': a path holds no null byte"),
    (dict(weights="x" * 5000), f"weights={shown_value('x' * 5000)}: no part of a path is longer than 255 bytes"),
]


@pytest.mark.parametrize("given, sentence", REFUSED, ids=[s[:40] for _, s in REFUSED])
def test_refused_in_one_sentence(given, sentence):
    with pytest.raises(ValueError) as caught:
        check_parameters(**given)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("method", ["ACD", "Acd", "aCd"])
def test_a_name_in_another_case_is_recognised(method):
    with pytest.raises(ValueError, match=f"^method '{method}' is unknown: did you mean acd[?] choices are "):
        check_parameters(method=method)


def test_long_values_are_shortened():
    with pytest.raises(ValueError) as caught:
        check_parameters(method="x" * 5000)
    assert str(caught.value).startswith(f"method {shown_value('x' * 5000)} is unknown: choices are ")
    assert len(shown_value("x" * 5000)) == 60 and shown_value("short") == "'short'"


@pytest.mark.parametrize("error, line", [
    (EOFError(), "EOFError"), (ValueError("\n"), "ValueError"), (ValueError("one\ntwo"), "one"), (ValueError(" \none"), "one")])
def test_the_first_line_of_an_error_is_never_missing(error, line):
    assert first_line(error) == line


@pytest.mark.parametrize("name", ["store", "data", "weights", "teacher"])
def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert getattr(check_parameters(**{name: "~/x.csv"})[0], name) == str(tmp_path / "x.csv")
    assert notebook_parameters({name: "~/x.csv"}) == {name: str(tmp_path / "x.csv")}
    assert getattr(check_parameters(**{name: Path("x.csv")})[0], name) == "x.csv"


def test_a_command_line_has_types_and_numpy_counts():
    """What `w2snb_sweep` and papermill read from words is typed; integers of numpy are integers."""
    given = parse_assignments(["epochs=2", "tau=1", "lr=1e-3", "student=resnet56", "force=True", "T=2."])
    parameters, own = check_parameters(**given)
    assert (parameters.epochs, parameters.lr, parameters.force, own) == (2, 1e-3, True, dict(tau=1.0, T=2.0))
    parameters, own = check_parameters(seed=np.int64(3), tau=np.float32(2), T=np.int64(4))
    assert (parameters.seed, own, type(parameters.seed), type(own["T"])) == (3, dict(tau=2.0, T=4.0), int, float)


def test_folders_that_are_given_exist(tmp_path, monkeypatch):
    """Also for a run that reads nothing from them."""
    with pytest.raises(FileNotFoundError, match="^weights folder '/no/such' does not exist$"):
        run("digits", weights="/no/such", store=tmp_path / "store", progress=False)
    monkeypatch.setenv("W2SNB_WEIGHTS", "/no/such")
    with pytest.raises(FileNotFoundError, match="^weights folder '/no/such' does not exist$"):
        run("digits", store=tmp_path / "store", progress=False)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("folds", [2.5, "x", True, 1, 0, -3, None])
def test_folds_are_a_whole_number(folds, monkeypatch):
    monkeypatch.setattr("w2snb.experiments.running.relabel", lambda *a, **k: pytest.fail("work was begun"))
    with pytest.raises(ValueError) as caught:
        label_images("digits-random_cnn_from_pixels", "soft_ce", folds=folds, progress=False)
    assert str(caught.value) == f"folds={folds!r}: folds must be a whole number from 2 on"


BOUNDS = [(m, k, edge) for m in METHODS if METHODS[m].loss and not METHODS[m].features for k in METHODS[m].params
          if isinstance(METHODS[m].params[k], float) for edge in (0, 1)]


@pytest.mark.parametrize("name, parameter, edge", BOUNDS)
def test_at_its_limits_a_loss_is_finite(name, parameter, edge):
    """A training that diverges within the limits does so for another reason."""
    m = METHODS[name]
    value = (ALLOWED | m.allowed)[parameter][edge]
    params = m.params | check_params(m, {parameter: value})
    for progress in (0.0, 1.0):
        now = m.schedule(progress, params) if m.schedule else params
        torch.manual_seed(0)
        for scale in (1.0, 30.0):
            student, teacher = (scale * torch.randn(2, 16, 10)).unbind()
            labels = dict(labels=torch.arange(16) % 10) if "labels" in inspect.signature(m.loss).parameters else {}
            loss = m.loss(student.requires_grad_(), teacher, **now, **labels)
            assert loss.isfinite() and torch.autograd.grad(loss, student)[0].isfinite().all()


class Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


CODE = "checkpoint {} holds code and is not loaded: save the network's state_dict, or safetensors"
BROKEN = "checkpoint {} cannot be read: it is damaged, cut short or no {} file"


def files(folder):
    """Files that are no checkpoint, each with the sentence it gets."""
    whole = folder / "whole.pth"
    torch.save(torch.nn.Linear(2, 2).state_dict(), whole)
    torch.save({"weight": Code()}, folder / "saved.pth")
    torch.save(torch.nn.Linear(2, 2), folder / "network.pth")
    (folder / "plain.pt").write_bytes(pickle.dumps({"weight": Code()}))
    (folder / "empty.pth").touch()
    (folder / "empty.safetensors").touch()
    (folder / "page.pth").write_text("<html>404</html>")
    (folder / "text.pth").write_text("hello")
    (folder / "page.safetensors").write_text("<html>404</html>")
    (folder / "cut.pth").write_bytes(whole.read_bytes()[:500])
    torch.save([1, 2], folder / "list.pth")
    yield from ((name, CODE) for name in ("saved.pth", "network.pth", "plain.pt"))
    yield from ((name, "checkpoint {} is empty: was its download interrupted?") for name in ("empty.pth", "empty.safetensors"))
    yield from ((name, BROKEN.replace("no {}", "no torch")) for name in ("page.pth", "text.pth", "cut.pth"))
    yield "page.safetensors", BROKEN.replace("no {}", "no safetensors")
    yield "list.pth", "checkpoint {} is not a dictionary of tensors, such as `state_dict` gives"


def test_a_file_that_is_no_checkpoint_is_one_sentence_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, sentence in files(tmp_path):
        with pytest.raises(ValueError) as caught:
            load_weights(torch.nn.Linear(2, 2), tmp_path / name)
        assert str(caught.value) == sentence.format(tmp_path.resolve() / name)
    assert not Path("ran").exists()
    load_weights(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
