"""Files of labels as people write them: read where they have one meaning, else refused in one sentence before any work."""
import gzip
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from w2snb.core.files import array_hash
from w2snb.data.label_files import is_labels_file, read_labels_table, weak_labels
from w2snb.data.weak_labels import class_logits
from w2snb.experiments.parameters import Parameters
from w2snb.experiments.registry import resolve
from w2snb.experiments.running import label_images, run
from w2snb.models.features import BACKBONES, Backbone
from w2snb.models.small import NETWORKS
from w2snb.reporting.figures import plan_table
from w2snb.tasks import probe as tasks
from w2snb.tasks.probe import load_probe
from w2snb.tasks.probe_training import is_chance

FILES = ["cat/1.png", "dog/1.png", "dog/2.png"]
CLASSES = ("cat", "dog")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Sentences name files by their path: a short one, relative to nothing of this machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("w2snb.data.label_files.shown_path", lambda path: Path(path).name)
    return tmp_path


def labels_of(text, name="l.csv", files=FILES, classes=CLASSES):
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    logits, found = weak_labels(read_labels_table(name), files, classes)
    return [None if np.isnan(z[0]) else found[z.argmax()] for z in logits]


USUAL = "file,class\ncat/1.png,cat\ndog/1.png,cat\ndog/2.png,dog\n"
READ = {
    "usual": USUAL,
    "semicolons": USUAL.replace(",", ";"),
    "tabs": USUAL.replace(",", "\t"),
    "blanks": USUAL.replace(",", " , "),
    "File,Class": USUAL.replace("file,class", "File,CLASS"),
    "filename,label": USUAL.replace("file,class", "filename,label"),
    "image,label": USUAL.replace("file,class", "image,label"),
    "path,class": USUAL.replace("file,class", "path,class"),
    "byte order mark": "\ufeff" + USUAL,
    "utf-16": USUAL.encode("utf-16"),
    "utf-16, big end first": b"\xfe\xff" + USUAL.encode("utf-16-be"),
    "CRLF": USUAL.replace("\n", "\r\n"),
    "CR": USUAL.replace("\n", "\r"),
    "quoted": USUAL.replace("cat/1.png", '"cat/1.png"'),
    "empty lines": USUAL.replace("\n", "\n\n") + ",\n",
    "another order, and more images": "class,file\ncat,cat/1.png\ndog,cow/7.png\ndog,dog/2.png\ncat,dog/1.png\n",
    "columns that do not matter": "file,class,score\ncat/1.png,cat,.4\ndog/1.png,cat,.4\ndog/2.png,dog,.4\n",
    "an index, as pandas writes it": ",file,class\n0,cat/1.png,cat\n1,dog/1.png,cat\n2,dog/2.png,dog\n",
    "dots": USUAL.replace("cat/1", "./cat/1").replace("dog/1", "./dog//1"),
    "backslashes": USUAL.replace("/", "\\"),
    "absolute": USUAL.replace("cat/1", "/pets/cat/1").replace("dog/", "/pets/dog/"),
    "absolute on Windows": USUAL.replace("cat/1", "C:\\pets\\cat\\1"),
    "a bare name": USUAL.replace("dog/2", "2"),
    "probabilities": "file,dog,cat\ncat/1.png,.3,.7\ndog/1.png,0,1\ndog/2.png,.51,.49\n",
    "decimal commas": "file;dog;cat\ncat/1.png;0,3;0,7\ndog/1.png;0;1\ndog/2.png;0,51;0,49\n",
    "class and probabilities": "file,class,dog,cat\ncat/1.png,cat,.3,.7\ndog/1.png,cat,0,1\ndog/2.png,dog,.5,.5\n".replace(".5,.5", ".51,.49"),
}


@pytest.mark.parametrize("text", READ.values(), ids=READ)
def test_one_meaning_in_many_clothes(here, text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert labels_of(text) == ["cat", "cat", "dog"]


@pytest.mark.parametrize("name, is_one", [
    ("lab.csv", True), ("lab.CSV", True), ("lab.tsv", True), ("lab.csv.gz", True), ("Lab.Tsv.GZ", True), ("lab.txt", False),
    ("squeezenet1_1@64", False), ("timm:resnet18", False)])
def test_endings(name, is_one):
    assert is_labels_file(name) == is_one


@pytest.mark.parametrize("name, text", [("L.CSV", USUAL.encode()), ("l.tsv", USUAL.replace(",", "\t").encode()), ("l.csv.gz", gzip.compress(USUAL.encode(), mtime=0))])
def test_other_endings_are_read(here, name, text):
    assert labels_of(text, name) == ["cat", "cat", "dog"]


@pytest.mark.parametrize("name", ["lab.csv", "lab.tsv", "LAB.CSV", "lab.tsv.gz"])
def test_the_plan_calls_it_a_file_of_labels(here, name):
    given = gzip.compress(USUAL.encode(), mtime=0) if name.endswith("gz") else USUAL.encode()
    Path(name).write_bytes(given)
    plan = plan_table(resolve("probe", "soft_ce", teacher=name, data=str(here), student="mobilenetv2_100@128"), "cpu")
    assert plan.value["teacher"].endswith(f"{name}, a file of labels")


def test_the_parameter_teacher_names_the_endings():
    assert "a file of labels (.csv, .tsv)" in Parameters.model_fields["teacher"].description


def test_a_file_read_as_before_teaches_as_before(here):
    """The bytes of the logits are in the ids of runs."""
    Path("l.csv").write_text(USUAL)
    Path("p.csv").write_text("file,dog,cat\ncat/1.png,.3,.7\ndog/1.png,0,1\ndog/2.png,.5,.5\n")
    hard, soft = (array_hash(weak_labels(read_labels_table(f), FILES, CLASSES)[0]) for f in ("l.csv", "p.csv"))
    q = np.array([[0.7, 0.3], [1, 0], [0.5, 0.5]])
    assert hard == array_hash(class_logits(torch.tensor([0, 0, 1]), 2).numpy())
    assert soft == array_hash(np.log((1 - 1e-6) * q + 1e-6 / 2).astype(np.float32))


REFUSED = {  # text, whether the images have classes, the sentence
    "": ("", CLASSES, "l.csv is empty"),
    "no header": ("cat/1.png,cat\n", CLASSES,
                  "l.csv needs a first line with a column 'file' (or filename, image, path), such as file,class; it has cat/1.png, cat"),
    "no rows": ("file,class\n", CLASSES, "l.csv has a header and no rows"),
    "two columns": ("file,class,class\na,b,c\n", CLASSES, "l.csv has two columns 'class'"),
    "a cell too many": (USUAL + "dog/3.png,dog,1\n", CLASSES, "line 5 of l.csv has 3 cells, its header 2"),
    "a cell too few": (USUAL + "dog/3.png\n", CLASSES, "line 5 of l.csv has 1 cell, its header 2"),
    "an open quote": (USUAL + '"dog/3.png,dog\n', CLASSES, "l.csv is no table: line 5: unexpected end of data"),
    "latin-1": ("file,class\ncat/1.png,Käse\n".encode("latin-1"), CLASSES,
                "l.csv is not in UTF-8: save it again as UTF-8 (in Excel 'CSV UTF-8')"),
    "utf-16 without a mark": (USUAL.encode("utf-16-le"), CLASSES,
                              "l.csv is not in UTF-8: save it again as UTF-8 (in Excel 'CSV UTF-8')"),
    "twice": (USUAL + "cat/1.png,dog\n", CLASSES, "l.csv has cat/1.png twice"),
    "twice in two spellings": (USUAL + "./cat/1.png,dog\n", CLASSES, "l.csv has cat/1.png twice (as cat/1.png and as ./cat/1.png)"),
    "two meanings": ("file,class\n1.png,dog\n", CLASSES, "l.csv has 1.png, which may be cat/1.png or dog/1.png: write the folder, too"),
    "other names": ("file,class\nIMG_1.jpg,cat\nIMG_2.jpg,dog\n", CLASSES,
                    "l.csv has none of the 3 images: it has IMG_1.jpg where the folder has cat/1.png"),
    "a column of no known name": ("file,klasse\ncat/1.png,cat\n", (),
                                  "l.csv has one column beside the files, 'klasse': call it class if it holds classes"),
    "files only": ("file\ncat/1.png\n", CLASSES,
                   "l.csv needs a column 'class' (or label), or one with probabilities for each class; it has file"),
    "another class": (USUAL.replace(",dog", ",cow"), CLASSES, "line 4 of l.csv has 'cow', which is none of the 2 classes of the images"),
    "another case": (USUAL.replace(",dog", ",Dog"), CLASSES,
                     "line 4 of l.csv has 'Dog', which is none of the 2 classes of the images: did you mean 'dog'?"),
    "unknown": (USUAL.replace(",dog", ",unknown"), CLASSES,
                "line 4 of l.csv has 'unknown', which is none of the 2 classes of the images; no label is an empty cell"),
    "one class": (USUAL.replace(",dog", ",cat"), CLASSES, "l.csv has one class for all images, 'cat': there is nothing to tell apart"),
    "new classes that differ in case": (USUAL.replace("1.png,cat", "1.png,Dog", 1), (),
                                        "l.csv has classes 'Dog' and 'dog', which differ in case only: spell them alike"),
    "a class for each image": ("file,class\ncat/1.png,a\ndog/1.png,b\ndog/2.png,c\n", (),
                               "l.csv has 3 classes for 3 images, all different: does its column hold classes?"),
    "empty throughout": ("file,class\ncat/1.png,\ndog/1.png,NaN\n", CLASSES, "l.csv has a label for none of the 3 images"),
    "probabilities of other classes": ("file,cat,cow\ncat/1.png,1,0\n", CLASSES,
                                       "l.csv has probabilities of other classes than the images: 'cow' is in the file only; "
                                       "a column of classes is called class or label"),
    "some probabilities": ("file,class,cat\ncat/1.png,cat,1\n", CLASSES, "l.csv has probabilities of 'cat' and none of 'dog': give all or none"),
    "a sum of 2": ("file,cat,dog\ncat/1.png,1,1\n", CLASSES,
                   "line 2 of l.csv: probabilities must be numbers from 0 on that sum to 1, not 1, 1"),
    "below 0": ("file,cat,dog\ncat/1.png,1.5,-.5\n", CLASSES,
                "line 2 of l.csv: probabilities must be numbers from 0 on that sum to 1, not 1.5, -.5"),
    "no number": ("file,cat,dog\ncat/1.png,much,0\n", CLASSES,
                  "line 2 of l.csv: probabilities must be numbers from 0 on that sum to 1, not much, 0"),
    "not a number": ("file,cat,dog\ncat/1.png,nan,1\n", CLASSES,
                     "line 2 of l.csv: probabilities must be numbers from 0 on that sum to 1, not nan, 1"),
    "half a row": ("file,cat,dog\ncat/1.png,,1\n", CLASSES,
                   "line 2 of l.csv: probabilities must be numbers from 0 on that sum to 1, not , 1"),
}


@pytest.mark.parametrize("text, classes, sentence", REFUSED.values(), ids=REFUSED)
def test_refused_in_one_sentence(here, text, classes, sentence):
    with pytest.raises(ValueError) as caught:
        labels_of(text, classes=classes)
    assert str(caught.value) == sentence


def test_a_damaged_gzip_file_is_named(here):
    with pytest.raises(ValueError) as caught:
        labels_of(gzip.compress(USUAL.encode(), mtime=0)[:20], "l.csv.gz")
    assert str(caught.value) == "l.csv.gz is no whole gzip file"


WARNED = {
    "rows": ("file,class\ncat/1.png,cat\ndog/2.png,dog\n", ["cat", None, "dog"],
             "l.csv has no label for 1 of 3 images (1 without a row, first dog/1.png): they are left out of training and test"),
    "a row that is no image": ("file,class\ncat/1.png,cat\ndog/2.png,dog\ndgo/1.png,dog\n", ["cat", None, "dog"],
                               "l.csv has no label for 1 of 3 images (1 without a row, first dog/1.png; line 4 has dgo/1.png, which is no image): "
                               "they are left out of training and test"),
    "both": ("file,class\ncat/1.png,cat\ndog/2.png,dog\ndog/3.png,NaN\n", ["cat", None, "dog", None],
             "l.csv has no label for 2 of 4 images (1 without a row and 1 with an empty cell, first dog/1.png): they are left out of training and test"),
    "no probabilities": ("file,cat,dog\ncat/1.png,1,0\ndog/1.png,,\ndog/2.png,.4,.6\n", ["cat", None, "dog"],
                         "l.csv has no label for 1 of 3 images (1 with an empty cell, first dog/1.png): they are left out of training and test"),
    "disagreement": ("file,class,cat,dog\ncat/1.png,cat,1,0\ndog/1.png,cat,.3,.7\ndog/2.png,dog,.4,.6\n", ["cat", "dog", "dog"],
                     "l.csv: in 1 rows, first in line 3, the class is not the most probable one; the probabilities are used"),
}


@pytest.mark.parametrize("text, labels, sentence", WARNED.values(), ids=WARNED)
def test_one_warning_counts(here, text, labels, sentence):
    with pytest.warns(UserWarning) as caught:
        assert labels_of(text, files=FILES + ["dog/3.png"] * (len(labels) == 4)) == labels
    assert [str(w.message) for w in caught] == [sentence]


@pytest.mark.parametrize("cell", ["", "  ", "NaN", "nan", "None", "null"])
def test_an_empty_cell_is_no_label(here, cell):
    with pytest.warns(UserWarning, match=r"no label for 1 of 3 images \(1 with an empty cell"):
        assert labels_of(USUAL.replace(",dog", f",{cell}").replace("dog/1.png,cat", "dog/1.png,dog")) == ["cat", "dog", None]


def test_a_class_may_be_called_none(here):
    """What the images are sorted into is a class, whatever it is called."""
    assert labels_of(USUAL.replace(",dog", ",None"), classes=("None", "cat")) == ["cat", "cat", "None"]


def test_classes_may_be_called_file_and_class(here):
    text = "filename,file,class\ncat/1.png,.9,.1\ndog/1.png,.2,.8\ndog/2.png,1,0\n"
    assert labels_of(text, classes=("class", "file")) == ["file", "class", "file"]


@pytest.mark.parametrize("odd, sentence", [
    ("unknown", "l.csv: 'unknown' is taken for a class like any other; no label is an empty cell"),
    ("dgo", "l.csv: 1 of 3 classes have one image each, first 'dgo': are they spelt right?")])
def test_classes_that_may_not_be_meant_are_warned_of(here, odd, sentence):
    files = [f"{i}.png" for i in range(12)]
    names = ["cat", "dog"] * 5 + [odd, odd if odd == "unknown" else "cat"]
    with pytest.warns(UserWarning) as caught:
        assert labels_of("file,class\n" + "".join(f"{f},{c}\n" for f, c in zip(files, names)), files=files, classes=()) == names
    assert [str(w.message) for w in caught] == [sentence]


@pytest.mark.parametrize("right, classes, images, chance", [
    (0.977, 2, 18, False), (1.0, 2, 18, False), (0.5, 2, 10_000, True), (0.52, 2, 10_000, False), (0.023, 2, 18, True),
    (0.65, 3, 100, False), (0.34, 3, 100, True), (1 / 3, 3, 1_000_000, True), (0.011, 100, 50_000, True), (0.02, 100, 50_000, False)])
def test_chance(right, classes, images, chance):
    assert is_chance(right, classes, images) == chance


def test_guessing_is_seen_as_such_and_knowing_is_not():
    """Of a thousand labellers who guess, all but a few are found, for any number of classes."""
    g = np.random.default_rng(0)
    for classes, images in ((2, 50), (3, 200), (100, 1000)):
        guessed = g.binomial(images, 1 / classes, 1000) / images
        assert np.mean([is_chance(r, classes, images) for r in guessed]) > 0.99


@pytest.fixture
def pictures(tmp_path, monkeypatch, store):
    """A folder of 60 dark and light pictures, their classes, and the two halves of a file of labels."""
    monkeypatch.setenv("W2SNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("w2snb.data.label_files.shown_path", lambda path: Path(path).name)

    def means(classes):
        net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))
        net.taps = NETWORKS["digits_linear"]().taps._replace(head="2")
        return net

    monkeypatch.setitem(NETWORKS, "means", means)
    monkeypatch.setitem(BACKBONES, "means", Backbone("means", 16))
    rng, rows = np.random.default_rng(0), []
    for i in range(60):
        name = ("dark", "light")[i % 2]
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 120, (20, 20, 3)) + 120 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02d}.png")
        rows.append(f"{name}/{i:02d}.png,{name}")
    return dict(data=str(tmp_path / "pictures"), student="means", device="cpu", progress=False, epochs=2), rows


def flat(folder):
    """Take the classes of pictures away."""
    folder = Path(folder)
    for f in list(folder.glob("*/*.png")):
        f.rename(folder / f.name)
    for d in [d for d in folder.iterdir() if d.is_dir()]:
        d.rmdir()


def teacher_of(rows, data, head="file,class"):
    path = Path(data).parent / "lab.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return str(path)


@pytest.mark.parametrize("classes_known", [True, False])
def test_a_partly_labelled_set_teaches_on_what_is_labelled_and_labels_all(pictures, classes_known):
    given, rows = pictures
    if not classes_known:
        flat(given["data"])
        rows = [r.split("/")[1] for r in rows]
    teacher = teacher_of([r if i % 5 else r.split(",")[0] + "," for i, r in enumerate(rows)][:50], given["data"])
    with pytest.warns(UserWarning, match=r"lab.csv has no label for 20 of 60 images \(10 without a row and 10 with an empty cell, first .*\)"):
        record = run("probe", "soft_ce", teacher=teacher, **given)
    m = record.metrics
    to_choose_by = round(0.1 * (40 - m["test_images"])) if classes_known else 0
    assert m["student_images"] + m["test_images"] + to_choose_by == 40
    assert record.id != run("probe", "soft_ce", teacher=teacher_of(rows, given["data"]), **given).id
    with pytest.warns(UserWarning, match="20 of 60"):
        named = label_images("probe", "soft_ce", teacher=teacher_of([r for i, r in enumerate(rows) if i % 3], given["data"]), **given)
    assert len(named) == 60 and named.file.is_unique and named.student.notna().all()
    without = {r.split(",")[0] for i, r in enumerate(rows) if i % 3 == 0}
    assert set(named.file[named.teacher.isna()]) == without


def test_a_run_is_found_wherever_its_file_of_labels_lies(pictures, monkeypatch, store):
    """The content of the file is in the id, its place is not; other parameters under the id are noticed."""
    given, rows = pictures
    teacher = Path(teacher_of(rows, given["data"]))
    first = run("probe", "soft_ce", teacher=str(teacher), **given)
    monkeypatch.chdir(teacher.parent)
    moved = Path("elsewhere.csv")
    moved.write_bytes(teacher.read_bytes())
    for name in (teacher.name, str(moved)):
        assert run("probe", "soft_ce", teacher=name, **given).to_json() == first.to_json()
    path = store / f"{first.id}.json"
    path.write_text(first.to_json().replace('"lr": 0.001', '"lr": 0.5'))
    with pytest.raises(ValueError, match="its params are not those of its id"):
        run("probe", "soft_ce", teacher=teacher.name, **given)


def test_too_few_labels_of_a_class_to_learn_from(pictures, monkeypatch):
    """Enough in all, one of them to learn from: one sentence, before any feature."""
    given, rows = pictures
    monkeypatch.setattr("w2snb.tasks.probe.frozen_features", lambda *a, **k: 1 / 0)
    config = resolve("probe", "soft_ce", teacher=teacher_of(rows, given["data"]), student="means")
    (pool,), learn, test = tasks.probe_images(config, given["data"])
    light = [i for i in learn if pool.classes[pool.y[i]] == "light"][1:]
    left_out = {pool.files[i] for i in light}
    teacher = teacher_of([r for r in rows if r.split(",")[0] not in left_out], given["data"])
    with pytest.warns(UserWarning, match="has no label"), pytest.raises(ValueError) as error:
        run("probe", "soft_ce", teacher=teacher, **given)
    assert str(error.value) == "class 'light' has 1 images with a label to learn from; a probe needs 2 of each"


def test_a_full_file_deals_as_if_nobody_looked_for_gaps(pictures):
    """Parts, tests and the key of a set whose labels are complete do not depend on how gaps are handled."""
    given, rows = pictures
    config = resolve("probe", "soft_ce", teacher=teacher_of(rows, given["data"]), student="means")
    task = load_probe(config, torch.device("cpu"), given["data"])
    sets, learn, test = tasks.probe_images(config, given["data"])
    assert task.with_weak_label.all() and len(task.test_y) == len(test) == 12
    assert list(task.files) == [sets[0].files[i] for i in [*learn, *test]]
    assert sorted(torch.cat([task.parts["student"], task.parts["validation"]]).tolist()) == list(range(48))


@pytest.mark.parametrize("change, sentence", [
    (lambda rows: [r.replace("dark/", "dusk/") for r in rows[:1]], "lab.csv has none of the 60 images: it has dusk/00.png where the folder has .*"),
    (lambda rows: [r + ",1" for r in rows], "line 2 of lab.csv has 3 cells, its header 2"),
    (lambda rows: [r.replace(",light", ",Light") for r in rows[::-1]],
     r"line \d+ of lab.csv has 'Light', which is none of the 2 classes of the images: did you mean 'light'\?"),
    (lambda rows: [r for r in rows if "light" in r], "lab.csv has one class for all images, 'light': there is nothing to tell apart"),
    (lambda rows: [r for r in rows if "light" in r] + rows[:4],
     "class 'dark' has 2 images with a label; a probe needs 3 of each"),
])
def test_refused_before_any_feature(pictures, monkeypatch, change, sentence):
    given, rows = pictures
    monkeypatch.setattr(tasks, "frozen_features", lambda *a, **k: pytest.fail("features were computed"))
    teacher = teacher_of(dict.fromkeys(change(rows)), given["data"])
    with warnings.catch_warnings(), pytest.raises(ValueError, match=f"^{sentence}$") as caught:
        warnings.simplefilter("ignore")
        run("probe", "soft_ce", teacher=teacher, **given)
    assert "\n" not in str(caught.value) and not list(Path(os.environ["W2SNB_STORE"]).rglob("*.json"))


def test_a_file_that_is_no_table_is_refused_before_images_are_read(pictures, monkeypatch):
    given, rows = pictures
    monkeypatch.setattr(tasks, "load_images", lambda *a, **k: pytest.fail("images were read"))
    with pytest.raises(ValueError, match="^lab.csv has two columns 'class'$"):
        run("probe", "soft_ce", teacher=teacher_of(rows, given["data"], "file,class,class"), **given)


def test_missing_weights_are_named_before_images_are_read(pictures, monkeypatch, tmp_path):
    given, rows = pictures
    monkeypatch.setattr(tasks, "load_images", lambda *a, **k: pytest.fail("images were read"))
    monkeypatch.delenv("W2SNB_WEIGHTS", raising=False)
    with pytest.raises(FileNotFoundError, match="^weights of torchvision:squeezenet1_1 were not found: "):
        run("probe", "soft_ce", **given | dict(student="means", teacher="squeezenet1_1", weights=str(tmp_path)))


def test_a_file_of_another_kind_is_no_teacher(pictures, tmp_path):
    given, _ = pictures
    (tmp_path / "lab.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"lab.xlsx'\S*: by its ending this is no file of labels; those end in .csv, .tsv, .csv.gz, .tsv.gz$"):
        run("probe", "soft_ce", teacher=str(tmp_path / "lab.xlsx"), **given)


@pytest.mark.parametrize("swap, warned", [(False, False), (True, True)])
def test_a_good_labeller_of_two_classes_is_not_called_chance(pictures, swap, warned):
    """Two classes: 97 % right is no chance; the two exchanged are."""
    given, rows = pictures
    other = {"dark": "light", "light": "dark"}
    wrong = [r if i and not swap else f"{r.split(',')[0]},{other[r.split(',')[1]]}" for i, r in enumerate(rows)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run("probe", "soft_ce", teacher=teacher_of(wrong, given["data"]), **given)
    sentences = [str(w.message).partition("lab.csv ")[2] for w in caught if "chance" in str(w.message)]
    assert sentences == ["is right on 0.0 % of the student's 43 images, and chance on 50.0 %: do its classes stand in another order, "
                         "or its labels belong to other images?"] * warned


def test_a_tilde_is_the_home_folder(pictures, monkeypatch):
    given, rows = pictures
    monkeypatch.setenv("HOME", str(Path(given["data"]).parent))
    teacher_of(rows, given["data"])
    config = resolve("probe", "soft_ce", teacher="~/lab.csv", data="~/pictures", student="means")
    assert config.teacher == str(Path(given["data"]).parent / "lab.csv")
    assert run("probe", "soft_ce", teacher="~/lab.csv", **given | dict(data="~/pictures")).status == "ok"
