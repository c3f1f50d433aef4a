"""What w2snb_report writes: the same twice, traceable, self-contained, and never a number where it does not belong."""
import hashlib
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from w2snb.core.files import content_hash, project_root
from w2snb.experiments.registry import resolve
from w2snb.experiments.tables import TABLES
from w2snb.reporting.figures import markdown_text, to_markdown
from w2snb.reporting.lookup import find_parts, table_parts
from w2snb.reporting.regenerating import all_sheets, main, report, run_notebook, write_table
from w2snb.reporting.tables import make_sheets, sheet_markdown
from w2snb.results.records import Store, read_records

NAMES = ["digits_labels", "cifar100_pairs"]
PAIR = "cifar100-resnet56_from_resnet20"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    report(NAMES, out)
    return out


def hashes(folder):
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_another_process_writes_the_same_bytes(written, tmp_path):
    command = [sys.executable, "-c", "from w2snb.reporting.regenerating import main; main()", *NAMES, "--committed", "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    assert hashes(tmp_path) == hashes(written)
    assert {p.suffix for p in tmp_path.rglob("*") if p.is_file()} == {".md", ".csv", ".tex", ".svg", ".png", ".html"}


@pytest.mark.quick
def test_page_needs_nothing_else(written):
    page = (written / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page) and "<script" not in page and "@import" not in page
    assert "<math" in page and page.count("<svg") == 0
    assert set(re.findall(r'href="#(.*?)"', page)) <= set(re.findall(r'id="(.*?)"', page))


def test_every_number_leads_to_its_records(written):
    """Means recomputed from the lines a cell names."""
    table = pd.read_csv(written / "tables" / "digits_labels.csv")
    cells = table[(table.column == "last epoch") & table.sheet.str.endswith("students")]
    lines = (project_root() / "reports" / "results" / "digits.jsonl").read_text().splitlines()
    assert len(cells) == 6
    for cell in cells.itertuples():
        file, numbers = cell.records.split(":")
        assert file == "reports/results/digits.jsonl"
        wanted = [n for part in numbers.split(",") for n in range(int(part.split("-")[0]), int(part.split("-")[-1]) + 1)]
        students = [json.loads(lines[n - 1])["metrics"]["student"] for n in wanted]
        assert len(students) == 10 and sum(students) / 10 == pytest.approx(cell.value)


def stored_pair(folder, seeds=(0, 1), **overrides):
    """A store with runs of a pair of the paper, made up from runs on digits."""
    store, base = Store(folder), read_records(project_root() / "reports" / "results" / "digits-cnn_from_cnn.jsonl")
    for method in ("kd", "acd"):
        for seed in seeds:
            params = resolve(PAIR, method, seed, **overrides).plain()
            r = next(r for r in base if r.method == "acd" and r.seed == 100 + seed)
            history = {k: (v * 3)[: params["training"]["epochs"]] for k, v in r.history.items()}
            store.put(r.model_copy(update=dict(id=content_hash([method, seed, overrides]), experiment=PAIR, method=method, seed=seed, params=params, history=history)))
    return store


@pytest.mark.quick
def test_new_records_are_taken_up(tmp_path):
    (references, students) = all_sheets(["cifar100_pairs"], stored_pair(tmp_path))["cifar100_pairs"]
    line = students.lines.loc[(PAIR, "AdaptConf")]
    assert line["n"].text == "2 of 5" and line["published"].text == "74.17 (epoch unknown)"
    assert line["last - published"].value == pytest.approx(line["last epoch"].value - 0.7417)
    assert line["best - published"].value == pytest.approx(line["best epoch (seeds only)"].value - 0.7417)
    assert line["student - KD"].value == 0 and any("missing" in note for note in students.notes)
    assert students.lines.loc[(PAIR, "AugConf"), "last epoch"].text == "-"
    assert references.lines.loc[(PAIR, "student alone (= ceiling)"), "last epoch"].value is not None


def test_short_runs_are_not_the_published_ones(tmp_path):
    store = stored_pair(tmp_path, epochs=2)
    assert not any(row.runs for part in find_parts("cifar100_pairs", store) for row in part.rows)
    (part,) = find_parts(PAIR, store)
    assert part.altered == "epochs=2"
    for sheet in make_sheets(PAIR, "short", [part]):
        assert "published" not in sheet.texts and "epochs=2" in sheet.title


def test_short_and_full_runs_are_two_parts(tmp_path):
    stored_pair(tmp_path), stored_pair(tmp_path, epochs=2)
    parts = find_parts(PAIR, Store(tmp_path))
    assert [(p.altered, sorted(r.name for r in p.rows), {len(r.runs) for r in p.rows}) for p in parts] == [
        ("", ["AdaptConf", "KD"], {2}), ("epochs=2", ["AdaptConf", "KD"], {2})]  # fmt: skip


def test_a_table_with_other_circumstances_has_no_published_numbers():
    short = replace(TABLES["cifar100_pairs"], experiments=(PAIR,), overrides=dict(epochs=30))
    for sheet in make_sheets("short", "short", table_parts(short)):
        assert "published" not in sheet.texts


@pytest.mark.quick
def test_names_are_escaped(tmp_path):
    from w2snb.reporting.pages import sheet_html

    sheet = make_sheets("digits_labels", "<script>", find_parts("digits_labels"))[1]
    sheet.notes = ["<img src=x>"]
    assert "<script>" not in sheet_html(sheet) and "<img" not in sheet_html(sheet)


def test_titles_are_escaped_on_the_page(tmp_path, monkeypatch):
    """In the list of chapters, in headings and in the texts of pictures."""
    monkeypatch.setitem(TABLES, "digits_labels", replace(TABLES["digits_labels"], title=HOSTILE))
    page = report(["digits_labels"], tmp_path).read_text()
    assert "<img src=x" not in page and page.count("&lt;img src=x onerror=alert(1)&gt;") == 3


HOSTILE = "<img src=x onerror=alert(1)>|.csv"


def test_a_name_in_a_record_is_text_in_markdown(tmp_path):
    """Cells, headings, notes and the list of records: no HTML begins in them, and no cell of a table ends."""
    bases = [r for r in read_records(project_root() / "reports" / "results" / "digits.jsonl") if r.seed in (100, 101)]
    store = Store(tmp_path / "store")
    for r in bases:
        params = r.params | dict(teacher=HOSTILE)
        store.put(r.model_copy(update=dict(id=content_hash([r.method, r.seed]), params=params)))
    sheets = make_sheets("digits", "Digits", find_parts("digits", store))
    hostile = next(s for s in sheets if HOSTILE in s.title and s.name.endswith("students"))
    hostile.notes.append(HOSTILE)
    write_table("digits", sheets, tmp_path)
    text = (tmp_path / "tables" / "digits.md").read_text()
    assert not re.findall("<(?!a id=|/a>)[A-Za-z/!?]", text)
    assert text.count(markdown_text(HOSTILE)) >= 4 and HOSTILE.lstrip("<") not in text
    for line in text.splitlines():
        assert not line.startswith("## ") or "<" not in line


@pytest.mark.quick
@pytest.mark.parametrize("cell, shown", [
    (HOSTILE, r"&lt;img src=x onerror=alert(1)>\|.csv"), ("</td><b>", "&lt;/td>&lt;b>"), ("<!-- x", "&lt;!-- x"),
    ("< .001", "< .001"), ("1 < 2 > 0, R&D", "1 < 2 > 0, R&D"), (3, "3")])  # fmt: skip
def test_cells_of_markdown_tables(cell, shown):
    """In cells, in the index and among the columns' names, in both writers of tables."""
    table = pd.DataFrame({cell: [cell]}, index=pd.Index([cell], name="what"))
    assert to_markdown(table) == f"| what | {shown} |\n| --- | --- |\n| {shown} | {shown} |"
    sheet = make_sheets("digits_labels", "Labels", find_parts("digits_labels"))[0]
    sheet.lines = sheet.lines.iloc[:1, :1].set_axis([cell], axis=1).map(lambda c: c._replace(text=str(cell))).set_axis([cell])
    assert sheet_markdown(sheet).splitlines()[2] == f"| {shown} | {shown} |"


@pytest.mark.quick
@pytest.mark.parametrize("said, sentence", [(["digits_loses"], "did you mean digits_losses?"), (["--store", "nowhere"], "there is no store nowhere")])
def test_bad_input_is_one_sentence(said, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["w2snb_report", *said, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert sentence in f"{stop.value} {capsys.readouterr().err}" and not (tmp_path / "out").exists()


def test_a_notebook_that_hangs_is_stopped(tmp_path):
    """Nothing is written, and its kernel ends, too."""
    path, pid, v4 = tmp_path / "hangs.ipynb", tmp_path / "pid", nbformat.v4
    code = f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(1000)"
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(code)]), path)
    with pytest.raises(RuntimeError, match="was not executed: stopped after 8 s"):
        run_notebook(path, tmp_path / "out.ipynb", timeout=8)
    assert not (tmp_path / "out.ipynb").exists()
    for _ in range(300):  # the kernel looks after its parent once a second
        if not pid.exists() or not Path(f"/proc/{pid.read_text()}").exists():
            break
        time.sleep(0.2)
    else:
        pytest.fail("the kernel is still running")


@pytest.mark.quick
def test_one_table_that_cannot_be_made(tmp_path, monkeypatch, capsys):
    """Runs on different images do not get into one line, and the other tables are made; a damaged file is named."""
    (base,) = [r for r in read_records(project_root() / "reports" / "results" / "digits.jsonl") if (r.method, r.seed) == ("kd", 100)][:1]
    store = Store(tmp_path)
    for seed, data in enumerate(("these", "those")):
        params = resolve("digits", "kd", seed=seed).plain()
        about = base.provenance | dict(data=data, result_versions=dict(data=1))
        store.put(base.model_copy(update=dict(id=content_hash(params), seed=seed, params=params, provenance=about)))
    store.path("0" * 16).write_text("{")
    monkeypatch.setitem(TABLES, "odd", replace(TABLES["digits_losses"], name="odd", methods=("kd",), seeds=(0, 1), baseline=None))
    made = all_sheets(["odd", "digits_labels"], store)
    assert not made["odd"] and made["digits_labels"]
    said = capsys.readouterr().err
    assert "odd is left out: digits was computed on different images" in said and "damaged, and counted as missing: 0000000000000000.json;" in said
    (a, b) = [p for p in find_parts("digits", store) if "data and code" in p.altered]
    assert a.rows[0].seeds != b.rows[0].seeds


@pytest.mark.quick
def test_sources_of_the_site(tmp_path, monkeypatch):
    """Every chapter of the table of contents is there, the results with their tables; a folder that is no site is not replaced."""
    from w2snb.reporting import site

    made = {"digits_labels": make_sheets("digits_labels", "Labels", find_parts("digits_labels"))}
    monkeypatch.setattr(site, "all_sheets", lambda *_: made)

    def one_page(names, out, *_, **__):
        out.mkdir()
        (out / "report.html").write_text("report")
        return out / "report.html"

    monkeypatch.setattr(site, "report", one_page)
    folder = tmp_path / "sources"
    folder.mkdir()
    site.write_sources(folder)
    chapters = [c["file"] for part in json.loads((folder / "_toc.yml").read_text())["parts"] for c in part["chapters"]]
    assert len(chapters) == len(set(chapters)) > 40
    assert all(list(folder.glob(f"{c}.*")) for c in chapters)
    assert (folder / "results.md").read_text().count("<table") == len(made["digits_labels"])
    assert not (folder / "made").exists() and (folder / "extra" / "report.html").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="is no site, and is not replaced"):
        site.build_site(tmp_path / "mine")
