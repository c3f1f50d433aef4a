"""Intervals over seeds and test images hold the truth as often as they promise, and p-values agree with them."""
import numpy as np
import pytest
from scipy import stats

from w2snb.experiments.registry import resolve
from w2snb.losses import METHODS
from w2snb.losses.confidence import ACD_PRESETS
from w2snb.losses.methods import check_params
from w2snb.results.intervals import p_value, pgr_interval, stretch, two_way

# true accuracies of teacher, student, ceiling; standard deviations of the effects of seed and image, that of an answer is 1
SETTINGS = dict(
    digits=((0.86, 0.95, 0.99), 0.12, 0.75, 300),
    images=((0.45, 0.55, 0.70), 0.02, 1.2, 500),
    seeds=((0.60, 0.80, 0.95), 0.3, 0.3, 300),
    answers=((0.60, 0.80, 0.95), 0.0, 0.0, 300),
)
REPEATS = 150


def study(rng, s, kind):
    """Hits of three networks that share a part of each effect."""
    rates, seed, image, n = SETTINGS[kind]

    def some(*shape):
        return rng.standard_normal((1, *shape)) + 0.5 * rng.standard_normal((3, *shape))

    x = (seed * some(s, 1) + image * some(1, n) + some(s, n)) / (1.25 * (1 + seed**2 + image**2)) ** 0.5
    return dict(zip("tsc", x + stats.norm.ppf(rates)[:, None, None] > 0))


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("s", [2, 3, 5, 10])
def test_coverage(kind, s):
    """An accuracy and a paired difference: not below .93, within three standard errors; the upper end needs more studies, below."""
    rng, (t, right, _), held = np.random.default_rng(s), SETTINGS[kind][0], []
    for _ in range(REPEATS):
        h = study(rng, s, kind)
        one, less = two_way(h, lambda x: x["s"], 400), two_way(h, lambda x: x["s"] - x["t"], 400)
        held.append((one.low <= right <= one.high, less.low <= right - t <= less.high))
    assert (np.mean(held, 0) >= 0.93 - 3 * np.sqrt(0.93 * 0.07 / REPEATS)).all(), np.mean(held, 0)


@pytest.mark.slow
@pytest.mark.parametrize("s", [3, 5, 10])
def test_coverage_over_all_settings(s):
    """2,000 studies: intervals that are a quarter too narrow or too wide are noticed."""
    rng, held = np.random.default_rng(100 + s), []
    for kind in SETTINGS:
        for _ in range(500):
            found = two_way(study(rng, s, kind), lambda x: x["s"], 400)
            held.append(found.low <= SETTINGS[kind][0][1] <= found.high)
    low, high = (share + k * 3 * np.sqrt(share * (1 - share) / len(held)) for share, k in ((0.93, -1), (0.97, 1)))
    assert 0.91 < low <= np.mean(held) <= high < 0.982, np.mean(held)


@pytest.mark.parametrize("s", [3, 10])
def test_coverage_of_the_gap_recovered(s):
    rng, (t, right, c), held = np.random.default_rng(s), SETTINGS["digits"][0], []
    for _ in range(60):
        h = study(rng, s, "digits")
        if found := pgr_interval(h["t"], h["s"], h["c"]):
            held.append(found.low <= (right - t) / (c - t) <= found.high)
    assert len(held) > 50 and np.mean(held) >= 0.93 - 3 * np.sqrt(0.93 * 0.07 / len(held))


@pytest.mark.parametrize("s, t", [(3, 4.30265), (5, 2.77645), (10, 2.26216)])
def test_width_is_that_of_the_formula(s, t):
    """Half of it is the root of t^2 V_seeds + z^2 (V_images - V_answers), within the noise of the draws."""
    h = study(np.random.default_rng(s), s, "seeds")["s"]
    m, q = h.mean(1), h.mean(0)
    rest = ((h - m[:, None] - q + h.mean()) ** 2).sum() / (h.size * (s - 1) * (h.shape[1] - 1))
    half = (t**2 * m.var(ddof=1) / s + 1.96**2 * max(q.var(ddof=1) / len(q) - rest, 0)) ** 0.5
    found = two_way(dict(a=h), lambda x: x["a"], 20_000)
    assert stretch(s) == pytest.approx(t / 1.959964, rel=1e-4)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.06)


@pytest.mark.parametrize("level", [0.2, 0.05, 0.01])
@pytest.mark.parametrize("s", [2, 3, 6])
def test_p_is_the_level_at_which_the_interval_touches_zero(s, level):
    rng = np.random.default_rng(s)
    for shift in np.linspace(0, 0.15, 6):
        hits = {k: rng.random((s, 150)) < rate for k, rate in (("a", 0.7), ("b", 0.7 + shift))}
        ahead = lambda x: x["b"] - x["a"]  # noqa: E731
        p, found = p_value(hits, ahead), two_way(hits, ahead, level=level)
        if abs(p - level) > 0.1 * level:  # closer, the quantile's interpolation decides
            assert (p < level) == (not found.low <= 0 <= found.high)


def test_equal_networks_differ_by_nothing():
    hits = np.random.default_rng(0).random((4, 100)) < 0.7
    assert two_way(dict(a=hits, b=hits.copy()), lambda x: x["a"] - x["b"]) == (0, 0, 0)
    assert p_value(dict(a=hits, b=hits.copy()), lambda x: x["a"] - x["b"]) == 1


def test_one_seed_varies_by_its_images_only():
    hits = np.random.default_rng(0).random((1, 400)) < 0.7
    found, error = two_way(dict(a=hits), lambda x: x["a"]), (hits.mean() * (1 - hits.mean()) / 400) ** 0.5
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.1)


@pytest.mark.parametrize("preset, epochs", [("few_shot_classifier", 100), ("few_shot_meta", 20), ("noisy_T1", 71), ("noisy_T20", 71)])
def test_ramps_of_the_official_code(preset, epochs):
    """`epoch < int(.25 E)` gives epoch / (.25 E), else 1, epochs from 1."""
    params = METHODS["acd"].params | ACD_PRESETS[preset].params
    ours = [METHODS["acd"].schedule((e - 1) / epochs, params)["ramp"] for e in range(1, epochs + 1)]
    assert ours == pytest.approx([e / (0.25 * epochs) if e < int(0.25 * epochs) else 1 for e in range(1, epochs + 1)])


def test_an_optional_parameter_enters_a_run_only_where_it_differs():
    acd = METHODS["acd"]
    assert check_params(acd, dict(ramp_epochs=0, tau=2)) == dict(tau=2.0)
    assert resolve("digits", "acd", ramp_epochs=0) == resolve("digits", "acd")
    assert resolve("digits", "acd:few_shot_meta").method_params["ramp_epochs"] == 20
    record = resolve("digits", "acd:noisy_T1").method_params
    assert resolve("digits", "acd", **record).method_params == record
    with pytest.raises(ValueError, match="ramp_epochs=-1: ramp_epochs of method acd must be a whole number in 0..1000000"):
        check_params(acd, dict(ramp_epochs=-1))
