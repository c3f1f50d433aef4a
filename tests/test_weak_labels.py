"""What is done to a teacher's labels, and several teachers as one: by a run's parameters, in both tasks."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from w2snb.data.weak_labels import COMBINE, WEAK_LABELS, register_combine, register_weak_labels
from w2snb.experiments.plans import plan_jobs
from w2snb.experiments.registry import EXPERIMENTS
from w2snb.experiments.running import run, run_many
from w2snb.experiments.tables import Table, table_requests
from w2snb.reporting.figures import summarize
from w2snb.reporting.lookup import row_name

PROBE = "digits-random_cnn_from_pixels"
SHORT = dict(device="cpu", progress=False)
EPOCHS = {PROBE: 2, "digits": 1}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """One run; networks that runs share are trained once for this file."""
    store = tmp_path_factory.mktemp("store")
    size = {"digits": dict(train_size=100)}

    def of(experiment, method="soft_ce", seed=0, **how):
        return run(experiment, method, seed, store=store, epochs=EPOCHS[experiment], **size.get(experiment, {}), **SHORT, **how)

    return of


@pytest.mark.parametrize("experiment", [PROBE, "digits"])
def test_exactly_the_wanted_share_is_wrong(one, experiment):
    plain, noisy = one(experiment, teacher="truth"), one(experiment, teacher="truth", weak_labels="asymmetric(.3)")
    m = plain.metrics["student_images"]
    assert noisy.metrics["weak_label_accuracy"] == pytest.approx(1 - round(0.3 * m) / m)
    assert noisy.metrics["true_labels"] == plain.metrics["true_labels"] == m and plain.metrics["teacher"] == 1
    assert "true_labels" not in one(experiment).metrics and noisy.correct["ceiling"] == plain.correct["ceiling"]


@pytest.mark.parametrize("experiment", [PROBE, "digits"])
def test_a_rule_that_changes_nothing_changes_nothing(one, experiment):
    plain, all_kept = one(experiment), one(experiment, weak_labels="most_confident(1)")
    assert all_kept.correct == plain.correct and all_kept.history == plain.history and all_kept.id != plain.id
    assert one(experiment, weak_labels="as_is").to_json() == plain.to_json()
    assert one(experiment, weak_labels="uniform(0)").correct == one(experiment, weak_labels="hard").correct


@pytest.mark.parametrize("experiment", [PROBE, "digits"])
def test_true_labels_as_classes_make_the_ceiling(one, experiment):
    """The student of the true labels is the ceiling, but for the order in which numbers are added."""
    m = one(experiment, "hard_ce", teacher="truth").metrics
    assert m["student"] == pytest.approx(m["ceiling"], abs=2 / m["test_images"])


@pytest.mark.parametrize("experiment", [PROBE, "digits"])
def test_fewer_images_take_as_many_steps(one, experiment):
    plain = one(experiment)
    sure, some = (one(experiment, weak_labels=f"{rule}(.2)") for rule in ("most_confident", "random"))
    assert sure.metrics["student_images"] == some.metrics["student_images"] < 0.3 * plain.metrics["student_images"]
    assert sure.metrics["weak_label_accuracy"] > some.metrics["weak_label_accuracy"]
    assert len(sure.history["student_test"]) == len(plain.history["student_test"]) == EPOCHS[experiment]
    assert sure.metrics["teacher_on_student_images"] == plain.metrics["teacher_on_student_images"]


def test_methods_see_the_same_labels_and_the_teachers_seed_draws_them(one):
    accuracy = lambda method, seed: one(PROBE, method, seed, teacher_seed=0, weak_labels="uniform(.4)").metrics["weak_label_accuracy"]
    assert len({accuracy(m, s) for m in ("soft_ce", "acd") for s in (0, 1)}) == 1


def test_in_a_batch_or_alone(one, store):
    """Several methods and seeds of one rule in one call are what they are one by one."""
    how = dict(epochs=2, store=store, weak_labels="most_confident(.3)", **SHORT)
    for r in run_many(PROBE, ["soft_ce", dict(method="acd", lr=1e-2)], [0, 1], **how):
        again = one(PROBE, r.method, r.seed, weak_labels="most_confident(.3)", **({"lr": 1e-2} if r.method == "acd" else {}))
        assert again.id == r.id and again.metrics["weak_label_accuracy"] == r.metrics["weak_label_accuracy"]
        assert again.metrics["student"] == pytest.approx(r.metrics["student"], abs=2 / r.metrics["test_images"])


@pytest.mark.parametrize("experiment, others", [(PROBE, ["principal(8)"]), ("digits", ["digits_small_cnn", "truth"])])
def test_several_teachers(one, experiment, others):
    first = EXPERIMENTS[experiment].teacher
    for other in others:
        both, turned = one(experiment, teacher=[first, other]), one(experiment, teacher=f"{other}, {first}")
        assert both.metrics["teacher"] == turned.metrics["teacher"] and both.metrics["teacher1"] == one(experiment).metrics["teacher"]
        assert both.id != turned.id and both.params["teacher"] == [first, other]
    assert one(experiment, teacher=[first]).to_json() == one(experiment).to_json()


@pytest.mark.quick
def test_a_chain(one):
    """A student in between teaches the last; through the student's own backbone it is the student of the teacher."""
    chain = one(PROBE, rounds=["digits_random_cnn"])
    assert chain.metrics["round1"] == one(PROBE).metrics["student"]
    assert chain.metrics["weak_label_accuracy"] != chain.metrics["teacher_on_student_images"]
    assert set(chain.correct) >= {"round1", "student", "teacher"}


def test_the_rate_of_ceiling_and_student_alone(one):
    usual, fast = one(PROBE), one(PROBE, reference_lr=1e-2)
    assert fast.correct["student"] == usual.correct["student"] and fast.metrics["ceiling"] > usual.metrics["ceiling"]
    assert one(PROBE, reference_lr=1e-3).to_json() == usual.to_json()


def test_a_file_of_labels_teaches_a_network(tmp_path, monkeypatch):
    """True labels from a file are the teacher `truth`; wherever the file lies, the run is the same."""
    rows, g = ["file,class"], np.random.default_rng(0)
    for split, n in (("train", 24), ("test", 8)):
        for i in range(n):
            path = tmp_path / "cifar10" / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(g.integers(0, 100, (32, 32, 3), dtype=np.uint8) + 120 * np.uint8(i % 2)).save(path)
            rows.append(f"{split}/{'ab'[i % 2]}/{i}.png,{'ab'[i % 2]}")
    for name in ("labels.csv", "elsewhere.csv"):
        (tmp_path / name).write_text("\n".join(rows))
    e = replace(EXPERIMENTS["digits"], name="own", dataset="cifar10", teacher="truth", student="cifar_linear", gold=8, validation=4, test=None)
    monkeypatch.setitem(EXPERIMENTS, "own", e)
    how = dict(data=tmp_path, store=tmp_path / "store", epochs=1, **SHORT)
    given, moved, true = (run("own", "soft_ce", teacher=t, **how) for t in (tmp_path / "labels.csv", tmp_path / "elsewhere.csv", "truth"))
    assert given.id == moved.id != true.id and given.correct == true.correct and given.history == true.history
    (tmp_path / "labels.csv").write_text("\n".join(rows[:-1]))
    with pytest.raises(ValueError, match="has no label for 1 of 32 images; a network's teacher has one for each"):
        run("own", "soft_ce", teacher=tmp_path / "labels.csv", **how)


REFUSED = {
    "unknown rule": (PROBE, dict(weak_labels="unifrom(.4)"), "weak_labels 'unifrom' is unknown: did you mean uniform?"),
    "no value": (PROBE, dict(weak_labels="uniform"), "weak_labels='uniform': write uniform(rate)"),
    "not a share": ("digits", dict(weak_labels="uniform(40)"), "weak_labels='uniform(40)': rate=40.0: rate must be in 0..1"),
    "no text": (PROBE, dict(weak_labels=0.4), "weak_labels=0.4: input should be a valid string"),
    "unknown combination": (PROBE, dict(combine="prod"), "combine 'prod' is unknown: did you mean product?"),
    "one teacher": (PROBE, dict(combine="product"), "combine='product' needs several teachers: teacher='one,other'"),
    "twice": ("digits", dict(teacher="digits_linear,digits_linear"), "teacher='digits_linear,digits_linear' names a teacher twice"),
    "nothing after a comma": (PROBE, dict(teacher="digits_pixels,"), "names are texts, with a comma between two of them"),
    "a backbone for a network": ("digits", dict(teacher="squeezenet1_1@64"), "network 'squeezenet1_1@64' is unknown"),
    "rounds of networks": ("digits", dict(rounds="digits_cnn"), "rounds='digits_cnn': digits trains networks, which have no rounds"),
    "every view": ("digits-cnn_from_cnn", dict(weak_labels="hard"), "the teacher labels every augmented view"),
    "true labels of every view": ("digits-cnn_from_cnn", dict(teacher="truth"), "this needs labels that are given once"),
    "features of several": ("digits-cnn_from_cnn", dict(method="fitnet", teacher="digits_cnn,digits_small_cnn"),
                            "method fitnet compares features with those of one teacher; teacher names 2"),
    "no component": (PROBE, dict(teacher="principal(0)"), "backbone 'principal(0)' is unknown"),
    "no such components": (PROBE, dict(teacher="principal(many)"), "backbone 'principal(many)' is unknown"),
    "too many components": (PROBE, dict(teacher="principal(800)"), "teacher='principal(800)': k=800: there are 96 components"),
}  # fmt: skip


@pytest.mark.quick
@pytest.mark.parametrize("experiment, how, sentence", REFUSED.values(), ids=REFUSED)
def test_one_sentence(experiment, how, sentence, store):
    with pytest.raises(ValueError) as error:
        run(experiment, how.pop("method", "soft_ce"), store=store, **how, **SHORT)
    assert sentence in str(error.value) and not list(store.glob("*.json"))


def half(l):
    return l.only(range(len(l.logits) // 2))


@pytest.mark.quick
def test_a_users_rule_and_what_it_does_are_in_the_id(one):
    """Known to runs at once; the same name for another rule makes another run."""
    register_weak_labels("mine")(half)
    register_combine("least")(lambda logits: logits[0])
    try:
        first = one(PROBE, weak_labels="mine")
        assert first.metrics["student_images"] == one(PROBE).metrics["student_images"] // 2
        register_weak_labels("mine")(lambda l: l.as_logits(l.predicted))
        assert one(PROBE, weak_labels="mine").id != first.id
        alone = one(PROBE, teacher="digits_pixels,principal(8)", combine="least")
        assert alone.correct["student"] == one(PROBE).correct["student"]
    finally:
        del WEAK_LABELS["mine"], COMBINE["least"]


def test_a_run_differs_from_an_experiment_with_a_rule_of_its_own(one, monkeypatch):
    """What is as usual is named where the experiment has something else."""
    monkeypatch.setitem(EXPERIMENTS, "hard", replace(EXPERIMENTS[PROBE], name="hard", weak_labels="hard"))
    monkeypatch.setitem(EPOCHS, "hard", 2)
    own, usual = one("hard"), one("hard", weak_labels="as_is")
    assert [row_name(own), row_name(usual)] == ["soft_ce", "soft_ce, weak_labels=as_is"]
    assert row_name(one(PROBE, rounds="digits_pixels")) == "soft_ce, rounds=digits_pixels"


@pytest.mark.parametrize("wrong, sentence", [
    (lambda l: l.logits[:5], "gives [5, 10] for labels of [648, 10]"),
    (lambda l: l.only([]), "leaves none of the student's 648 images"),
])  # fmt: skip
def test_what_a_rule_gives_is_checked(one, wrong, sentence):
    register_weak_labels("wrong")(wrong)
    try:
        with pytest.raises(ValueError) as error:
            one(PROBE, weak_labels="wrong")
        assert str(error.value) == "weak_labels='wrong' " + sentence
    finally:
        del WEAK_LABELS["wrong"]


def test_teachers_with_commas_in_a_plan(tmp_path, monkeypatch):
    """Each of several files is named from the root on, for processes that work elsewhere."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "b.csv"):
        Path(name).write_text("file,class\nx.png,a\n")
    (job,) = plan_jobs([dict(experiment="probe", methods=["soft_ce"], seeds=[0], student="cifar_pixels", teacher="a.csv,b.csv")])
    assert job.runs[0].given["teacher"] == [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]


def test_rules_in_tables_and_sweeps(one):
    """Rows of a table are told apart by their rule and share teacher and ceiling; a sweep plans each rule as a run of its own."""
    rules = ("as_is", "hard", "uniform(.4)")
    records = [one(PROBE, seed=s, weak_labels=w) for w in rules for s in (0, 1)]
    table = summarize(records, name=row_name)
    assert list(table.index) == ["soft_ce", "soft_ce, weak_labels=hard", "soft_ce, weak_labels=uniform(0.4)"] == list(summarize(records).index)
    assert len({str(i) for i in table["teacher"]}) == len({str(i) for i in table["ceiling"]}) == 1
    asked = Table("rules", "Rules", (PROBE,), tuple(dict(method="soft_ce", weak_labels=w) for w in (*rules, "uniform(0.40)")), (0, 1), None)
    planned = [run.given["weak_labels"] for job in plan_jobs(table_requests(asked)) for run in job.runs]
    assert sorted(planned) == sorted(2 * rules), "two spellings of one rule are one run"
