"""Methods that are solved in place of trained, and what a method says of its loss: that it is separable."""
import json
from dataclasses import replace

import pytest
import torch

from w2snb.experiments.registry import EXPERIMENTS, register_experiment, resolve
from w2snb.experiments.running import label_images, run, run_many
from w2snb.losses import (ALLOWED, METHODS, Method, get_method, linear_ramp, method_head, method_loss,
    register_method)
from w2snb.results.records import Record, parse_record
from w2snb.tasks.probe_experiments import choose
from w2snb.training.heads import Head, Lesson, teach_heads, train_heads

PROBE = "digits-random_cnn_from_pixels"
SHORT = dict(epochs=1, train_size=200, device="cpu", progress=False)

# computed elsewhere in float64: means of unit vectors, T = .05
FEATURES = [[-1.5208, 0.6501, -0.2131, 0.5326], [0.2657, 1.0096, -1.6257, -0.5479], [0.251, 0.2345, -0.9481, -0.5272],
            [-0.5858, 0.0447, 0.7006, -0.2755], [-0.1531, -2.0942, -1.0611, 1.853], [-1.7147, 1.3644, -0.2979, -1.9632],
            [1.4577, 1.2841, -0.5032, 0.8673], [-0.3559, 0.0509, 0.1663, -0.231], [0.5244, 0.3857, -0.5229, 0.296],
            [-0.5206, 0.1338, -0.4969, 0.0973], [1.6006, -0.6539, -1.4631, 1.5941], [0.2924, -0.6506, -0.2496, -0.9138]]
WEAK = [[0.4593325481417541, 0.2931763935055052, 0.24749105835274068], [0.9340471106139275, 0.009965477563355996, 0.05598741182271652],
        [0.6729645903322276, 0.0018834264798566125, 0.32515198318791577], [0.02956072965461568, 0.8153738988444926, 0.1550653715008917],
        [0.7207876274415086, 0.17036522946019841, 0.10884714309829295], [0.0011873340203903506, 0.02918662262017269, 0.969626043359437],
        [0.0011652921676201236, 0.0046014517118163996, 0.9942332561205635], [0.34299380739002305, 0.06819098645826137, 0.5888152061517156],
        [0.7845919402211662, 0.10939484423802066, 0.10601321554081318], [0.3425439319997766, 0.12302651707208932, 0.534429550928134],
        [0.14749312504085066, 0.01168354643914334, 0.840823328520006], [0.20476453437089645, 0.5240885749248851, 0.27114689070421844]]
NEW = [[-1.4012, 0.6226, -1.0529, -0.6842], [0.9428, 0.8652, -0.6214, -1.308], [-0.1043, -1.5979, -1.0104, -0.3878],
       [-0.1581, -0.5552, -0.1453, 1.382], [0.6271, 1.3792, 0.896, 0.232]]
LOGITS = [[12.13923403977038, 10.630562756664604, 15.743244159442979], [7.615690069445263, -4.575759975435232, 10.057313219903735],
          [6.062361449561693, 2.954666892860934, -1.0092833275618123], [0.7270171893196177, -6.5847948469610635, -4.964470380805916],
          [-6.220563514313306, -6.982025510504335, -0.3555180060514443]]


@pytest.fixture
def added():
    """What a test registers is gone after it."""
    before = dict(METHODS)
    yield
    METHODS.clear(), METHODS.update(before)


def ridge(features, weak, *, penalty=1.0):
    gram = features.T @ features + penalty * torch.eye(features.shape[1])
    weight = torch.linalg.solve(gram, features.T @ weak.softmax(-1))
    return lambda x: x @ weight


@pytest.mark.quick
def test_prototypes_are_those_of_the_formula():
    x, q, new, expected = (torch.tensor(v, dtype=torch.float64) for v in (FEATURES, WEAK, NEW, LOGITS))
    unit = lambda z: z / z.norm(dim=-1, keepdim=True)  # noqa: E731
    torch.testing.assert_close(method_head("prototypes", x, q.log())(new), expected, rtol=1e-10, atol=1e-10)
    means = torch.stack([sum(w * v for w, v in zip(q[:, k], x)) for k in range(3)])
    torch.testing.assert_close(method_head("prototypes", x, q.log(), T=1.0, unit_first=False)(new), unit(new) @ unit(means).T)
    single = method_head("prototypes", x.float(), q.log().float())(new.float())
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.quick
@pytest.mark.parametrize("unit_first", [True, False])
def test_a_class_without_weight_is_never_predicted_and_nothing_is_nan(unit_first):
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    for weak in (torch.tensor([0.0, 0.0, -40.0]).expand(30, 3), torch.tensor([0.0, 0.0, -3e38]).expand(30, 3), torch.tensor([1e4, 1e4, -1e4]).expand(30, 3)):
        logits = method_head("prototypes", x, weak, T=0.001, unit_first=unit_first)(torch.cat([x, -x, 0 * x]))
        assert logits.isfinite().all() and logits.argmax(-1).max() < 2


# what is_separable answered when it knew methods by name
SETTINGS = [(m, {}) for m in METHODS if METHODS[m].loss and not METHODS[m].features]
SETTINGS += [("acd", dict(weight=w)) for w in ALLOWED["weight"]] + [("log_conf", dict(hard=h)) for h in ALLOWED["hard"]]


@pytest.mark.quick
@pytest.mark.parametrize("name, params", SETTINGS, ids=lambda v: v if isinstance(v, str) else "-".join(v.values()))
def test_a_method_knows_whether_it_is_separable(name, params):
    m = METHODS[name]
    former = (name, (m.params | params).get("hard")) != ("log_conf", "prior") and params.get("weight") not in ("constant", "shuffled")
    assert m.is_separable(params) is m.is_separable(m.params | params) is former
    g = torch.Generator().manual_seed(0)
    z, v = 3 * torch.randn(2, 32, 10, generator=g, dtype=torch.float64)
    y = torch.randint(10, (32,), generator=g)
    now = m.schedule(1.0, m.params | params) if m.schedule else m.params | params
    loss = lambda i: m.loss(z[i], v[i], **now, **(dict(labels=y[i]) if m.takes_labels else {}))  # noqa: E731
    torch.manual_seed(0)  # shuffled weights
    mean = sum(loss(slice(i, i + 1)) for i in range(32)) / 32
    assert torch.isclose(loss(slice(32)), mean, rtol=1e-9, atol=0) == former


def test_nothing_else_claims_to_be_separable(added):
    assert not any(m.is_separable({}) for m in METHODS.values() if m.features or m.solve)
    register_method()(lambda student, teacher: student.sum())
    assert not METHODS["<lambda>"].is_separable({})


def test_a_users_separable_loss_gives_the_same_heads(added):
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    lesson = Lesson(torch.arange(60), 2 * x[:, :3], 0)
    weights = []
    for separable in (False, True, lambda params: params["T"] > 0):
        @register_method(separable=separable)
        def mine(student, teacher, *, T=2.0):
            return -((teacher / T).softmax(-1) * student.log_softmax(-1)).sum(-1).mean()

        weights.append(train_heads(x, [lesson], [Head("mine", dict(T=2.0), lr) for lr in (0.01, 0.1)], epochs=2, batch=16).weight)
    torch.testing.assert_close(weights[1], weights[0]), torch.testing.assert_close(weights[2], weights[1], rtol=0, atol=0)


def across(student, teacher):
    return (student * (teacher.softmax(-1) > 0.5)).sum() / (teacher.softmax(-1) > 0.5).sum().clamp(min=1)


def gives_a_function(student, teacher):
    return lambda x: x


def positional(features, weak, penalty=1.0):
    return None


def sees_labels(features, weak, *, labels=None):
    return None


def one(features):
    return None


SOLVED = dict(closed_form=True)
REGISTERED = [
    (ridge, SOLVED | dict(votes=True), "method ridge is solved in closed form: votes is for methods with a loss"),
    (ridge, SOLVED | dict(schedule=linear_ramp("penalty")), "method ridge is solved in closed form: schedule is for methods with a loss"),
    (ridge, SOLVED | dict(separable=True), "method ridge is solved in closed form: separable is for methods with a loss"),
    (ridge, SOLVED | dict(needs=("labels",)), "method ridge is solved in closed form: needs is for methods with a loss"),
    (sees_labels, SOLVED, "method sees_labels is solved in closed form: labels is for methods with a loss"),
    (positional, SOLVED, "positional: put a * before penalty, parameters of a loss are given by name"),
    (one, SOLVED, "one needs two arguments: student and teacher, or features and weak labels"),
    (ridge, dict(closed_from=True), "ridge: closed_from is no keyword of register_method, and without a schedule no parameter of one"),
    (across, dict(separable="yes"), "method across: separable must be True, False or a function of the parameters, not 'yes'"),
]


@pytest.mark.quick
@pytest.mark.parametrize("f, options, sentence", REGISTERED, ids=range(len(REGISTERED)))
def test_what_no_method_can_be_is_refused_when_it_is_registered(f, options, sentence, added):
    before = dict(METHODS)
    with pytest.raises(ValueError) as caught:
        register_method(**options)(f)
    assert str(caught.value) == sentence and METHODS == before


@pytest.mark.quick
@pytest.mark.parametrize("loss, solve, both", [(None, None, "neither loss nor solve"), (across, ridge, "both loss and solve")])
def test_a_method_has_one_of_loss_and_solve(loss, solve, both):
    with pytest.raises(ValueError) as caught:
        Method("mine", loss, {}, solve=solve)
    assert str(caught.value) == f"method mine has {both}: give exactly one of them"


X, V = torch.eye(4), torch.zeros(4, 3)
ASKED = [
    (lambda: method_loss("prototypes", V, V), "method prototypes is solved in closed form and has no loss: method_head gives its head"),
    (lambda: method_head("soft_ce", X, V), "method soft_ce has a loss and no closed form: method_loss computes its loss"),
    (lambda: method_head("prototypes", X, V, tau=1), "method prototypes has no parameter 'tau': its parameters are T, unit_first"),
    (lambda: method_head("prototypes", X, V, T=0), "T=0: T of method prototypes must be a number in 0.001..1000"),
    (lambda: method_head("prototypes", X, V[:3]), "features must be [n, d] with n = 3 as in the teacher's logits, not [4, 4]"),
    (lambda: method_head("prototypes", X / 0, V), "features must be finite"),
    (lambda: method_head("prototypes", X, V / 0), "teacher logits must be finite: 12 of 12 are not, the first is nan at [0, 0]"),
    (lambda: train_heads(X, [Lesson(torch.arange(4), V, 0)], [Head("prototypes", {})]),
     "method prototypes is solved in closed form, without training: teach_heads takes it"),
]


@pytest.mark.quick
@pytest.mark.parametrize("ask, sentence", ASKED, ids=range(len(ASKED)))
def test_what_cannot_be_asked_of_a_method_is_refused(ask, sentence):
    with pytest.raises(ValueError) as caught:
        ask()
    assert str(caught.value) == sentence


NETWORK = ("method prototypes is solved in closed form on frozen features and trains no network: "
           "use it in a linear probe, such as digits-random_cnn_from_pixels")
RUNS = [
    ("digits", {}, NETWORK), ("digits-cnn_from_cnn", {}, NETWORK), ("digits-cnn_from_cnn", dict(supervision="teacher"), NETWORK),
    (PROBE, dict(lr=0.1), "lr=0.1: method prototypes is solved in closed form and has no lr; leave it out"),
    (PROBE, dict(unit_first="no"), "unit_first='no': unit_first of method prototypes must be one of True, False"),
]


@pytest.mark.quick
@pytest.mark.parametrize("experiment, options, sentence", RUNS, ids=range(len(RUNS)))
def test_a_run_that_cannot_be_solved_is_refused(experiment, options, sentence):
    with pytest.raises(ValueError) as caught:
        resolve(experiment, "prototypes", **options)
    assert str(caught.value) == sentence


HEADS = [
    (lambda features, weak: 3, "method mine must return a head, a function from features [m, d] to logits [m, c], not int"),
    (lambda features, weak: lambda x: x, "the head of method mine must give logits [m, c] = [2, 10], not [2, 96]"),
    (lambda features, weak: lambda x: None, "the head of method mine must give logits [m, c] = [2, 10], not NoneType"),
    (lambda features, weak: lambda x: x[:, :10] * float("nan"),
     "the head of method mine: its logits must be finite: 20 of 20 are not, the first is nan at [0, 0]"),
    (gives_a_function, "method mine must return one number, the mean over the batch, not function (a head needs closed_form=True)"),
    (across, "method mine is declared separable, and its loss of a batch is not the mean of its images' losses"),
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A store in which the heads on true labels are trained once."""
    return tmp_path_factory.mktemp("shared")


@pytest.mark.parametrize("f, sentence", HEADS, ids=range(len(HEADS)))
def test_a_users_function_that_gives_no_student_is_refused(f, sentence, shared, added):
    f.__name__ = "mine"
    lesson = "student" in f.__code__.co_varnames
    register_method(**(dict(separable=True) if lesson else SOLVED))(f)
    kept = set(shared.glob("*.json"))
    with pytest.raises(ValueError) as caught:
        run_many(PROBE, ["soft_ce", "mine"], 0, store=shared, **SHORT)
    assert str(caught.value) == sentence and set(shared.glob("*.json")) == kept


@pytest.mark.quick
def test_a_probe_solves_beside_what_it_trains(shared):
    """Several methods, settings and seeds in one call; from the store afterwards; the same alone and with force."""
    wanted = ["soft_ce", "prototypes", dict(method="prototypes", unit_first=False), "acd"]
    records = run_many(PROBE, wanted, [0, 1], store=shared, **SHORT)
    assert [(r.seed, r.method) for r in records] == [(s, m) for s in (0, 1) for m in ("soft_ce", "prototypes", "prototypes", "acd")]
    assert len({r.id for r in records}) == 8
    for r in records:
        solved = r.method == "prototypes"
        assert (not r.history, "student_best" not in r.metrics, r.images_per_second is None, r.params["lr"] is None) == 4 * (solved,)
        assert r.status in ("ok", "collapsed") and r.params["epochs"] == 1 and parse_record(r.to_json()) == r
    assert run(PROBE, "prototypes", store=shared, **SHORT).seconds == records[1].seconds
    again = run(PROBE, "prototypes", force=True, store=shared, **SHORT)
    assert (again.id, again.correct, again.metrics) == (records[1].id, records[1].correct, records[1].metrics)
    other = run(PROBE, "prototypes", T=2.0, store=shared, **SHORT)
    assert other.correct == again.correct and other.id != again.id  # the temperature changes how sure it is


def test_a_trained_head_is_the_same_beside_a_solved_one():
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    lesson, trained = Lesson(torch.arange(40), x[:, :3], 0), [Head("soft_ce", dict(T=1.0)), Head("acd", METHODS["acd"].params)]
    beside = teach_heads(x, [lesson], [trained[0], Head("prototypes", {}), trained[1]], epochs=2, batch=16)
    alone = train_heads(x, [lesson], trained, epochs=2, batch=16)
    assert torch.equal(beside.predict(x, 0, 0), alone.predict(x, 0, 0)) and torch.equal(beside.predict(x, 0, 2), alone.predict(x, 0, 1))
    assert torch.equal(beside.predict(x, 0, 1), method_head("prototypes", x, x[:, :3])(x))


def test_an_optimiser_of_the_experiment_is_no_part_of_a_solved_run():
    """Another rate or weight decay would be another id of the same result."""
    register_experiment(replace(EXPERIMENTS[PROBE], lr=0.5, weight_decay=0.1, name="digits-other-optimiser"))
    try:
        configs = [resolve(e, "prototypes").plain() | dict(experiment="") for e in (PROBE, "digits-other-optimiser")]
    finally:
        EXPERIMENTS.pop("digits-other-optimiser")
    assert configs[0] == configs[1]


def test_a_users_closed_form_is_never_stored_and_its_code_is_in_the_id(shared, added):
    register_method(**SOLVED)(ridge)
    first, second = (run(PROBE, "ridge", store=shared, **SHORT) for _ in "ab")
    assert first.id == second.id and first.seconds != second.seconds and first.metrics == second.metrics

    def changed(features, weak, *, penalty=1.0):
        return ridge(features, weak, penalty=2 * penalty)

    changed.__name__ = "ridge"
    register_method(**SOLVED)(changed)
    assert run(PROBE, "ridge", store=shared, **SHORT).id != first.id


@pytest.mark.quick
def test_only_a_solved_run_may_lack_a_history(shared):
    trained, solved = (json.loads(r.to_json()) for r in run_many(PROBE, ["soft_ce", "prototypes"], 0, store=shared, **SHORT))
    with pytest.raises(ValueError, match="its history has nothing of the student"):
        Record.model_validate(trained | dict(history={}))
    with pytest.raises(ValueError, match="student_test is in its history, and its method has no epochs"):
        Record.model_validate(solved | dict(history=trained["history"]))
    with pytest.raises(ValueError, match="its history has nothing of the student"):
        Record.model_validate(solved | dict(params=solved["params"] | dict(lr=1e-3)))


@pytest.mark.quick
def test_images_are_relabelled_by_solved_students(shared):
    options = dict(epochs=1, device="cpu", progress=False, folds=3, store=shared)
    labels = label_images(PROBE, "prototypes", **options)
    assert len(labels) == 1797 and labels.student.nunique() > 2 and labels.probability.between(0.1, 1).all()
    assert labels.equals(label_images(PROBE, "prototypes", **options))


def test_a_chosen_setting_of_a_solved_method_names_what_differs():
    row = lambda right, **params: dict(method="prototypes", params=get_method("prototypes").params | params, lr=None, true_labels=right)  # noqa: E731
    assert choose([row(0.4), row(0.5, unit_first=False)], "true_labels") == {"prototypes": dict(method="prototypes", unit_first=False)}
    assert choose([row(0.5), row(0.4, unit_first=False)], "true_labels") == {"prototypes": dict(method="prototypes")}
