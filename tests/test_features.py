"""Feature losses against reference values, their adapters on odd pairs of networks, and taps on several networks."""
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from w2snb.losses.features import FitnetAdapter, ReviewAdapter, context_loss, fitnet, relations, reviewkd, rkd
from w2snb.losses.methods import METHODS, method_loss
from w2snb.models.build import KINDS, Taps, build_model, feature_shapes, feature_stages, pair_maps
from w2snb.models.small import Stages, count_parameters

# student, teacher [6, 2], with value, norm of the gradient and its first row, in float64 from the paper's formulas
HAND = dict(
    student=[[2.764356, -0.607398], [3.218377, 2.92008], [-0.406078, 1.616096], [-1.204098, -0.528422], [0.85024, 1.162243], [1.980594, 1.161371]],
    teacher=[[2.764356, -0.607398], [0.049352, 0.858322], [-1.344106, 1.110831], [-1.544351, -0.09323], [-0.701739, -0.919543], [0.493197, 0.062351]],
    losses=[dict(method="rkd", params=dict(distance=25.0, angle=50.0), value=8.445531998596264, grad_norm=3.5668279131452856, grad_first_row=[-1.8354528072336571, 0.7948216440094948])],
)
ORACLE = [HAND] + json.loads((Path(__file__).parent / "losses_oracle.json").read_text())["cases"]
RKD = [(c, l) for c in ORACLE for l in c["losses"] if l["method"] == "rkd"]

LIKE = [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8), (64, 1, 1)]
PAIRS = dict(
    same=(LIKE, LIKE),
    wide=([(64, 32, 32), (256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 1, 1)][1:], LIKE[1:]),
    sizes=([(24, 7, 5), (3, 9, 2), (8, 1, 1)], [(5, 4, 4), (24, 3, 11), (1, 1, 1)]),
    growing=([(4, 2, 2), (8, 8, 8), (6, 1, 1)], [(4, 8, 8), (2, 2, 2), (9, 1, 1)]),
    one=([(7, 1, 1)], [(3, 1, 1)]),
)


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(0)


def maps(shapes, b=2, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(b, *s, generator=g).to(dtype) for s in shapes]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.quick
@pytest.mark.parametrize("case, expected", RKD, ids=range(len(RKD)))
def test_rkd_value_and_gradient(case, expected):
    student, teacher = (torch.tensor(case[k], dtype=torch.float64) for k in ("student", "teacher"))
    student.requires_grad_()
    loss = method_loss("rkd", student, teacher, **expected["params"])
    loss.backward()
    close = dict(rel=1e-9, abs=1e-9)
    assert loss.item() == pytest.approx(expected["value"], **close)
    assert student.grad.norm().item() == pytest.approx(expected["grad_norm"], **close)
    first = expected["grad_first_row"]
    assert student.grad[0, : len(first)].tolist() == pytest.approx(first, **close)


@pytest.mark.parametrize("b", [1, 2, 3, 64, 65, 130])
def test_rkd_groups(b):
    student, teacher = torch.randn(b, 5, dtype=torch.float64), torch.randn(b, 9, dtype=torch.float64)
    whole = sum(len(s) * rkd(s, t, group=10**6) for s, t in zip(student.split(64), teacher.split(64))) / b
    assert rkd(student, teacher).item() == pytest.approx(whole.item(), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_relations_keep_similar_figures(scale):
    f = torch.randn(12, 6, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    for a, b in zip(relations(f), relations(scale * (f @ turn) + 5)):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["rkd", "fitnet", "reviewkd"])
def test_order_of_images_does_not_matter(name):
    order, (a, b) = torch.randperm(8), (maps(LIKE[1:], 8, torch.float64, seed) for seed in (0, 1))
    if name == "rkd":
        a, b = a[-1].flatten(1), b[-1].flatten(1)
        assert rkd(a[order], b[order]).item() == pytest.approx(rkd(a, b).item(), rel=1e-12)
    else:
        loss = METHODS[name].loss
        assert loss([x[order] for x in a], [x[order] for x in b]).item() == pytest.approx(loss(a, b).item(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("b", [1, 2, 5])
@pytest.mark.parametrize("same", [False, True], ids=["different", "identical"])
def test_rkd_is_finite(dtype, b, same):
    student = torch.randn(b, 16).to(dtype)
    if same:
        student = student[:1].repeat(b, 1)
    student.requires_grad_()
    teacher = torch.randn(b, 4).to(dtype).requires_grad_()
    loss = rkd(student, teacher)
    loss.backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.isfinite() and student.grad.isfinite().all() and teacher.grad is None
    assert student.grad.norm() < 1e3  # nothing explodes where two images meet


def test_rkd_near_a_meeting_point():
    """Two images that nearly meet: the gradient grows as 1/distance, as it must, and stops where they are the same."""
    f, teacher = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    for gap in (1e-2, 1e-4, 1e-7, 0):
        f[1] = f[0] + gap
        s = f.clone().requires_grad_()
        rkd(s, teacher).backward()
        assert s.grad.isfinite().all() and s.grad.norm() < 1e3 / max(gap, 1e-6)
    assert s.grad.norm() < 1e3


def test_rkd_is_not_made_coarse_by_autocast():
    student, teacher = torch.randn(8, 16), torch.randn(8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        inside = rkd(student, teacher)
    assert torch.equal(inside, rkd(student, teacher))


@pytest.mark.quick
@pytest.mark.parametrize("make, method", [(FitnetAdapter, "fitnet"), (ReviewAdapter, "reviewkd")])
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("b", [1, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_adapter_fits_any_pair(make, method, pair, b, dtype):
    student_shapes, teacher_shapes = PAIRS[pair]
    adapter = METHODS[method].adapter(student_shapes, teacher_shapes, generator())
    assert isinstance(adapter, make)
    student = [x.requires_grad_() for x in maps(student_shapes, b, dtype)]
    loss = method_loss(method, adapter(student), maps(teacher_shapes, b, dtype, 1))
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite()
    for tensor in student + list(adapter.parameters()):
        assert tensor.grad is not None and tensor.grad.isfinite().all()
    assert [tuple(x.shape[1:]) for x in adapter.eval()(student)] == teacher_shapes


@pytest.mark.parametrize("make", [FitnetAdapter, ReviewAdapter])
def test_adapter_draws_from_its_generator_only(make):
    state = torch.get_rng_state()
    first, again, other = (make(*PAIRS["sizes"], generator(s)).state_dict() for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    moved = make(*PAIRS["sizes"], generator()).state_dict()
    assert all(torch.equal(first[k], again[k]) and torch.equal(first[k], moved[k]) for k in first)
    drawn = [k for k in first if first[k].ndim == 4]
    assert drawn and not any(torch.equal(first[k], other[k]) for k in drawn)
    assert all(v.isfinite().all() for v in first.values())


def test_adapter_sizes():
    adapter = FitnetAdapter(LIKE[:4], [(8, 4, 4)] * 4, generator())
    assert count_parameters(adapter) == 8 * (16 + 16 + 32 + 64)
    review = ReviewAdapter([(9, 4, 4), (700, 1, 1)], [(3, 4, 4), (5, 1, 1)], generator())
    assert [s.enter[0].out_channels for s in review.steps] == [512, 512]  # not more than 512
    assert review.steps[-1].gates is None and review.steps[0].gates.out_channels == 2
    bound = 1 / 1024**0.5
    assert review.steps[0].gates.weight.abs().max() <= bound and review.steps[0].gates.bias.abs().max() <= bound


def test_review_of_equal_sizes_by_hand():
    """Two stages, gates wide open and shut: the shallow answer uses its own map, or that of the deeper stage."""
    adapter = ReviewAdapter([(4, 4, 4), (4, 2, 2)], [(3, 4, 4), (3, 2, 2)], generator()).eval()
    a, b = maps([(4, 4, 4), (4, 2, 2)]), maps([(4, 4, 4), (4, 2, 2)], seed=1)
    step = adapter.steps[0]
    with torch.no_grad():
        step.gates.weight.zero_()
        step.gates.bias.copy_(torch.tensor([99.0, -99.0]))
        torch.testing.assert_close(adapter([a[0], b[1]])[0], adapter(a)[0])
        torch.testing.assert_close(adapter(a)[0], step.leave(step.enter(a[0])))
        step.gates.bias.copy_(torch.tensor([-99.0, 99.0]))
        torch.testing.assert_close(adapter([b[0], a[1]])[0], adapter(a)[0])
        deeper = F.interpolate(adapter.steps[1].enter(a[1]), scale_factor=2)
        torch.testing.assert_close(adapter(a)[0], step.leave(deeper))


@pytest.mark.parametrize("size, grids", [((8, 8), 4), ((5, 9), 4), ((4, 4), 3), ((3, 7), 3), ((2, 2), 2), ((1, 1), 1), ((1, 6), 1)])
def test_context_weights(size, grids):
    a, b = torch.randn(2, 3, 5, *size, dtype=torch.float64)
    sizes = [n for n in (4, 2, 1) if n < min(size)]
    assert len(sizes) == grids - 1
    errors = [F.mse_loss(a, b)] + [F.mse_loss(F.adaptive_avg_pool2d(a, n), F.adaptive_avg_pool2d(b, n)) for n in sizes]
    weights = [1, 1 / 2, 1 / 4, 1 / 8][:grids]
    expected = sum(w * e for w, e in zip(weights, errors)) / sum(weights)
    assert context_loss(a, b).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.quick
@pytest.mark.parametrize("loss", [fitnet, reviewkd])
def test_map_losses_refuse_what_does_not_fit(loss):
    a, b = maps(LIKE), maps(LIKE[:3] + [(64, 1, 8), (64, 1, 1)])
    with pytest.raises(ValueError, match=r"stage 4 of 5: the student's map is \[2, 64, 8, 8\] and the teacher's \[2, 64, 1, 8\]"):
        loss(a, b)
    with pytest.raises(ValueError, match="equally many maps, not 5 and 4"):
        loss(a, b[:4])
    teacher = [x.requires_grad_() for x in maps(LIKE, seed=1)]
    loss([x.requires_grad_() for x in a], teacher).backward()
    assert all(t.grad is None for t in teacher) and all(x.grad is not None for x in a)
    assert loss([x.bfloat16() for x in a], [x.bfloat16() for x in a]).dtype == torch.float32


NETWORKS = {
    "digits_small_cnn": ((1, 8, 8), [(8, 8, 8), (16, 8, 8), (32, 4, 4)], 32),
    "digits_cnn": ((1, 8, 8), [(24, 8, 8), (48, 8, 8), (96, 4, 4)], 96),
    "resnet8": ((3, 32, 32), LIKE[:4], 64),
    "resnet8x4": ((3, 32, 32), [(32, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8)], 256),
    "timm:mobilenetv2_100": ((3, 64, 64), [(16, 32, 32), (24, 16, 16), (32, 8, 8), (96, 4, 4), (320, 2, 2)], 1280),
    "timm:resnet18": ((3, 64, 64), [(64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)], 512),
    "timm:resnetv2_50": ((3, 64, 64), [(64, 32, 32), (256, 16, 16), (512, 8, 8), (1024, 4, 4), (2048, 2, 2)], 2048),  # its head is a convolution
    "timm:swin_tiny_patch4_window7_224": ((3, 224, 224), [(96, 56, 56), (192, 28, 28), (384, 14, 14), (768, 7, 7)], 768),  # channels last
}


@pytest.mark.parametrize("name", NETWORKS)
def test_taps(name):
    size, shapes, d = NETWORKS[name]
    model, x = build_model(name, 10), torch.randn(2, *size)
    before, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    next(model.children()).eval()  # a frozen part stays frozen
    modes = [m.training for m in model.modules()]
    assert feature_shapes(model, x[:1], "maps+pooled") == shapes + [(d, 1, 1)]
    assert feature_shapes(model, x, "pooled") == [(d, 1, 1)] and feature_shapes(model, x) == shapes
    assert [m.training for m in model.modules()] == modes and torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    hooks = lambda: sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    model.eval()
    plain, none = model(x), hooks()
    with Taps(model, "maps+pooled") as taps:
        with pytest.raises(ValueError, match="call the network on images, then read"):
            taps.read()
        out = model(x)
        *features, pooled = taps.read()
        assert hooks() > none
    assert hooks() == none and torch.equal(out, plain)
    assert pooled.shape == (2, d, 1, 1) and all(f.requires_grad for f in features + [pooled])
    (features[0].sum() + pooled.sum()).backward()
    assert next(model.parameters()).grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_taps_for_a_whole_training(kind):
    """A training with taps is the training without; features of each pass replace those of the last."""
    def train(tapped):
        torch.manual_seed(0)
        model = build_model("digits_small_cnn", 10)
        taps, sgd = Taps(model, kind) if tapped else None, torch.optim.SGD(model.parameters(), 0.1)
        for b in (8, 8, 3):
            loss = F.cross_entropy(model(torch.randn(b, 1, 8, 8)), torch.arange(b))
            sgd.zero_grad(), loss.backward(), sgd.step()
            if tapped:
                first = taps.read() if kind == "pooled" else taps.read()[0]
                assert len(first) == b
        return model.state_dict()

    plain, tapped = train(False), train(True)
    assert plain.keys() == tapped.keys() and all(torch.equal(plain[k], tapped[k]) for k in plain)


@pytest.mark.quick
def test_networks_that_do_not_say():
    with pytest.raises(ValueError, match="network ResNet does not declare where its features are"):
        feature_stages(build_model("torchvision:resnet18", 10))
    own = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(108, 2))
    own.taps = Stages(("0",), "2")
    assert feature_shapes(own, torch.zeros(1, 1, 8, 8), "maps+pooled") == [(3, 6, 6), (108, 1, 1)]
    for kind in ("maps", "maps+pooled"):
        with pytest.raises(ValueError, match="network Sequential has no maps"):
            Taps(build_model("digits_linear", 10), kind)
    assert feature_shapes(build_model("digits_linear", 10), torch.zeros(1, 1, 8, 8), "pooled") == [(64, 1, 1)]


@pytest.mark.parametrize("method", ["rkd", "fitnet", "reviewkd"])
@pytest.mark.parametrize("names, size", [(("resnet8x4", "resnet8"), (3, 32, 32)), (("resnet8", "timm:mobilenetv2_100"), (3, 32, 32)), (("digits_cnn", "digits_small_cnn"), (1, 8, 8))])
def test_a_step_of_training(method, names, size):
    """Taps, adapter and loss together: the student's body and the adapter learn, the head does not."""
    student, teacher = (build_model(n, 10) for n in names)
    kind, x = METHODS[method].features, torch.randn(4, *size)
    shapes = pair_maps(*(feature_shapes(m, x[:1], kind) for m in (student, teacher)))
    make = METHODS[method].adapter
    adapter = make(*shapes, generator()) if make else nn.Identity()
    with Taps(student, kind) as s, Taps(teacher.eval(), kind) as t:
        with torch.no_grad():
            teacher(x)
        losses, optimizer = [], torch.optim.Adam([*student.parameters(), *adapter.parameters()], 1e-3)
        for _ in range(8):
            student(x)
            f, g = (s.read(), t.read()) if kind == "pooled" else pair_maps(s.read(), t.read())
            loss = method_loss(method, adapter(f), g)
            optimizer.zero_grad(), loss.backward(), optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert next(student.parameters()).grad.norm() > 0
    assert student.get_submodule(student.taps.head).weight.grad is None
