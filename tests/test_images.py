"""What real folders of images hold beside clean images: every case ends in pixels, a warning or one sentence."""
import io
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from conftest import ROOT
from w2snb.data import images, sources
from w2snb.data.images import first_twins, keep_together, warn_of_twins
from w2snb.data.sources import _decode, from_folder, from_parquet, load_images
from w2snb.experiments.running import label_images, run
from w2snb.models import features
from w2snb.models.features import frozen_features, get_backbone

DATA = os.environ.get("W2SNB_DATA")
RAMP = np.linspace(0, 65535, 12).round().astype(np.uint16).reshape(3, 4)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("W2SNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("W2SNB_DATA", raising=False)


def encoded(image, kind="png", **options):
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


def tree(folder: Path, classes=("cat", "dog"), each=10, size=8, seed=0):
    """Pictures of noise, all different."""
    rng = np.random.default_rng(seed)
    for c in classes:
        (folder / c).mkdir(parents=True)
        for i in range(each):
            Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / c / f"{i}.png")
    return folder


def warned(act):
    """What an action returns, and its warnings."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = act()
    return result, [str(w.message) for w in seen if w.category is UserWarning]


# pixels


@pytest.mark.parametrize("values, kind, expected", [
    (RAMP, "png", RAMP / 257),
    (RAMP, "tiff", RAMP / 257),
    (RAMP.astype(np.int32), "tiff", RAMP / 257),
    ((RAMP / 65535).astype(np.float32), "tiff", RAMP / 257),
    ((RAMP / 257).astype(np.uint8), "png", np.floor(RAMP / 257)),
], ids=["I;16 png", "I;16 tiff", "I tiff", "F tiff", "L png"])
def test_deep_images_are_scaled_by_the_range_of_their_kind(values, kind, expected):
    pixels = _decode(encoded(values, kind), "x")
    assert pixels.shape == (3, 4, 3) and (pixels == np.rint(expected)[..., None]).all()


def test_deep_images_stay_comparable():
    """One image half as bright as another stays so: nothing is stretched."""
    half = _decode(encoded(RAMP // 2), "x").astype(int)
    assert abs(2 * half - _decode(encoded(RAMP), "x")).max() <= 1


@pytest.mark.parametrize("values, sentence", [
    (RAMP.astype(np.int32) * 2, "x.tif has values from 0 to 131070, but 0 to 65535 is what its kind of image (mode I) may have"),
    (RAMP.astype(np.int32) - 1, "x.tif has values from -1 to 65534, but 0 to 65535 is what its kind of image (mode I) may have"),
    (RAMP.astype(np.float32), "x.tif has values from 0 to 65535, but 0 to 1 is what its kind of image (mode F) may have"),
    (np.full((2, 2), np.nan, np.float32), "x.tif has values from nan to nan, but 0 to 1 is what its kind of image (mode F) may have"),
], ids=["too large", "negative", "not a fraction", "nan"])
def test_values_out_of_range_are_one_sentence(values, sentence):
    with pytest.raises(ValueError) as error:
        _decode(encoded(values, "tiff"), "x.tif")
    assert str(error.value) == sentence


def test_twelve_bits_in_sixteen_are_warned_of(tmp_path):
    for c in ("cat", "dog"):
        (tmp_path / "t" / c).mkdir(parents=True)
        Image.fromarray((RAMP // 16 + (c == "dog")).astype(np.uint16)).save(tmp_path / "t" / c / "0.png")
    sentence = ("toy: the largest value of 2 16-bit images is 4,096 of 65,535, so that they become dark: multiply their values to "
                "fill 16 bits, or save them with 8")
    assert warned(lambda: from_folder(tmp_path / "t", "toy"))[1] == [sentence]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_stand_upright(orientation):
    """Each orientation is undone: what a viewer shows is what is read."""
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10
    exif = Image.Exif()
    exif[0x0112] = orientation
    turn = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
            6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90}[orientation]
    assert (_decode(encoded(pixels, exif=exif), "x") == turn(pixels)).all()


def test_bad_exif_is_no_bad_image():
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    assert (_decode(encoded(pixels, exif=b"Exif\0\0nonsense"), "x") == pixels).all()


@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 1), (3, 5_000)])
def test_no_long_image_becomes_large_in_between(shape, monkeypatch):
    sizes, resize = [], Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, *a: sizes.append(size) or resize(self, size, *a))
    assert _decode(encoded(np.zeros(shape, np.uint8)), "x", 224).shape == (224, 224, 3)
    assert max(sizes[0]) <= 4 * 256 and min(sizes[0]) == 256


@pytest.mark.parametrize("shape", [(40, 40), (33, 47), (20, 80), (80, 20)])
def test_ordinary_images_are_scaled_as_ever(shape):
    """Whole image first, then the middle: ids of existing sets depend on it."""
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image, short = Image.fromarray(pixels), 32
    w, h = (max(short, int(n * short / min(image.size))) for n in image.size)
    left, top = round((w - 28) / 2), round((h - 28) / 2)
    expected = image.resize((w, h), Image.BILINEAR).crop((left, top, left + 28, top + 28))
    assert (_decode(encoded(pixels), "x", 28) == np.asarray(expected)).all()


# folders


def _symlinked(folder):
    (folder / "dog").rename(folder.parent / "elsewhere")
    (folder / "dog").symlink_to(folder.parent / "elsewhere")


def _loop(folder):
    (folder / "dog" / "again").symlink_to(folder)
    (folder / "dog" / "self").symlink_to(folder / "dog" / "self")


def _hidden(folder):
    for name in ("._0.png", ".hidden.png", "cat/._1.jpg"):
        (folder / name).write_bytes((folder / "cat" / "0.png").read_bytes())


def _system(folder):
    for name in ("@eaDir", "__MACOSX", ".ipynb_checkpoints"):
        (folder / name).mkdir()
        (folder / name / "0.png").write_bytes((folder / "cat" / "0.png").read_bytes())


def _checkpoints(folder):
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".DS_Store").write_bytes(b"")
    (folder / "labels.csv").write_text("file,class\n")


def _endings(folder):
    for i, name in enumerate(("cat/1.heic", "cat/2.heic", "dog/x.svg", "LICENSE")):
        (folder / name).write_bytes(b"")


@pytest.mark.parametrize("change, sentences", [
    (_symlinked, []),
    (_loop, ["{}: 1 file is not read: 1 without an ending (dog/self)"]),
    (_hidden, ["{}: 3 files are not read: 3 hidden or of the system (._0.png, ...)"]),
    (_system, ["{}: 3 files are not read: 3 hidden or of the system (.ipynb_checkpoints/0.png, ...)"]),
    (_checkpoints, []),
    (_endings, ["{}: 4 files are not read: 2 with the ending .heic (cat/1.heic, ...), 1 with the ending .svg (dog/x.svg), "
                "1 without an ending (LICENSE)"]),
])
def test_what_lies_beside_the_images(tmp_path, change, sentences):
    """The images stay the same, on a fresh cache and on a full one; what is not read is counted in one warning."""
    tree(tmp_path / "t" / "all")
    expected = load_images("folder", "all", tmp_path / "t" / "all", 8)
    change(tmp_path / "t" / "all")
    for _ in range(2):
        found, seen = warned(lambda: load_images("folder", "all", tmp_path / "t" / "all", 8))
        assert found.key == expected.key and found.classes == ("cat", "dog")
        assert seen == [s.format(tmp_path / "t" / "all") for s in sentences]


@pytest.mark.parametrize("kind, name", [("gif", "x.gif"), ("tiff", "x.tif"), ("tiff", "x.TIFF"), ("jpeg", "x.jfif"), ("avif", "x.avif")])
def test_more_endings_are_read(tmp_path, kind, name):
    folder = tree(tmp_path / "t", each=1, size=16)
    if os.path.splitext(name)[1].lower() not in sources._readable():
        pytest.skip("Pillow was built without it")
    (folder / "owl").mkdir()
    (folder / "owl" / name).write_bytes(encoded(np.full((16, 16, 3), 77, np.uint8), kind))
    found = from_folder(folder, "toy")
    assert found.classes == ("cat", "dog", "owl") and abs(found.x[found.y == 2].astype(int) - 77).max() < 5


@pytest.mark.parametrize("ending, sentence", [
    (None, "{}: class 'owl' has no images"),
    (".heic", "{}: class 'owl' has no images; 2 files are not read: 2 with the ending .heic (owl/0.heic, ...)"),
])
def test_a_class_without_images_is_one_sentence(tmp_path, ending, sentence, monkeypatch):
    folder = tree(tmp_path / "t")
    load_images("folder", "all", folder, 8)  # on a full cache, too
    (folder / "owl").mkdir()
    for i in range(2 * bool(ending)):
        (folder / "owl" / f"{i}{ending}").write_bytes(b"")
    monkeypatch.setattr(sources, "_decode", None)  # refused before anything is decoded
    with pytest.raises(ValueError) as error:
        load_images("folder", "all", folder, 8)
    assert str(error.value) == sentence.format(folder)


def _fifo(file):
    os.mkfifo(file)


def _broken_link(file):
    file.symlink_to("missing.png")


def _folder(file):
    file.mkdir()


def _text(file):
    file.write_bytes(b"no image")


def _cut(file):
    whole = encoded(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    file.write_bytes(whole[:len(whole) // 2])


BAD = [(_fifo, "is no regular file"), (_broken_link, "is a broken link"), (_folder, "is a folder"),
       (_text, "is not a readable image"), (_cut, "is not a readable image")]


@pytest.mark.parametrize("make, what", BAD)
def test_one_unreadable_image_is_left_out(tmp_path, make, what):
    folder = tree(tmp_path / "t")
    make(folder / "cat" / "x.png")
    for _ in range(2):  # decoded, then from the cache
        found, seen = warned(lambda: load_images("folder", "all", folder, 8))
        assert len(found) == 20 and seen == [f"1 of 21 images are left out: cat/x.png {what}"]


@pytest.mark.parametrize("make, what", BAD)
def test_several_unreadable_images_are_listed(tmp_path, make, what):
    folder = tree(tmp_path / "t")
    for i in range(7):
        make(folder / "cat" / f"x{i}.png")
    listed = "; ".join(f"cat/x{i}.png {what}" for i in range(5))
    with pytest.raises(ValueError) as error:
        load_images("folder", "all", folder, 8)
    assert str(error.value) == (f"{folder}: 7 of 27 images cannot be read ({listed}; and 2 more): repair or remove them; "
                                "up to 1 %, or one, would be left out")


def test_one_percent_of_many_may_be_unreadable(tmp_path):
    folder = tree(tmp_path / "t", each=100, size=2)
    for i in range(2):
        _text(folder / "cat" / f"x{i}.png")
    assert len(warned(lambda: from_folder(folder, "toy"))[0]) == 200


def test_a_decoder_of_another_version_uses_another_cache(tmp_path, monkeypatch):
    folder = tree(tmp_path / "t")
    before = load_images("folder", "all", folder, 8)
    monkeypatch.setattr(sources, "DECODER", sources.DECODER + 1)
    after = load_images("folder", "all", folder, 8)
    assert after.key == before.key and after.x.filename != before.x.filename


@pytest.mark.parametrize("text", ["null", "[]", "{}", "no json", '{"name": 1, "classes": 3}'])
def test_garbage_in_the_cache_is_decoded_again(tmp_path, text):
    folder = tree(tmp_path / "t")
    before = load_images("folder", "all", folder, 8)
    (meta,) = (tmp_path / "cache" / "images").glob("*/meta.json")
    meta.write_text(text)
    assert load_images("folder", "all", folder, 8).key == before.key
    assert json.loads(meta.read_text())["key"] == before.key


# parquet and torchvision


def shard(file, labels, metadata=None):
    images = [{"bytes": encoded(np.full((2, 2, 3), i, np.uint8)), "path": None} for i in range(len(labels))]
    table = pa.table({"image": images, "label": labels})
    pq.write_table(table if metadata is None else table.replace_schema_metadata({"huggingface": metadata}), file)


FORM = ("{}: its metadata under 'huggingface' do not have the form that the library datasets writes; write the file anew, with or "
        "without them")
KIND = "{}: the labels in column 'label' are of type {}, but must be whole numbers that count the classes from 0"


@pytest.mark.parametrize("labels, metadata, sentence", [
    (["cat", "dog"], None, KIND.format("{}", "string")),
    ([0.0, 1.0], None, KIND.format("{}", "double")),
    ([0, 1], "no json", FORM),
    ([0, 1], "[1, 2]", FORM),
    ([0, 1], '{"info": {"features": []}}', FORM),
    ([0, 1], '{"info": {"features": {"label": {"names": "cat"}}}}', FORM),
    ([0, 10**7], None, "toy: the label 10000000 of 2 images is too large to be the number of a class; classes are counted from 0"),
    ([0, 10**10], None, "toy: the label 10000000000 of 2 images is too large to be the number of a class; classes are counted from 0"),
    ([0, 2], '{"info": {"features": {"label": {"names": ["cat", "dog"]}}}}', "toy: labels run from 0 to 2, but there are 2 classes"),
    ([-1, 1], None, "toy: labels run from -1 to 1, but there are 2 classes"),
])
def test_wrong_shards_are_one_sentence(tmp_path, labels, metadata, sentence):
    shard(file := tmp_path / "train-00000-of-00001.parquet", labels, metadata)
    with pytest.raises(ValueError) as error:
        from_parquet([file], "toy")
    assert str(error.value) == sentence.format(file)


# twins


def counted(hashes, y, training):
    _, seen = warned(lambda: warn_of_twins("toy", first_twins(np.array(hashes)), y, training))
    return seen


END = ". Such test images measure memory, and another class is a wrong label: keep one of each"


@pytest.mark.parametrize("hashes, y, sentences", [
    ([1, 2, 3, 4, 5, 6], [0, 0, 0, 1, 1, 1], []),
    ([1, 1, 3, 4, 5, 6], [0, 0, 0, 1, 1, 1], ["toy: 1 image is pixel-identical to an earlier one (1 within training)" + END]),
    ([1, 1, 1, 4, 5, 4], [0, 0, 0, 1, 1, 0],
     ["toy: 3 images are pixel-identical to an earlier one (2 within training, 1 in test and in training); 1 of them has another class "
      "than that one" + END]),
    ([1, 2, 3, 4, 6, 6], [0, 0, 0, 1, -1, -1], ["toy: 1 image is pixel-identical to an earlier one (1 within test)" + END]),
])
def test_twins_are_counted(hashes, y, sentences):
    assert counted(hashes, y, 4) == sentences


@pytest.mark.parametrize("seed", range(5))
def test_no_twins_on_both_sides(seed):
    """Parts keep their sizes and classes where each twin that moves finds an image to change places with."""
    rng = np.random.default_rng(seed)
    y, hashes = rng.integers(0, 3, 200), rng.permutation(200)
    a, b = rng.choice(200, (2, 15), replace=False)
    hashes[b], y[b] = hashes[a], y[a]
    first, place = first_twins(hashes), rng.integers(0, 4, 200)  # 3: in no part
    parts = {k: np.flatnonzero(place == k) for k in range(3)}
    kept = keep_together(parts, y, first)
    for part in kept.values():
        others = np.concatenate([p for p in kept.values() if p is not part])
        assert not set(first[part]) & set(first[others])
    assert {k: np.bincount(y[v], minlength=3).tolist() for k, v in kept.items()} == {
        k: np.bincount(y[v], minlength=3).tolist() for k, v in parts.items()}
    assert sorted(np.concatenate(list(kept.values()))) == sorted(np.concatenate(list(parts.values())))


@pytest.fixture
def probe(monkeypatch):
    """Images of one's own for a probe of a second, by a network that sees the mean colour of each quarter."""
    from torch import nn

    from w2snb.models.features import BACKBONES, Backbone
    from w2snb.models.small import NETWORKS

    def quarters(classes):
        net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, classes))
        net.taps = NETWORKS["digits_linear"]().taps._replace(head="2")
        return net

    monkeypatch.setitem(NETWORKS, "quarters", quarters)
    monkeypatch.setitem(BACKBONES, "quarters", Backbone("quarters", 8))
    return dict(teacher="quarters", student="quarters", device="cpu", progress=False, epochs=1)


def test_own_images_with_twins_are_split_and_folded_together(tmp_path, store, probe, monkeypatch):
    """Twins of one class, of two classes: one warning, and no twin is learned from where the other is looked at."""
    from w2snb.tasks import probe as task, probe_experiments

    folder = tree(tmp_path / "t", each=30)
    for i in range(10):
        (folder / "cat" / f"copy{i}.png").write_bytes((folder / "cat" / f"{i}.png").read_bytes())
    (folder / "dog" / "wrong.png").write_bytes((folder / "cat" / "20.png").read_bytes())
    deals, lessons, deal, train = [], [], task._deal, probe_experiments.teach_heads
    monkeypatch.setattr(task, "_deal", lambda c, y, rows, twins: deals.append((deal(c, y, rows, twins), twins, len(y))) or deals[-1][0])
    monkeypatch.setattr(probe_experiments, "teach_heads", lambda x, given, *a, **k: lessons.extend(given) or train(x, given, *a, **k))
    _, seen = warned(lambda: label_images("probe", "soft_ce", data=folder, folds=3, **probe))
    (parts, twins, learning), = deals
    assert len(twins) == 71 and (twins != np.arange(71)).sum() == 11 and (twins[learning:] >= learning).all()
    for name in ("gold", "student", "validation"):
        others = np.concatenate([v for k, v in parts.items() if k != name])
        assert len(parts[name]) and not set(twins[parts[name]]) & set(twins[others])
    taught, whole = [set(lesson.index.tolist()) for lesson in lessons], set(range(71))
    folds = [whole - seen for seen in taught]  # but for the last few images, by which students are made equally many
    for image in np.flatnonzero(twins != np.arange(71)):
        home = [f for f in range(3) if twins[image] in folds[f]]
        assert any(image in folds[f] for f in home), "the student that labels the first twin has not seen the other"
    own = [s for s in seen if s.startswith("folder: 11 images are pixel-identical to an earlier one (")]
    assert len(own) == 1 and "1 of them has another class than that one" in own[0]


def test_a_test_image_in_training_is_warned_of(tmp_path, store, probe):
    """Where the user made the split, it stays, with a warning."""
    for split, seed in (("train", 0), ("test", 1)):
        tree(tmp_path / "t" / split, each=20, seed=seed)
    (tmp_path / "t" / "test" / "cat" / "leak.png").write_bytes((tmp_path / "t" / "train" / "cat" / "0.png").read_bytes())
    record, seen = warned(lambda: run("probe", "soft_ce", data=tmp_path / "t", **probe))
    assert record.metrics["test_images"] == 41
    assert "folder: 1 image is pixel-identical to an earlier one (1 in test and in training)" + END in seen


# frozen features: size and channels before work


@pytest.mark.parametrize("name, sentence", [
    ("random_filters@99999", "random_filters@99999: 99,999 pixels are too many, 2,048 is the most"),
    ("squeezenet1_1@9999999", "squeezenet1_1@9999999: 9,999,999 pixels are too many, 2,048 is the most"),
    ("squeezenet1_1@0", "squeezenet1_1@0: '0' is not a size in pixels"),
])
def test_a_size_out_of_bounds_is_refused_by_name(name, sentence):
    with pytest.raises(ValueError) as error:
        get_backbone(name)
    assert str(error.value) == sentence


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("name, sentence", [
    ("random:squeezenet1_1@8", "backbone random:squeezenet1_1@8 cannot take images of 8x8 pixels (", ),
    ("digits_random_cnn", "backbone digits_random_cnn takes images with 1 channel, but those of folder have 3: use another backbone"),
])
def test_size_and_channels_are_checked_before_work(tmp_path, store, probe, role, name, sentence, monkeypatch):
    """No network is asked about all images, and no folder is left in the cache."""
    folder = tree(tmp_path / "t")
    monkeypatch.setattr(features, "_extract", None)
    with pytest.raises(ValueError) as error:
        run("probe", "soft_ce", data=folder, **probe | {role: name})
    assert str(error.value).startswith(sentence) and "\n" not in str(error.value)
    assert not (tmp_path / "cache" / "features").exists()


def test_no_work_folder_is_left_by_images_that_do_not_fit(tmp_path):
    images = from_folder(tree(tmp_path / "t"), "toy")
    with pytest.raises(ValueError, match="^backbone random:squeezenet1_1@8 cannot take images of 8x8 pixels"):
        frozen_features(images, "random:squeezenet1_1@8", device="cpu", progress=False)
    assert not list((tmp_path / "cache").glob("features/.*"))


def test_the_bar_is_there_before_the_first_batch(tmp_path, monkeypatch):
    """The bar is made, and after each batch it moves by as many images."""
    seen = []

    class Bar:
        def __init__(self, total, initial, **_):
            seen.append(("bar", initial, total))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, n):
            seen.append(("moved", n))

    class Counting(features.Embedder):
        def forward(self, x):
            seen.append(("images", len(x)))
            return super().forward(x)

    monkeypatch.setattr(features, "progress_bar", Bar)
    monkeypatch.setattr(features, "Embedder", Counting)
    frozen_features(images.digits()[:80], "digits_random_cnn", device="cpu")
    at = seen.index(("bar", 0, 80))
    before, asked, moved = seen[:at], seen[at + 1 :: 2], seen[at + 2 :: 2]
    assert set(before) == {("images", 1)}, "one image shows whether the network takes them"
    assert [n for _, n in asked] == [n for _, n in moved] and sum(n for _, n in moved) == 80
    assert {what for what, _ in asked} == {"images"} and {what for what, _ in moved} == {"moved"}


# CIFAR tables without the test images that are in training, too


def test_a_column_without_twins_counts_the_others(monkeypatch):
    from w2snb.reporting import tables
    from w2snb.reporting.lookup import find_parts
    from w2snb.reporting.tables import accuracy_cells, in_training

    monkeypatch.setattr(tables, "two_way", lambda *_, **__: None)  # the interval of another column
    (part,) = find_parts("cifar100_short")
    row, twins = part.rows[0], in_training("cifar100", 10_000)
    assert 0 < len(twins) < 100
    others = np.delete(np.arange(10_000), twins)
    right = [r.hits("student")[others].mean() for r in row.records]
    assert accuracy_cells(row)["without twins"].value == pytest.approx(np.mean(right))


def test_only_tables_of_the_whole_test_set_have_that_column(monkeypatch):
    from w2snb.reporting import tables
    from w2snb.reporting.lookup import find_parts
    from w2snb.reporting.tables import accuracy_cells, in_training

    monkeypatch.setattr(tables, "two_way", lambda *_, **__: None)
    (part,) = find_parts("digits_losses")
    assert "without twins" not in accuracy_cells(part.rows[0])
    assert len(in_training("cifar100", 5_000)) == len(in_training("digits", 500)) == 0


@pytest.mark.real_data
@pytest.mark.parametrize("dataset", ["cifar100", "cifar10"])
def test_stored_twins_are_those_of_the_images(dataset, monkeypatch):
    from w2snb.reporting.tables import in_training

    train, test = (load_images(dataset, split, DATA) for split in ("train", "test"))
    stored = json.loads((ROOT / "reports" / "results" / "test_twins.json").read_text())[dataset]
    assert (stored["training_key"], stored["test_key"]) == (train.key, test.key)
    assert in_training(dataset, len(test)).tolist() == np.flatnonzero(np.isin(test.hashes, train.hashes)).tolist()
