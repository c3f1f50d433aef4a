"""Exchanged labels: what is known of the labels themselves, on a probe of one epoch."""
import pytest
import torch

from w2snb.tasks.exchanged_labels import (STRUCTURES, bootstrap_analysis, confidence_analysis, ensemble_analysis, label_students, noise_analysis, open_scene, reference_analysis,
                            simulation_analysis, structure_analysis)  # fmt: skip
from w2snb.experiments.registry import resolve
from w2snb.results.records import Store

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    config = resolve("digits-random_cnn_from_pixels", "soft_ce", epochs=1)
    return open_scene(config, Store(tmp_path_factory.mktemp("store")), torch.device("cpu"))


def test_as_many_labels_are_wrong_as_was_asked(scene):
    m = len(scene.y)
    rows = noise_analysis(scene, rates=(0.0, 0.3), methods=("soft_ce",))
    assert len(rows) == 6
    for row in rows:
        assert row["labels"] == pytest.approx(1 - round(row["level"] * m) / m)
    clean = {row["student"] for row in rows if row["level"] == 0}
    assert len(clean) == 1, "without errors it does not matter how they would be made"


def test_structures_differ_in_which_labels_are_wrong_only(scene):
    rows = structure_analysis(scene, methods=("soft_ce", "acd"))
    assert {r["what"] for r in rows} == set(STRUCTURES) and len({r["labels"] for r in rows}) == 1


def test_simulated_teachers_and_labels_with_as_many_errors(scene):
    rows = {r["what"]: r for r in simulation_analysis(scene, components=(8,), extra=0.2)}
    assert rows["simulated"]["labels"] == pytest.approx(rows["random"]["labels"], abs=1 / len(scene.y))
    assert rows["flipped"]["labels"] < rows["simulated"]["labels"]


def test_the_surest_labels_are_better_than_as_many_at_random(scene):
    rows = {(r["what"], r["level"]): r for r in confidence_analysis(scene, shares=(1.0, 0.3), methods=("soft_ce",))}
    assert rows["surest", 1.0]["labels"] == rows["random", 1.0]["labels"]
    assert rows["surest", 0.3]["images"] == rows["random", 0.3]["images"] < len(scene.y)
    assert rows["surest", 0.3]["labels"] > rows["random", 0.3]["labels"]


def test_a_chain_without_links_and_an_ensemble_of_one_are_the_teacher(scene):
    alone = float((label_students(scene, [scene.teacher]).classes(scene.test_x)[0, 0] == scene.test_y).double().mean())
    chain = {r["level"]: r for r in bootstrap_analysis(scene, [scene], methods=("soft_ce",))}
    ensemble = ensemble_analysis([scene, scene], methods=("soft_ce",))
    assert chain[0]["student"] == alone and chain[1]["labels"] != chain[0]["labels"]
    assert ensemble[0]["student"] == alone and {r["level"] for r in ensemble} == {1, 2}


def test_references_have_a_row_for_each_rate(scene):
    rows = reference_analysis(scene, rates=(1e-3, 1e-4))
    assert [(r["what"], r["level"]) for r in rows] == [(w, rate) for w in ("ceiling", "student alone") for rate in (1e-3, 1e-4)]
    assert all(0 <= r["validation"] <= 1 for r in rows)
