"""Metrics and tests of differences hold their properties on many random inputs, not only on the notebook's examples."""
import math

import numpy as np
import pytest
import torch

from w2snb.results.intervals import holm, mcnemar, p_value, seeds_needed, two_way
from w2snb.results.metrics import accuracy, agreement, agreement_split, calibration_error, pgr, top_k_accuracy

pytestmark = pytest.mark.quick
CASES = [(seed, n, c) for seed in range(8) for n, c in ((1, 2), (7, 3), (200, 10))]


def random_case(seed, n, c):
    """Logits of a student and a teacher that know a little, and the true classes."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(c, (n,), generator=g)
    hint = 2 * torch.nn.functional.one_hot(labels, c)
    return *(torch.randn(n, c, generator=g) + hint for _ in range(2)), labels


@pytest.mark.parametrize("seed, n, c", CASES)
def test_split_agreement_adds_up(seed, n, c):
    student, teacher, labels = random_case(seed, n, c)
    split, a_t = agreement_split(student, teacher, labels), accuracy(teacher, labels)
    # a share of no images is nan and counts nothing
    right, wrong, fixed = (0.0 if math.isnan(split[k]) else split[k] for k in ("agreement_teacher_right", "agreement_teacher_wrong", "fix_rate"))
    assert a_t * right + (1 - a_t) * fixed == pytest.approx(accuracy(student, labels))
    assert a_t * right + (1 - a_t) * wrong == pytest.approx(agreement(student, teacher))
    assert split["weak_right_strong_wrong"] == pytest.approx(a_t * (1 - right))
    assert math.isnan(split["fix_rate"]) == (a_t == 1) and math.isnan(split["agreement_teacher_right"]) == (a_t == 0)


@pytest.mark.parametrize("seed, n, c", CASES)
def test_an_imitator_recovers_nothing(seed, n, c):
    _, teacher, labels = random_case(seed, n, c)
    a_t = accuracy(teacher, labels)
    assert pgr(a_t, accuracy(5 * teacher, labels), a_t + 0.1) == 0


@pytest.mark.parametrize("seed, n, c", CASES)
def test_top_k_grows_with_k(seed, n, c):
    logits, _, labels = random_case(seed, n, c)
    grown = [top_k_accuracy(logits, labels, k) for k in range(1, c + 3)]
    assert grown[0] == accuracy(logits, labels) and grown[c - 1 :] == [1.0] * 3
    assert grown == sorted(grown)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_ties_favour_nobody(k):
    labels = torch.arange(10).repeat(20)
    assert top_k_accuracy(torch.zeros(200, 10), labels, k) == pytest.approx(k / 10)


@pytest.mark.parametrize("seed, n, c", CASES)
def test_calibration_error_is_a_share_and_ignores_a_shift(seed, n, c):
    logits, _, labels = random_case(seed, n, c)
    error = calibration_error(logits, labels)
    assert 0 <= error <= 1 and calibration_error(logits + 3, labels) == pytest.approx(error, abs=1e-5)
    within = logits.sigmoid()  # scores between 0 and 1 are logits too
    assert calibration_error(within, labels) == pytest.approx(calibration_error(within + 3, labels), abs=1e-5)


def test_calibration_error_of_the_certain():
    """Certainty is off by the error rate; confidence 1 must fall into a bin."""
    logits, labels = 1e4 * torch.eye(4), torch.tensor([0, 1, 2, 0])
    assert calibration_error(logits, labels) == 0.25
    assert calibration_error(logits.bfloat16(), labels) == 0.25


@pytest.mark.parametrize("seed", range(20))
def test_holm_lies_between_raw_and_bonferroni(seed):
    rng = np.random.default_rng(seed)
    p = rng.random(rng.integers(1, 12)) ** 3
    adjusted = np.array(holm(p))
    assert (p <= adjusted).all() and (adjusted <= np.minimum(len(p) * p, 1)).all()
    assert (np.diff(adjusted[p.argsort()]) >= 0).all()
    names = {f"m{i}": v for i, v in enumerate(p)}
    assert list(holm(names).items()) == list(zip(names, adjusted)), "names and their order are kept"
    assert holm([]) == [] and holm({}) == {}


@pytest.mark.parametrize("seed", range(10))
def test_mcnemar_is_symmetric_and_only_discordant_images_count(seed):
    a, b = np.random.default_rng(seed).random((2, 60)) < [[0.7], [0.8]]
    p = mcnemar(a, b)
    assert 0 < p <= 1 and p == mcnemar(b, a) == mcnemar(~a, ~b) == mcnemar(a[a != b], b[a != b])


@pytest.mark.parametrize("a, b", [((2, 9), (2, 9)), ((9,), (8,)), ((), ())])
def test_mcnemar_takes_one_seed(a, b):
    with pytest.raises(ValueError, match="never pooled over seeds"):
        mcnemar(np.ones(a), np.ones(b))


@pytest.mark.parametrize("seed", range(10))
def test_p_value_is_the_interval_read_backwards(seed):
    rng = np.random.default_rng(seed)
    hits = {k: rng.random((6, 150)) < rate for k, rate in (("a", 0.8), ("b", 0.8 + 0.01 * seed))}

    def difference(x):
        return x["a"] - x["b"]

    p, found = p_value(hits, difference), two_way(hits, difference)
    assert 0 < p <= 1
    if abs(p - 0.05) > 0.005:  # closer, the quantile's interpolation decides
        assert (p < 0.05) == (not found.low <= 0 <= found.high)


def test_p_value_of_a_statistic_without_values_is_no_evidence():
    hits = dict(a=np.ones((2, 5), bool))
    assert p_value(hits, lambda x: x["a"] * np.nan) == 1


def test_seeds_needed_follows_difference_power_and_level():
    one = [-(0.5**0.5), 0.5**0.5]  # standard deviation 1
    # a larger difference needs fewer; a smaller level or a larger power needs more
    assert [seeds_needed(one, d) for d in (0.2, 0.5, 0.8, 1.0)] == [199, 34, 15, 10]
    assert seeds_needed(one, 1.0, power=0.9) > 10 and seeds_needed(one, 1.0, level=0.01) > 10
    assert seeds_needed([0.3, 0.3, 0.3], 0.1) == 2, "without any spread two seeds show it"


def test_seeds_needed_keeps_its_promise():
    """A paired t test with that many seeds finds the difference in the share of studies that was asked for."""
    from scipy.stats import ttest_1samp

    rng, s = np.random.default_rng(0), seeds_needed([-0.2, 0.2], 0.3)
    studies = rng.normal(0.3, 0.2 * 2**0.5, (4000, s))
    assert 0.78 < (ttest_1samp(studies, 0, axis=1).pvalue < 0.05).mean() < 0.88
