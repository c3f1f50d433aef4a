"""Weak labels made by hand: how many are wrong, which, and what stays."""
import pytest
import torch

from w2snb.data.weak_labels import (NOISES, STRUCTURES, class_logits, ensemble_logits, model_errors,
    most_confident, noisy_labels, principal_features, structured_errors)

pytestmark = pytest.mark.quick
N, C = 400, 8


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def truth():
    return torch.randint(C, (N,), generator=generator())


def logits(truth, seed, knows=2.0):
    return torch.randn(N, C, generator=generator(seed)) + knows * torch.nn.functional.one_hot(truth, C)


@pytest.mark.parametrize("rate", [0, 0.25, 1])
@pytest.mark.parametrize("noise", NOISES)
def test_exactly_the_wanted_share_is_wrong(truth, noise, rate):
    noisy = noisy_labels(truth, C, rate, noise, generator())
    assert int((noisy != truth).sum()) == rate * N
    assert int((model_errors(truth, logits(truth, 1), rate) != truth).sum()) == rate * N
    if noise == "asymmetric":
        assert set(((noisy - truth) % C).tolist()) <= {0, 1}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_number_of_errors_is_the_teachers(truth, structure):
    teacher, ceiling = logits(truth, 1), logits(truth, 2, 3.0)
    other = structured_errors(truth, teacher, ceiling, structure, generator())
    assert int((other != truth).sum()) == int((teacher.argmax(-1) != truth).sum()) > 0


def test_the_surest_of_each_class_stay(truth):
    teacher = logits(truth, 1)
    kept, said = most_confident(teacher, 0.5), teacher.argmax(-1)
    assert set(said[kept].tolist()) == set(said.tolist()) and abs(len(kept) - N / 2) <= C
    sure = teacher.softmax(-1).max(-1).values
    for c in said.unique():
        there, left = kept[said[kept] == c], set((said == c).nonzero().squeeze(1).tolist()) - set(kept.tolist())
        assert not left or sure[there].min() >= sure[list(left)].max()


def test_one_teacher_twice_is_that_teacher(truth):
    teacher = logits(truth, 1)
    for mean in ("probabilities", "logs"):
        torch.testing.assert_close(ensemble_logits([teacher, teacher], mean), teacher.log_softmax(-1))
    assert torch.equal(class_logits(truth, C).argmax(-1), truth)


def test_principal_features_are_white():
    x = torch.randn(N, 12, generator=generator()) @ torch.randn(12, 12, generator=generator(1))
    white = principal_features(x, torch.arange(N), 5)
    torch.testing.assert_close(torch.cov(white.T), torch.eye(5), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="k=13: there are 12 components"):
        principal_features(x, torch.arange(N), 13)
