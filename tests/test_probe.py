"""Frozen features, heads and probes where a reader of the notebooks would be bored."""
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from apart import start_apart, wait_apart
from w2snb.data.images import digits
from w2snb.data.sources import from_folder, load_images
from w2snb.experiments.registry import EXPERIMENTS, register_experiment, resolve
from w2snb.experiments.running import run, run_many
from w2snb.losses import METHODS
from w2snb.models.features import BACKBONES, Backbone, Embedder, _allocate, frozen_features, get_backbone
from w2snb.models.small import NETWORKS, register_network
from w2snb.training.heads import Head, Lesson, train_heads

PROBE = "digits-random_cnn_from_pixels"
SHORT = dict(epochs=2, train_size=200, device="cpu", progress=False)


def extract():
    """In a process of its own: features of all digits, slowly."""
    import w2snb.models.features as f

    class Slow(f.Embedder):
        def forward(self, x):
            time.sleep(0.02)
            return super().forward(x)

    f.Embedder = Slow
    f.frozen_features(digits(), "digits_random_cnn", device="cpu", batch=32, shard=64, progress=False)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("W2SNB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def finished(cache):
    return [f for f in cache.glob("*") if not f.name.startswith(".")]


@pytest.mark.slow
def test_killed_extractions_leave_no_cache_that_looks_finished(cache):
    """Killed five times at different moments, then left alone: the features are those of an undisturbed run."""
    for wait in (0.05, 0.2, 0.35, 0.5, 0.65):
        process = start_apart(extract)
        for _ in range(600):  # the wait counts from the first shard on
            if list(cache.glob(".*/done")) or not process.is_alive():
                break
            time.sleep(0.05)
        time.sleep(wait)
        process.kill()
        process.join()
        assert finished(cache) == []
    noted = [int(f.read_text()) for f in cache.glob(".*/done")]
    assert noted and 0 < noted[0] < 1797
    resumed = frozen_features(digits(), "digits_random_cnn", device="cpu", batch=32, shard=64, progress=False)
    undisturbed = Embedder(get_backbone("digits_random_cnn"))(torch.from_numpy(digits().x))
    np.testing.assert_allclose(resumed, undisturbed.numpy(), rtol=1e-4, atol=1e-5)
    assert len(finished(cache)) == 1


def test_two_processes_extract_once(cache):
    both = [start_apart(extract) for _ in range(2)]
    assert [wait_apart(p) for p in both] == [0, 0]
    assert len(finished(cache)) == 1 and not list(cache.glob(".*/x.npy"))


def test_full_disk_is_noticed_before_the_first_image(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"features need 7 MB in .*No space left on device; W2SNB_CACHE sets another place"):
        _allocate(tmp_path / "x.npy", (1797, 960))
    assert not (tmp_path / "x.npy").exists()


def test_read_only_cache_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("W2SNB_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="cannot be written"):
        frozen_features(digits()[:20], "digits_random_cnn", device="cpu", progress=False)


@pytest.mark.quick
@pytest.mark.parametrize("damage", ["meta.json", "x.npy"])
def test_damaged_features_are_made_again(cache, damage):
    asking = dict(device="cpu", progress=False)
    whole = np.array(frozen_features(digits()[:100], "digits_random_cnn", **asking))
    (folder,) = finished(cache)
    (folder / damage).write_bytes((folder / damage).read_bytes()[:70])
    np.testing.assert_array_equal(frozen_features(digits()[:100], "digits_random_cnn", **asking), whole)


def test_features_that_are_not_finite_are_refused(cache):
    @register_network
    def broken(classes=1000):
        net = NETWORKS["digits_linear"](classes)
        nn.init.constant_(net[1].weight, float("nan"))
        return net

    try:
        with pytest.raises(ValueError, match="features of digits are not all finite"):
            frozen_features(digits()[:50], Backbone("broken", 8, "logits", mean=(0.3,), std=(0.4,)), device="cpu", progress=False)
    finally:
        NETWORKS.pop("broken")
    assert finished(cache) == []


@pytest.mark.parametrize("name, d", [("random:squeezenet1_1@64", 512), ("random:timm:resnet18@64", 512), ("random:mobilenetv2_100@64", 1280),
                                     ("random:torchvision:resnet18@64", 512), ("random:torchvision:mobilenet_v3_small@64", 576),
                                     ("random:timm:vit_tiny_patch16_224@224", 192), ("random:torchvision:vit_b_16@224", 768)])
def test_backbones_of_both_libraries(name, d):
    embedder = Embedder(get_backbone(name))
    out = embedder(torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8))
    assert out.shape == (2, d) and out.dtype == torch.float32 and out.isfinite().all()
    assert not any(p.requires_grad for p in embedder.parameters())


def test_a_checkpoint_by_its_file(tmp_path):
    """A file for the whole network serves `pooled` too, and a wrong file says where it does not fit."""
    import torchvision
    from safetensors.torch import save_file

    torch.manual_seed(0)
    net = torchvision.models.squeezenet1_1(weights=None).eval()
    save_file(net.state_dict(), tmp_path / "squeezenet1_1.safetensors")
    embedder = Embedder(get_backbone("squeezenet1_1@64"), tmp_path)
    x = torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(BACKBONES["squeezenet1_1"].__getattribute__(k)).view(1, 3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        expected = net.features((x.permute(0, 3, 1, 2) / 255 - mean) / std).mean((2, 3))
    torch.testing.assert_close(embedder(x), expected, rtol=1e-4, atol=1e-5)
    save_file({"something.else": torch.zeros(3)}, tmp_path / "squeezenet1_1.safetensors")
    with pytest.raises(ValueError, match="does not fit the network: first at 'features.0.weight'"):
        Embedder(get_backbone("squeezenet1_1@64"), tmp_path)


def lesson(seed, n=300, d=12, c=4, m=128):
    g = torch.Generator().manual_seed(seed)
    index = torch.randperm(n, generator=g)[:m]
    return Lesson(index, 2 * torch.randn(m, c, generator=g), seed, labels=torch.randint(c, (m,), generator=g))


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.loss and not m.features])
def test_every_method_alone_or_among_others(name):
    """What a head becomes does not depend on who is trained beside it."""
    x = torch.randn(300, 12, generator=torch.Generator().manual_seed(0))
    head = Head(name, METHODS[name].params, lr=1e-2, weight_decay=1e-3)
    others = [Head("soft_ce", METHODS["soft_ce"].params), Head("acd", METHODS["acd"].params, lr=0.1), Head("ce", {}, weight_decay=0.1)]
    among = train_heads(x, [lesson(5), lesson(6)], [others[0], head, *others[1:]], epochs=4, batch=32, schedule="cosine")
    alone = train_heads(x, [lesson(6)], [head], epochs=4, batch=32, schedule="cosine")
    torch.testing.assert_close(among.weight[1, 1], alone.weight[0, 0], rtol=1e-3, atol=1e-4)
    assert alone.weight.isfinite().all()


@pytest.mark.quick
def test_run_takes_a_probe_by_name(store):
    record = run(PROBE, "acd", **SHORT)
    assert record.status in ("ok", "collapsed") and "pgr" in record.metrics
    assert {"teacher", "student", "student_alone", "ceiling"} <= set(record.correct)
    assert 0 <= record.metrics["teacher_entropy"] <= np.log(10)
    again = run(PROBE, "acd", **SHORT)
    assert again.seconds == record.seconds
    assert run(PROBE, "acd", force=True, **SHORT).correct == record.correct


def test_one_batch_of_methods_with_settings_of_their_own(store):
    wanted = ["soft_ce", dict(method="acd", tau=2.0), dict(method="acd", lr=0.01)]
    records = run_many(PROBE, wanted, [0, 1], **SHORT)
    assert [(r.seed, r.method, r.params["lr"]) for r in records][:3] == [(0, "soft_ce", 1e-3), (0, "acd", 1e-3), (0, "acd", 0.01)]
    assert records[1].params["method_params"]["tau"] == 2 and len({r.id for r in records}) == 6
    single = run(PROBE, "acd", tau=2.0, **SHORT)
    assert single.id == records[1].id


def test_probes_of_one_seed_share_teacher_and_ceiling(store):
    records = run_many(PROBE, ["soft_ce", "js"], [3], **SHORT)
    assert records[0].correct["teacher"] == records[1].correct["teacher"]
    fixed = run_many(PROBE, ["soft_ce"], [4], teacher_seed=3, **SHORT)
    assert fixed[0].correct["teacher"] == records[0].correct["teacher"]
    assert fixed[0].correct["ceiling"] != records[0].correct["ceiling"]


def test_a_calibrated_teacher_is_as_accurate_and_better_calibrated(store):
    register_experiment(replace(EXPERIMENTS[PROBE], name="digits-calibrated-for-a-test", calibrated=True))
    try:
        plain, fitted = run(PROBE, "soft_ce", **SHORT), run("digits-calibrated-for-a-test", "soft_ce", **SHORT)
    finally:
        EXPERIMENTS.pop("digits-calibrated-for-a-test")
    assert plain.metrics["teacher"] == fitted.metrics["teacher"]
    assert plain.metrics["teacher_entropy"] != fitted.metrics["teacher_entropy"]
    assert fitted.metrics["teacher_calibration_error"] < plain.metrics["teacher_calibration_error"]


def photographs(folder: Path, classes=3, each=20, seed=0):
    """Pictures of different shapes, told apart by their colour."""
    rng = np.random.default_rng(seed)
    for c in range(classes):
        (folder / f"class{c}").mkdir(parents=True)
        for i in range(each):
            h, w = rng.integers(20, 60, 2)
            pixels = rng.integers(0, 120, (h, w, 3))
            pixels[..., c] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"class{c}" / f"{i}.png")
    return folder


def test_photographs_of_any_shape(tmp_path):
    folder = photographs(tmp_path / "p")
    with pytest.raises(ValueError, match="images differ in size"):
        from_folder(folder, "toy")
    images = from_folder(folder, "toy", size=28)
    assert images.x.shape == (60, 28, 28, 3)
    for c in range(3):
        assert images.x[images.y == c].mean((0, 1, 2)).argmax() == c


def test_bad_photographs_are_counted_and_named(tmp_path):
    folder = photographs(tmp_path / "p", each=50)
    (folder / "class0" / "0.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match="1 of 150 images are left out: .*class0/0.png"):
        assert len(from_folder(folder, "toy", size=16)) == 149
    (folder / "class1" / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match="2 of 150 images cannot be read"):
        from_folder(folder, "toy", size=16)


def test_an_empty_or_single_class_is_refused(tmp_path):
    folder = photographs(tmp_path / "p")
    (folder / "nobody").mkdir()
    with pytest.raises(ValueError, match="class 'nobody' has no images"):
        from_folder(folder, "toy", size=16)
    with pytest.raises(ValueError, match="has one class, 'class0'"):
        from_folder(photographs(tmp_path / "q", classes=1), "toy", size=16)


@pytest.fixture
def small_imagenet(tmp_path, monkeypatch, cache):
    """ImageNet's layout with three classes, and networks that fit it."""
    photographs(tmp_path / "imagenet_val" / "val", each=40)

    def three(classes):
        net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
        with torch.no_grad():
            net[2].weight.copy_(torch.eye(3))
            net[2].bias.zero_()
        return net

    def strong(classes):
        net = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, classes))
        net.taps = NETWORKS["digits_linear"]().taps._replace(head="2")
        return net

    monkeypatch.setitem(NETWORKS, "three", three)
    monkeypatch.setitem(NETWORKS, "strong", strong)
    monkeypatch.setitem(BACKBONES, "three", Backbone("three", 32, "logits"))
    monkeypatch.setitem(BACKBONES, "strong", Backbone("strong", 32))
    return tmp_path


OPENAI = "imagenet_val-dino_resnet50_from_alexnet"


def test_openai_protocol_on_a_folder_of_its_layout(small_imagenet, store):
    asked = dict(teacher="three", student="strong", train_size=90, data=small_imagenet, device="cpu", progress=False)
    record = run(OPENAI, "soft_ce", epochs=3, **asked)
    m, p = record.metrics, record.params
    assert (m["student_images"], m["test_images"], m["gold_labels"]) == (90, 30, 0)
    assert (p["scaling"], p["schedule"], p["batch"], p["lr"], p["weight_decay"]) == ("raw", "cosine", 100, 1e-3, 0)
    assert "student_alone" not in m and m["gain_over_alone"] is None
    assert m["teacher_all"] == pytest.approx((90 * m["teacher_on_student_images"] + 30 * m["teacher"]) / 120)
    assert resolve(OPENAI).epochs == 20 and resolve(OPENAI.replace("resnet50", "vitb8")).epochs == 5


def test_reports_live_without_a_student_alone(small_imagenet, store):
    from w2snb.reporting.figures import run_table, summarize, verdict

    asked = dict(teacher="three", student="strong", train_size=90, data=small_imagenet, device="cpu", progress=False, epochs=1)
    records = run_many(OPENAI, ["soft_ce"], [0, 1], **asked)
    assert summarize(records)["student - student alone"].iloc[0] is None
    assert run_table(records[0]).loc["student alone", "last epoch"] == "-"
    assert "student alone" not in verdict(records[0])


def test_a_teacher_with_another_label_set_is_refused(small_imagenet, store):
    photographs(small_imagenet / "more" / "imagenet_val" / "val", classes=2, each=40)
    asked = dict(teacher="three", student="strong", train_size=60, data=small_imagenet / "more", device="cpu", progress=False)
    with pytest.raises(ValueError, match="teacher three has logits for 3 classes and imagenet_val has 2"):
        run(OPENAI, "soft_ce", epochs=1, **asked)


def test_images_are_read_by_size(small_imagenet):
    assert load_images("imagenet_val", "val", small_imagenet).x.shape == (120, 224, 224, 3)


@pytest.fixture
def own_images(small_imagenet):
    """Somebody's own folder of classes, and a labeller who is right three times out of four."""
    folder = photographs(small_imagenet / "mine", each=60, seed=3)
    rng = np.random.default_rng(0)
    lines = ["file,class"]
    for file in sorted(folder.rglob("*.png")):
        c = int(file.parent.name[-1])
        lines.append(f"{file.relative_to(folder)},class{c if rng.random() < 0.75 else (c + 1) % 3}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return dict(data=folder, student="strong", device="cpu", progress=False, epochs=5)


@pytest.mark.quick
def test_images_of_ones_own_with_a_file_of_labels(own_images, store):
    """The records know the labeller, test on a fifth, and a strong student beats random errors."""
    labels = own_images["data"] / "labels.csv"
    records = run_many("probe", ["soft_ce", "acd"], [0, 1], teacher=str(labels), lr=0.01, **own_images)
    m = records[0].metrics
    assert m["test_images"] == 36 and m["gold_labels"] == 0 and 0.5 < m["teacher"] < 0.95
    assert m["student"] >= m["teacher"] and "student_alone" not in m
    assert records[0].correct["teacher"] == records[2].correct["teacher"]  # the test images are those of every seed


@pytest.mark.quick
def test_images_of_ones_own_with_a_backbone(own_images, store):
    """Class folders alone: half for the teacher, half for the student."""
    record = run("probe", "soft_ce", teacher="random:squeezenet1_1@64", **own_images)
    assert record.metrics["student_images"] == 72 and record.metrics["gold_labels"] > 40
    assert {"teacher", "student", "student_alone", "ceiling"} == set(record.correct)


@pytest.mark.quick
def test_recommendation_for_images_of_ones_own(own_images, store):
    from w2snb.experiments.running import recommend

    advice = recommend("probe", teacher=str(own_images["data"] / "labels.csv"), **own_images)
    assert len(advice) == 20 and advice[0]["validation"] >= advice[-1]["validation"]
    assert not list(store.glob("*.json"))  # trials leave no record


@pytest.mark.quick
@pytest.mark.parametrize("change, said", [
    (lambda t: t.replace("class2\n", "cow\n", 1), "has 'cow', which is none of the 3 classes"),
    (lambda t: t.replace("file,", "name,"), "needs a first line with a column 'file'"),
])
def test_a_wrong_file_of_labels_is_one_sentence(own_images, store, change, said):
    labels = own_images["data"] / "labels.csv"
    labels.write_text(change(labels.read_text()))
    with pytest.raises(ValueError, match=said):
        run("probe", "soft_ce", teacher=str(labels), **own_images)


@pytest.mark.quick
def test_missing_things_are_named(own_images, store, tmp_path):
    with pytest.raises(FileNotFoundError, match="file of labels 'no.csv' does not exist"):
        run("probe", "soft_ce", teacher="no.csv", **own_images)
    with pytest.raises(FileNotFoundError, match="dataset 'folder' was not found"):
        run("probe", "soft_ce", teacher="strong", **{k: v for k, v in own_images.items() if k != "data"})


def test_images_without_a_true_label(own_images, store):
    """A flat folder and a file of labels: the student learns, and what nobody can know is not claimed."""
    from w2snb.experiments.running import label_images, recommend
    from w2snb.reporting.figures import run_table, verdict

    folder = own_images["data"]
    lines = ["file,class"]
    for line in (folder / "labels.csv").read_text().split()[1:]:
        file, said = line.split(",")
        (folder / file).rename(folder / file.replace("/", "_"))
        lines.append(f"{file.replace('/', '_')},{said}")
    labels = folder.parent / "labels.csv"
    labels.write_text("\n".join(lines) + "\n")
    for place in [p for p in folder.iterdir() if p.is_dir()]:
        place.rmdir()
    record = run("probe", "acd", teacher=str(labels), lr=0.01, **own_images)
    assert record.status == "ok" and not record.correct and "student" not in record.metrics
    assert record.metrics["student_images"] == 144 and 1 / 3 < record.metrics["agreement"] <= 1
    assert "No image has a true label" in verdict(record) and set(run_table(record)["last epoch"]) == {"-"}
    named = label_images("probe", "soft_ce", teacher=str(labels), **own_images)
    assert len(named) == 180 and set(named.teacher) == {"class0", "class1", "class2"} and named.file.is_unique
    with pytest.raises(ValueError, match="keeps no labelled validation images"):
        recommend("probe", teacher=str(labels), **own_images)
    with pytest.raises(ValueError, match="lie in no class folders"):
        run("probe", "acd", teacher="strong", **own_images)
