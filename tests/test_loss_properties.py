"""Mathematics of the losses, on inputs that hypothesis invents."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from w2snb.losses import (DIVERGENCES, METHODS, adaptive_weight, balanced_classes, log_probs, method_loss,
    smoothed)

LOGIT_METHODS = [m for m in METHODS if METHODS[m].loss and not METHODS[m].features]
FINITE = st.floats(-8, 8, width=32)
settings.register_profile("w2snb", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("w2snb")


@st.composite
def pairs(draw, values=FINITE, classes=st.sampled_from([2, 3, 10])):
    """Student and teacher logits [b, c], double precision."""
    shape = (draw(st.integers(1, 5)), draw(classes))
    return tuple(torch.tensor(draw(arrays("float64", shape, elements=values))) for _ in range(2))


def value_and_gradient(name, student, teacher, **params):
    student = student.detach().clone().requires_grad_()
    labels = torch.arange(len(student)) % student.shape[-1] if "labels" in METHODS[name].needs else None
    loss = method_loss(name, student, teacher, labels, **params)
    return loss.detach(), torch.autograd.grad(loss, student)[0]


@pytest.mark.parametrize("name", DIVERGENCES)
@given(pairs(), st.sampled_from([0.0, 1e-4, 0.1]))
def test_a_divergence_is_never_negative(name, logits, eps):
    lp, lq = log_probs(logits[0]), smoothed(log_probs(logits[1]), eps)
    assert (DIVERGENCES[name].between(lp, lq) >= -1e-12).all()


@pytest.mark.parametrize("name", DIVERGENCES)
@given(pairs(), st.sampled_from([0.0, 1e-4, 0.1]))
def test_zero_exactly_where_the_student_is_the_smoothed_teacher(name, logits, eps):
    between = DIVERGENCES[name].between
    lq = smoothed(log_probs(logits[1]), eps)
    assert between(lq, lq).abs().max() < 1e-12
    lp = log_probs(logits[0])
    apart = (lp.exp() - lq.exp()).abs().sum(-1) / 2
    assert (between(lp, lq)[apart > 1e-3] > 1e-8).all()  # each is at least tv^2/8 or so, by Pinsker and its kin


@pytest.mark.parametrize("name", DIVERGENCES)
@given(pairs(values=st.floats(-4, 4, width=32)), st.sampled_from([0.0, 1e-3]))
def test_closed_form_gradient(name, logits, eps):
    s = logits[0].requires_grad_()
    lp, lq = log_probs(s), smoothed(log_probs(logits[1]), eps)
    auto, = torch.autograd.grad(DIVERGENCES[name].between(lp, lq).sum(), s)
    closed = DIVERGENCES[name].gradient(lp, lq).detach()
    near = (lp - lq).abs().detach() < 1e-12  # the corner of tv: any subgradient is right
    if not (name == "tv" and near.any()):
        assert torch.allclose(auto, closed, rtol=1e-8, atol=1e-9 * auto.abs().max().item() + 1e-12)


@given(pairs(), st.sampled_from([0.0, 1e-4, 0.1]))
def test_jeffreys_is_both_directions(logits, eps):
    parts = [value_and_gradient(n, *logits, eps=eps) for n in ("jeffreys", "forward_kl", "reverse_kl")]
    for whole, one, other in zip(*parts):
        assert torch.allclose(whole, one + other, atol=1e-10)


@pytest.mark.parametrize("name", [n for n, d in DIVERGENCES.items() if d.curvature])
@given(pairs(values=st.floats(-2, 2, width=32)))
def test_second_order_near_agreement(name, logits):
    lq = log_probs(logits[1])
    lp = log_probs(logits[1] + 1e-4 * (logits[0] - logits[0].mean(-1, keepdim=True)))
    chi2 = ((lp.exp() - lq.exp()) ** 2 / lq.exp()).sum(-1)
    seen = chi2 > 1e-10  # below, rounding decides
    ratio = DIVERGENCES[name].between(lp, lq)[seen] / chi2[seen]
    assert torch.allclose(ratio, torch.full_like(ratio, DIVERGENCES[name].curvature / 2), rtol=5e-3)


@given(pairs(), st.integers(0, 2**16))
def test_bregman_identity(logits, seed):
    s, w = log_probs(logits[0]), log_probs(logits[1])
    y = torch.randn(s.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(-1)
    gain = (-(y * w) + y * s).sum(-1)
    kl = (s.exp() * (s - w)).sum(-1)
    assert torch.allclose(gain, kl + ((y - s.exp()) * (s - w)).sum(-1), atol=1e-12)


@given(pairs())
def test_pinsker_and_its_kin(logits):
    """tv^2 <= kl/2, hellinger/2 <= tv, tv^2 <= hellinger, js <= log 2."""
    lp, lq = map(log_probs, logits)
    d = {n: DIVERGENCES[n].between(lp, lq) for n in ("forward_kl", "reverse_kl", "js", "hellinger", "tv")}
    slack = 1e-12
    assert (d["tv"] ** 2 <= torch.minimum(d["forward_kl"], d["reverse_kl"]) / 2 + slack).all()
    assert (d["hellinger"] / 2 <= d["tv"] + slack).all() and (d["tv"] ** 2 <= d["hellinger"] + slack).all()
    assert (d["js"] <= torch.log(torch.tensor(2.0, dtype=torch.float64)) + slack).all()


@given(pairs(), st.floats(0.05, 20))
def test_adaptive_weight_is_one_half_exactly_where_both_agree(logits, tau):
    student, teacher = logits
    weight = adaptive_weight(student, teacher, tau)
    margin = student.max(-1).values - student.gather(-1, teacher.argmax(-1, keepdim=True)).squeeze(-1)
    assert (weight <= 0.5).all()
    assert (weight[margin == 0] == 0.5).all() and (weight[margin > 1e-6 * tau] < 0.5).all()


@given(pairs(classes=st.just(2)))
def test_hard_labels_of_two_classes_match_the_prior(logits):
    student, teacher = logits
    odds = student[:, 0] - student[:, 1]
    if len(odds.unique()) == len(odds):  # equal students cannot be told apart
        share = (balanced_classes(student, teacher) == 0).double().mean()
        assert abs(share - teacher.softmax(-1)[:, 0].mean()) <= 1 / len(student) + 1e-12


@pytest.mark.parametrize("name", LOGIT_METHODS)
@given(pairs(), st.integers(0, 2**16))
def test_order_of_classes_and_images_does_not_matter(name, logits, seed):
    student, teacher = logits
    g = torch.Generator().manual_seed(seed)
    teacher = teacher + 1e-3 * torch.rand(teacher.shape, generator=g)  # no ties: an argmax would take the first
    student = student + 1e-3 * torch.rand(student.shape, generator=g)
    classes, images = (torch.randperm(n, generator=g) for n in (student.shape[1], student.shape[0]))
    if name == "log_conf" and len(classes) == 2:
        classes = torch.arange(2)  # its quantile gives the image on the threshold to class 0
    labels = torch.arange(len(student)) % student.shape[1]
    mixed = method_loss(name, student[images][:, classes], teacher[images][:, classes], torch.argsort(classes)[labels[images]])
    assert mixed.item() == pytest.approx(method_loss(name, student, teacher, labels).item(), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", LOGIT_METHODS)
@given(st.sampled_from([1, 3]), st.sampled_from([2, 1000]), st.sampled_from([1.0, 100.0, 1e4]),
       st.sampled_from([torch.float32, torch.float16, torch.bfloat16]), st.integers(0, 2**16))
@settings(max_examples=10)
def test_finite_for_any_logits(name, b, c, scale, dtype, seed):
    """Value and gradient, for logits up to 1e4 in any precision, also equal, opposite and one-hot ones."""
    g = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.rand(2, b, c, generator=g) * 2 - scale).to(dtype)
    for s, t in ((student, teacher), (student, student), (student, -student)):
        value, gradient = value_and_gradient(name, s, t)
        assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("name", LOGIT_METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_single_precision(name, dtype):
    torch.manual_seed(0)
    x, weight, teacher = torch.randn(4, 8), torch.randn(8, 10), torch.randn(4, 10)
    labels = torch.arange(4)
    with torch.autocast("cpu", dtype=dtype):
        logits = (x @ weight).requires_grad_()
        assert logits.dtype == dtype
        inside = method_loss(name, logits, teacher, labels)
    assert inside.dtype == torch.float32
    full = logits.detach().float().requires_grad_()
    outside = method_loss(name, full, teacher, labels)
    assert inside.item() == pytest.approx(outside.item(), rel=1e-6, abs=1e-7)
    (low,), (high,) = torch.autograd.grad(inside, logits), torch.autograd.grad(outside, full)
    torch.testing.assert_close(low.float(), high, rtol=0.02, atol=0.02 * high.abs().max().item())


@pytest.mark.parametrize("name", LOGIT_METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_extreme_logits_of_low_precision_stay_finite(name, dtype):
    student = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]]).to(dtype).requires_grad_()
    teacher = torch.tensor([[-1e4, 1e4, 0.0], [1e4, -1e4, -1e4]])
    loss = method_loss(name, student, teacher, torch.tensor([0, 1]))
    (grad,) = torch.autograd.grad(loss, student)
    assert loss.isfinite() and grad.isfinite().all()


VARIANTS = [("acd", {"weight": w}) for w in ("swapped", "constant", "shuffled")] + [("log_conf", {"hard": "argmax"})]
VARIANTS += [(n, {"alpha": 0.5}) for n in DIVERGENCES] + [(n, {"rescale": True}) for n in DIVERGENCES if n != "tv"]


@pytest.mark.parametrize("name, params", VARIANTS, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values())))
@given(pairs())
def test_variants_are_finite_and_blind_to_the_names_of_classes(name, params, logits):
    student, teacher = (x.clone() for x in logits)
    student.requires_grad_()
    loss = method_loss(name, student, teacher, **params)
    assert loss.isfinite() and torch.autograd.grad(loss, student)[0].isfinite().all()
    ties = lambda z: (z == z.max(-1, keepdim=True).values).sum(-1).max() > 1  # noqa: E731
    if not ties(student.detach()) and not ties(teacher):
        flipped = method_loss(name, student.detach().flip(-1), teacher.flip(-1), **params)
        torch.testing.assert_close(flipped, loss.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LOGIT_METHODS)
@given(pairs())
def test_a_constant_added_to_all_logits_changes_nothing(name, logits):
    if name != "bkd":  # sigmoids have no normaliser
        s, t = ((256 * x).round() / 256 for x in logits)  # sums are exact: no tie is made or broken
        labels = torch.zeros(len(s), dtype=torch.int64)
        own = dict(hard="argmax") if name == "log_conf" else {}  # its other way of choosing classes decides equal shares by a rounding
        moved, plain = method_loss(name, s + 3, t - 5, labels, **own), method_loss(name, s, t, labels, **own)
        assert moved.item() == pytest.approx(plain.item(), rel=1e-6, abs=1e-9)
