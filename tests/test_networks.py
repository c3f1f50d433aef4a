"""The networks of the CIFAR tables: sizes of their features, and whether any two can be compared."""
import pytest
import torch

from w2snb.losses import get_method
from w2snb.models.build import Taps, build_model, feature_shapes, pair_maps

NARROW = [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8)]
WIDE = [(32, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8)]
# as listed for the official code
FEATURES = dict(
    resnet8=(NARROW, 64), resnet20=(NARROW, 64), resnet80=(NARROW, 64), resnet8x4=(WIDE, 256), resnet32x4=(WIDE, 256),
    cifar_resnet50=([(64, 32, 32), (256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4)], 2048),
    wrn_16_1=([(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8)], 64), wrn_40_2=([(16, 32, 32), (32, 32, 32), (64, 16, 16), (128, 8, 8)], 128),
    vgg13=([(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 4, 4)], 512),
    cifar_mobilenetv2=([(16, 16, 16), (12, 16, 16), (16, 8, 8), (48, 4, 4), (160, 2, 2)], 1280),
    shufflenetv1=([(24, 32, 32), (240, 16, 16), (480, 8, 8), (960, 4, 4)], 960),
    shufflenetv2=([(24, 32, 32), (116, 16, 16), (232, 8, 8), (464, 4, 4)], 1024),
)
PAIRS = [
    ("resnet20", "resnet56"), ("resnet8x4", "resnet32x4"), ("wrn_16_2", "wrn_40_2"), ("vgg8", "vgg13"), ("shufflenetv1", "resnet32x4"),
    ("shufflenetv2", "resnet32x4"), ("cifar_mobilenetv2", "vgg13"), ("cifar_mobilenetv2", "cifar_resnet50"),
]


@pytest.mark.quick
@pytest.mark.parametrize("name", FEATURES)
def test_features(name):
    maps, pooled = FEATURES[name]
    net, x = build_model(name), torch.randn(2, 3, 32, 32)
    assert feature_shapes(net, x, "maps") == maps
    with Taps(net.eval(), "pooled") as taps, torch.no_grad():
        logits = net(x)
        feature = taps.read()
    assert feature.shape == (2, pooled)
    head = net.get_submodule(taps.stages.head)
    assert torch.equal(head(feature), logits)


@pytest.mark.parametrize("teacher,student", PAIRS)
@pytest.mark.parametrize("method", ["fitnet", "reviewkd", "rkd"])
def test_any_pair_can_be_compared(teacher, student, method):
    """The official code's FitNet and ReviewKD cannot: their sizes are fixed."""
    weak, strong, x, m = build_model(teacher).eval(), build_model(student).eval(), torch.randn(4, 3, 32, 32), get_method(method)
    shapes = pair_maps(feature_shapes(strong, x, m.features), feature_shapes(weak, x, m.features))
    adapter = m.adapter(*shapes, torch.Generator().manual_seed(0)) if m.adapter else None
    with Taps(strong, m.features) as mine, Taps(weak, m.features) as theirs:
        strong(x)
        with torch.no_grad():
            weak(x)
        a, b = mine.read(), theirs.read()
    if isinstance(a, list):
        a, b = pair_maps(a, b)
    loss = m.loss(adapter(a) if adapter else a, b, **m.params)
    loss.backward()
    assert loss.isfinite()
    assert next(p for p in strong.parameters()).grad.abs().sum() > 0


def test_gradients_reach_every_parameter():
    for name in FEATURES:
        net = build_model(name)
        net(torch.randn(2, 3, 32, 32)).sum().backward()
        assert all(p.grad is not None for p in net.parameters()), name
