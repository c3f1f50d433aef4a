"""The same images give the same ImageSet from parquet shards, torchvision's files and a tree of images."""
import hashlib
import io
import json
import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from PIL import Image

from w2snb.data.augment import AUGMENTATIONS, enlarged_middle, mix
from w2snb.data.images import canonical, to_float
from w2snb.data.sources import load_images

pytestmark = pytest.mark.quick
NAMES = [f"class_{i:02d}" for i in range(10)]
DATA = os.environ.get("W2SNB_DATA")


def small_set():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8), np.arange(40) % 10


def png(image):
    Image.fromarray(image).save(buffer := io.BytesIO(), "png")
    return buffer.getvalue()


def write_parquet(folder, x, y):
    features = {"fine_label": {"names": NAMES, "_type": "ClassLabel"}}
    for shard, part in enumerate(np.array_split(np.random.default_rng(1).permutation(len(x)), 2)):
        table = pa.table({"img": [{"bytes": png(x[i]), "path": None} for i in part], "fine_label": y[part], "coarse_label": y[part]})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        for split in ("train", "test"):
            pq.write_table(table, folder / f"{split}-{shard:05d}-of-00002.parquet")


def write_tree(folder, x, y):
    for i, (image, label) in enumerate(zip(x, y)):
        for split in ("train", "test"):
            place = folder / split / NAMES[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{i}.png")


def write_torchvision(folder, x, y, monkeypatch):
    """torchvision's own layout; its list of file hashes is replaced by that of the small files."""
    place = folder / "cifar-100-python"
    place.mkdir(parents=True)
    entry = {"data": x.transpose(0, 3, 1, 2).reshape(len(x), -1), "fine_labels": y.tolist()}
    content = {"train": entry, "test": entry, "meta": {"fine_label_names": NAMES}}
    md5 = {}
    for name, value in content.items():
        (place / name).write_bytes(data := pickle.dumps(value))
        md5[name] = hashlib.md5(data).hexdigest()
    kind = torchvision.datasets.CIFAR100
    monkeypatch.setattr(kind, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(kind, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(kind, "meta", {"filename": "meta", "key": "fine_label_names", "md5": md5["meta"]})


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("W2SNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("W2SNB_DATA", raising=False)


def test_three_forms_are_equal(tmp_path, monkeypatch):
    x, y = small_set()
    for form in ("parquet", "tree", "torchvision"):
        (tmp_path / form).mkdir()
    write_parquet(tmp_path / "parquet", x, y)
    write_tree(tmp_path / "tree", x, y)
    write_torchvision(tmp_path / "torchvision", x, y, monkeypatch)
    expected = canonical(x, y, NAMES, "cifar100")
    for form in ("parquet", "tree", "torchvision"):
        for split in ("train", "test"):
            found = load_images("cifar100", split, tmp_path / form)
            assert np.array_equal(found.x, expected.x) and np.array_equal(found.y, expected.y), form
            assert (found.classes, found.key) == (expected.classes, expected.key), form
            assert isinstance(found.x, np.memmap), "decoded images are mapped, not held"


def test_altered_torchvision_files_are_refused(tmp_path, monkeypatch):
    write_torchvision(tmp_path, *small_set(), monkeypatch)
    with open(tmp_path / "cifar-100-python" / "train", "ab") as f:
        f.write(b"x")
    with pytest.raises(ValueError, match="cifar-100-python: a file is missing, damaged or altered; put the files there again"):
        load_images("cifar100", "train", tmp_path)


def test_truncated_shard_is_named(tmp_path):
    write_parquet(tmp_path, *small_set())
    shard = tmp_path / "train-00001-of-00002.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match="train-00001-of-00002.parquet is not a whole parquet file"):
        load_images("cifar100", "train", tmp_path)
    assert not list((tmp_path / "cache").rglob("*.npy")), "nothing half-written stays"


def test_unreadable_images_are_named(tmp_path):
    write_tree(tmp_path, *small_set())
    for i in (0, 10):
        (tmp_path / "train" / NAMES[0] / f"{i}.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="2 of 40 images cannot be read .*0.png is not a readable image"):
        load_images("cifar100", "train", tmp_path)


def test_a_missing_shard_is_noticed(tmp_path):
    write_parquet(tmp_path, *small_set())
    (tmp_path / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(ValueError, match="one of 2 shards, but 1 are there"):
        load_images("cifar100", "train", tmp_path)


def test_a_relabelled_tree_is_another_set(tmp_path):
    write_tree(tmp_path, *small_set())
    before = load_images("cifar100", "train", tmp_path)
    (tmp_path / "train" / NAMES[0]).rename(tmp_path / "train" / "another_name")
    after = load_images("cifar100", "train", tmp_path)
    assert "another_name" in after.classes and after.key != before.key


@pytest.mark.parametrize("column", [{"bytes": b"no picture", "path": None}, {"bytes": None, "path": None}])
def test_a_bad_image_in_a_shard_is_named(tmp_path, column):
    pq.write_table(pa.table({"img": [column], "label": [0]}), tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="image 0 of .*train-00000-of-00001.parquet is not a readable image"):
        load_images("cifar100", "train", tmp_path)


def test_a_cache_that_cannot_be_written_costs_no_run(tmp_path, monkeypatch):
    write_tree(tmp_path / "data", *small_set())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("W2SNB_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="not kept"):
        assert len(load_images("cifar100", "train", tmp_path / "data")) == 40


@pytest.mark.real_data
def test_real_cifar100():
    test = load_images("cifar100", "test", DATA)
    assert test.x.shape == (10_000, 32, 32, 3) and (np.bincount(test.y) == 100).all()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_views_are_drawn_from_their_generator_only(name):
    """The same generator gives the same views, whatever torch's own stream is; they are images as before."""
    x = to_float(torch.randint(256, (12, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    views = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        views.append(AUGMENTATIONS[name](x.clone(), torch.Generator().manual_seed(0)))
    assert views[0].shape == x.shape and torch.equal(*views)
    assert 0 <= views[0].min() and views[0].max() <= 1
    mixed, share = mix(x, 1.0, torch.Generator().manual_seed(0))
    assert 0 <= share <= 1 and (mixed - share * x - (1 - share) * x.flip(0)).abs().max() <= 1 / 255
    assert enlarged_middle(x).shape == x.shape
