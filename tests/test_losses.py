"""Losses against reference values computed elsewhere in float64 from the papers' formulas."""
import json
from pathlib import Path

import pytest
import torch

from w2snb.losses import METHODS, adaptive_weight, get_method, method_loss

pytestmark = pytest.mark.quick
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


LOGIT_METHODS = [m for m in METHODS if METHODS[m].loss and not METHODS[m].features]


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


Z, V, Y = torch.zeros(4, 3), torch.ones(4, 3), torch.tensor([0, 1, 2, 0])
NAN = torch.tensor([[0.0, float("nan"), 0.0]] * 4)
REFUSED = [
    ("kd", (Z, V[:, :2]), {}, "differ in shape: [4, 3] and [4, 2]"),
    ("kd", (Z, V.clone().requires_grad_()), {}, "the teacher carries gradients"),
    ("kd", (Z, None), {}, "needs a teacher: pass logits [b, c]"),
    ("kd", (Z[0], V[0]), {}, "must be [b, c] with b of 1 or more, not [3]"),
    ("kd", (Z[:0], V[:0]), {}, "not [0, 3]"),
    ("kd", (Z.long(), V.long()), {}, "must be floating point, not torch.int64"),
    ("kd", (Z.tolist(), V), {}, "reads logits [b, c] from the student, not a list of 4"),
    ("kd", (None, V), {}, "from the student, not NoneType"),
    ("kd", (NAN, V), {}, "student logits must be finite: 4 of 12 are not, the first is nan at [0, 1]"),
    ("kd", (Z, NAN), {}, "teacher logits must be finite"),
    ("ce", (Z, V), {}, "method ce needs labels"),
    ("ce", (Z, V, [0, 1, 2, 0]), {}, "labels must be a tensor of int64 class numbers, not list"),
    ("ce", (Z, V, Y + 2), {}, "labels must be in 0..2, one is 3"),
    ("ce", (Z, V, Y.float()), {}, "must be int64 class numbers, not torch.float32"),
    ("dkd", (Z, V, Y[:2]), {}, "labels must be [b] = [4], not [2]"),
    ("kdd", (Z, V), {}, "did you mean kd?"),
    ("acd:cifr", (Z, V), {}, "did you mean cifar?"),
    ("kd:cifar", (Z, V), {}, "method kd has no presets"),
    ("kd", (Z, V), dict(tau=1.0), "method kd has no parameter 'tau': its parameters are T"),
    ("kd", (Z, V), dict(T="2"), "T='2': T of method kd must be a number in 0.001..1000"),
    ("kd", (Z, V), dict(T=True), "must be a number in 0.001..1000"),
    ("gce", (Z, V), dict(q=0), "q=0: q of method gce must be a number in 1e-06..1"),
    ("aug_conf", (Z, V), dict(alpha=1.5), "must be a number in 0..1"),
    ("acd", (Z, V), dict(weight="swap"), "must be one of formula, swapped, constant, shuffled"),
    ("log_conf", (Z, V), dict(hard="soft"), "must be one of argmax, prior"),
    ("js", (Z, V), dict(rescale=1), "must be one of True, False"),
    ("tv", (Z, V), dict(rescale=True), "rescale of method tv must be False"),
    ("js", (Z, V), dict(ramp_fraction=0.1), "belongs to the schedule of method js"),
    ("rkd", (Z, V), dict(group=2.5), "must be a whole number in 1..1000000"),
    ("rkd", (Z, V[:3]), {}, "must be of the same images"),
    ("fitnet", (Z, V), {}, "reads a list of maps [b, d, h, w] from the student, not [4, 3]"),
    ("fitnet", ([], []), {}, "not a list of 0"),
]


@pytest.mark.parametrize("name, inputs, params, sentence", REFUSED, ids=[f"{n}: {s[:30]}" for n, _, _, s in REFUSED])
def test_what_cannot_be_meant_is_refused_in_one_sentence(name, inputs, params, sentence):
    with pytest.raises(ValueError) as caught:
        method_loss(name, *inputs, **params)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
