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


@pytest.mark.parametrize("name", [m for m in METHODS if METHODS[m].uses_teacher])
def test_teacher_is_a_constant(name):
    student, teacher = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    METHODS[name].loss(student, teacher).backward()
    assert teacher.grad is None and student.grad is not None


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_for_any_logits(name, scale, dtype):
    torch.manual_seed(0)
    student, teacher = (scale * torch.randn(2, 4, 10)).to(dtype)
    student.requires_grad_()
    loss = method_loss(name, student, teacher, torch.tensor([0, 1, 2, 3]))
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_order_of_classes_and_images_does_not_matter(name):
    torch.manual_seed(0)
    student, teacher, labels = torch.randn(6, 5).double(), torch.randn(6, 5).double(), torch.arange(6) % 5
    classes, images = torch.randperm(5), torch.randperm(6)
    place = torch.argsort(classes)
    other = method_loss(name, student[images][:, classes], teacher[images][:, classes], place[labels[images]])
    assert other.item() == pytest.approx(method_loss(name, student, teacher, labels).item(), rel=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_defaults_and_schedule_fit_the_loss(name):
    """Every default reaches the loss: the schedule returns what the function takes, at any time."""
    method = get_method(name)
    for progress in (0.0, 0.5, 1.0):
        params = method.schedule(progress, method.params) if method.schedule else method.params
        extra = {"labels": torch.tensor([0, 1])} if "labels" in method.needs else {}
        assert method.loss(torch.randn(2, 3), torch.randn(2, 3), **params, **extra).isfinite()
