"""Losses against reference values computed elsewhere in float64 from the papers' formulas."""
import json
from pathlib import Path

import pytest
import torch

from w2snb.losses import METHODS, adaptive_weight, get_method, method_loss

ORACLE = json.loads((Path(__file__).parent / "losses_oracle.json").read_text())
CASES = [(c, l) for c in ORACLE["cases"] for l in c["losses"]]
NAMES = [f"{l['method']}-{l['params']}-case{ORACLE['cases'].index(c)}" for c, l in CASES]


def logits(case, dtype=torch.float64):
    return tuple(torch.tensor(case[k], dtype=dtype) for k in ("student", "teacher")) + (torch.tensor(case["labels"]),)


@pytest.mark.parametrize("case, expected", CASES, ids=NAMES)
def test_value_and_gradient(case, expected):
    student, teacher, labels = logits(case)
    student.requires_grad_()
    loss = method_loss(expected["method"], student, teacher, labels, **expected["params"])
    loss.backward()
    close = dict(rel=1e-9, abs=1e-9)
    assert loss.item() == pytest.approx(expected["value"], **close)
    assert student.grad.norm().item() == pytest.approx(expected["grad_norm"], **close)
    first = expected["grad_first_row"]
    assert student.grad[0, : len(first)].tolist() == pytest.approx(first, **close)


@pytest.mark.parametrize("case, expected", CASES, ids=NAMES)
def test_single_precision(case, expected):
    loss = method_loss(expected["method"], *logits(case, torch.float32), **expected["params"])
    assert loss.item() == pytest.approx(expected["value"], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("case", ORACLE["cases"], ids=range(len(ORACLE["cases"])))
def test_adaptive_weight(case):
    student, teacher, _ = logits(case)
    for tau, expected in case["adaptive_weight"].items():
        assert adaptive_weight(student, teacher, float(tau)).tolist() == pytest.approx(expected, abs=1e-9)


LOGIT_METHODS = [m for m in METHODS if not METHODS[m].features]


@pytest.mark.parametrize("name", [m for m in LOGIT_METHODS if METHODS[m].uses_teacher])
def test_teacher_is_a_constant(name):
    student, teacher = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    METHODS[name].loss(student, teacher).backward()
    assert teacher.grad is None and student.grad is not None


@pytest.mark.parametrize("name", LOGIT_METHODS)
def test_defaults_and_schedule_fit_the_loss(name):
    """Every default reaches the loss: the schedule returns what the function takes, at any time."""
    method = get_method(name)
    for progress in (0.0, 0.5, 1.0):
        params = method.schedule(progress, method.params) if method.schedule else method.params
        extra = {"labels": torch.tensor([0, 1])} if "labels" in method.needs else {}
        assert method.loss(torch.randn(2, 3), torch.randn(2, 3), **params, **extra).isfinite()
