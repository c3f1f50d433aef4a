"""Images stay where they were read; batches go to the device, and the results are the same bytes."""
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from w2snb.core.random import seeded
from w2snb.data.images import digits
from w2snb.data.sources import DATASETS
from w2snb.experiments.registry import EXPERIMENTS, resolve
from w2snb.experiments.running import place_of, run
from w2snb.models.build import build_model
from w2snb.results.records import Store
from w2snb.tasks import end_to_end as runs
from w2snb.tasks.contract import Place
from w2snb.tasks.end_to_end import ROOM, Run, images_fit, load_task
from w2snb.training.loop import fetch, predict, train
from w2snb.training.objectives import LabelObjective
from w2snb.training.recipes import RECIPES

TINY = dict(epochs=1, train_size=64, device="cpu", progress=False)
CPU, META = torch.device("cpu"), torch.device("meta")


def outcome(record):
    return record.id, record.metrics, record.history, record.correct


def mapped(tmp_path, name, s):
    """The same images in a file that can only be read: to write to it would end the process."""
    np.save(tmp_path / f"{name}.npy", s.x)
    return replace(s, x=np.load(tmp_path / f"{name}.npy", mmap_mode="r"))


def copies(monkeypatch):
    """Train and ask as it was done before: a copy of all images, and another of those that are used."""
    def chosen(x, index):
        return x.clone() if index is None else x.clone()[index]

    monkeypatch.setattr(runs, "train", lambda model, x, *a: train(model, chosen(x, a[-1]), *a[:-1]))
    monkeypatch.setattr(runs, "predict", lambda m, x, s, p="fp32", b=None, e="plain", i=None: predict(m, chosen(x, i), s, p, b, e))


@pytest.mark.parametrize(
    "experiment, method, test",
    [
        ("digits", "acd", 500),  # weak labels of the clean images
        ("digits", "acd", None),  # a test split of its own
        ("digits-cnn_from_cnn", "kd", 500),  # a teacher that sees the views
        ("digits-cnn_from_cnn", "fitnet", 500),  # features
    ],
)
def test_results_are_those_of_copies_and_nothing_is_written(experiment, method, test, tmp_path, monkeypatch):
    everything = digits()
    sets = {split: mapped(tmp_path, split, s) for split, s in dict(all=everything, train=everything[500:], test=everything[:500]).items()}
    monkeypatch.setattr(runs, "load_images", lambda dataset, split="all", data=None: sets[split])
    monkeypatch.setitem(EXPERIMENTS, experiment, replace(EXPERIMENTS[experiment], test=test))
    before = {split: s.x.tobytes() for split, s in sets.items()}
    now = run(experiment, method, store=tmp_path / "now", **TINY)
    assert not any(s.x.flags.writeable for s in sets.values()) and before == {split: s.x.tobytes() for split, s in sets.items()}
    copies(monkeypatch)
    assert outcome(run(experiment, method, store=tmp_path / "before", **TINY)) == outcome(now)


@pytest.mark.quick
@pytest.mark.parametrize("test", [500, None])
def test_images_are_shared_without_a_warning(test, tmp_path, monkeypatch, recwarn):
    sets = dict(all=mapped(tmp_path, "all", digits()))
    sets |= dict(train=sets["all"][500:], test=sets["all"][:500])
    monkeypatch.setattr(runs, "load_images", lambda dataset, split="all", data=None: sets[split])
    task = load_task(replace(resolve("digits", train_size=64), test=test), CPU)
    assert task.x.data_ptr() == sets["train"].x.ctypes.data and task.test_x.data_ptr() == sets["test"].x.ctypes.data
    assert not recwarn.list


@pytest.mark.quick
@pytest.mark.parametrize("changes", [{}, dict(bn_chunk=8), dict(mixup=0.1), dict(drop_last=True, batch=40)])
def test_positions_or_a_copy(changes):
    x, y = torch.tensor(digits().x), torch.tensor(digits().y)
    index = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:100]
    recipe, fits = replace(RECIPES["digits"], epochs=1, **changes), []
    for images, which in ((x, index), (x[index].clone(), None)):
        with seeded(0, "student"):
            net = build_model("digits_cnn", 10)
        fits.append(train(net, images, LabelObjective(y[index]), recipe, DATASETS["digits"], 0, index=which))
    states = [f.model.state_dict() for f in fits]
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))
    assert fits[0].history == fits[1].history


class Sent(TorchDispatchMode):
    """Bytes of pixels that went to a device without memory, one number each time; what is read from there is 0."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        copies = function.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.to)
        device = next((v for v in (*args, *(kwargs or {}).values()) if isinstance(v, torch.device)), None)
        if copies and device == META and not args[0].is_meta and args[0].dtype == torch.uint8:
            self.sizes.append(args[0].numel())
        if copies and device == CPU and args[0].is_meta:
            return torch.zeros(args[0].shape, dtype=args[0].dtype)
        if function is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 0.0
        return function(*args, **(kwargs or {}))


def far_run(tmp_path, monkeypatch, images_on_device):
    """A training whose network is on another device, and what was sent there."""
    monkeypatch.setattr("w2snb.training.loop.autocast", lambda *a: nullcontext())  # torch knows none of this device
    config = resolve("digits", epochs=2, train_size=100)
    with Sent() as sent:
        task = load_task(config, META, images_on_device=images_on_device)
        place, index = Place(Store(tmp_path), META), task.parts["student"]
        net = build_model("digits_cnn", 10).to(META)
        Run(config, task, place).train("digits_cnn", net, index, LabelObjective(task.y[index]), 0)
    return task, sent.sizes


@pytest.mark.quick
def test_only_batches_move(tmp_path, monkeypatch):
    task, sizes = far_run(tmp_path, monkeypatch, False)
    assert task.x.device == CPU and task.device == META
    learned, tested = 2 * 100 * 64, 2 * 500 * 64  # two epochs of 8x8 bytes
    assert sum(sizes) == learned + tested
    assert max(sizes) == 256 * 64, "the images that are asked at a time"


@pytest.mark.quick
def test_all_images_move_once_by_choice(tmp_path, monkeypatch):
    task, sizes = far_run(tmp_path, monkeypatch, True)
    assert task.x.device == META and sizes == [1297 * 64, 500 * 64]


@pytest.mark.quick
@pytest.mark.parametrize(
    "device, size, wanted, answer",
    [
        ("cuda", int(ROOM * 1000), None, True),
        ("cuda", int(ROOM * 1000) + 1, None, False),
        ("cuda", 10**15, True, True),
        ("cuda", 1, False, False),
        ("cpu", 10**15, None, True),
        ("mps", 10**15, None, False),
    ],
)
def test_few_images_go_to_the_device_at_once(device, size, wanted, answer, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 2000))
    assert images_fit(size, torch.device(device), wanted) is answer


@pytest.mark.quick
def test_a_batch_for_a_gpu_goes_through_locked_pages(monkeypatch):
    """No GPU is here: what would be asked of torch."""
    calls, x, index = [], torch.arange(24, dtype=torch.uint8).view(6, 2, 2, 1), torch.tensor([5, 0])
    real = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: calls.append("pin_memory") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device, **o: calls.append((device.type, o)) or self if device.type == "cuda" else real(self, device, **o))
    assert torch.equal(fetch(x, index, torch.device("cuda")), x[index])
    assert calls == ["pin_memory", ("cuda", dict(non_blocking=True))]


def test_the_choice_is_no_part_of_a_run(tmp_path):
    alike = {resolve("digits", **o).common() for o in ({}, dict(images_on_device=True), dict(images_on_device=False))}
    assert len(alike) == 1
    assert [place_of(False, False, **o)[0].images_on_device for o in ({}, dict(images_on_device=False))] == [None, False]
    record = run("digits", images_on_device=False, store=tmp_path, **TINY)
    assert record.provenance["images_on_device"] is True, "on a CPU they are"


@pytest.mark.quick
@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (dict(images_on_device="yes"), "images_on_device='yes': input should be a valid boolean"),
        (dict(images_on_gpu=True), "images_on_gpu: did you mean images_on_device?"),
        (
            dict(experiment="digits-random_cnn_from_pixels", images_on_device=True),
            "images_on_device=True: digits-random_cnn_from_pixels trains linear heads, which have no images_on_device",
        ),
    ],
)
def test_a_wrong_choice_is_one_sentence(wrong, sentence):
    with pytest.raises(ValueError) as error:
        resolve(**wrong)
    assert str(error.value) == sentence
