"""The report: made again byte for byte, self-contained, quick, and refused in one sentence."""

import csv
import html.parser
import io
import shutil
import time

import numpy as np
import pytest
from PIL import Image
from synthetic_studies import add_group, add_run

import evaluate
from analysis.compare import compare_runs, report_again
from analysis.compare.command import write_files
from analysis.compare.report import Text, to_html, to_markdown
from analysis.compare.study import load_study, study_files
from analysis.compare.tables import Table
from analysis.run_files import NotARun
from analysis.storage import StorageError

LEVELS = {"standard": 100.0, "l2": 120.0, "redo": 90.0}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    folder = add_group(root, LEVELS, seeds=range(4))
    add_run(root, "redo", 4, until=1_500, status="failed")
    for arm in ("standard", "l2"):
        add_run(root, arm, 4)
    for seed in range(5):
        add_run(root, "fresh_oracle", seed, level=200.0)
    (folder / "commands.txt").write_text("python train.py -m experiment=x seed=0,1\n")
    out = root / "results" / "demo"
    assert evaluate.main(["compare", str(folder), "--out", str(out)]) == evaluate.EXIT_DONE
    return out


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_everything_is_there(report):
    names = set(files_of(report))
    figures = ("panels", "regimes", "recovery", "profile", "improvement", "action_std")
    assert names == {
        *("report.md", "report.html", "results.csv", "course.csv"),
        *("gate.csv", "correlations.csv"),
        *("data/about.json", "data/runs.csv", "data/members.csv"),
        *(f"figures/{name}.{kind}" for name in figures for kind in ("png", "svg")),
    }
    for name in figures:
        with Image.open(report / "figures" / f"{name}.png") as image:
            assert image.width > 500
            assert len(np.unique(np.asarray(image.convert("L")))) > 10


def test_stored_data_give_the_same_report_byte_for_byte(report, tmp_path, capsys):
    shutil.copytree(report / "data", tmp_path / "data")
    words = ["compare", "--from", str(tmp_path / "data"), "--out", str(tmp_path / "again")]
    assert evaluate.main(words) == evaluate.EXIT_DONE
    assert files_of(tmp_path / "again") == files_of(report)
    assert "l2" in capsys.readouterr().out
    report_again(tmp_path / "data")
    assert (tmp_path / "report.md").read_bytes() == (report / "report.md").read_bytes()


def test_data_read_back_exactly(report):
    study = load_study(report / "data")
    assert study_files(study) == {
        path.name: path.read_bytes() for path in (report / "data").iterdir()
    }
    assert study.runs["redo"][4, 4].status == "failed"
    assert len(study.matrix("standard", "regime/area")) == 5


def test_the_markdown_says_what_a_reader_needs(report):
    text = (report / "report.md").read_text()
    for words in (
        "failed runs count as results: redo seed 4 at step 1,500",
        "exploratory: 5 seeds per arm",
        "Validity gate (fresh_oracle against standard)",
        "python train.py -m experiment=x seed=0,1",
        "python evaluate.py compare ",
        "--from ",
        "machine: Test processor with 2 cores",
        "commit: 0123456789abcdef",
        "optimizer.weight_decay=0.001",
        "uses task boundary",
        "overhead (not paired)",
        "![",
    ):
        assert words in text, words
    for line in text.splitlines():
        if line.startswith("!["):
            assert (report / line.partition("](")[2].rstrip(")")).is_file()
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len(tables) > 20


class _Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_no_other_file(report):
    page = _Links()
    page.feed((report / "report.html").read_text())
    assert len(page.sources) == 6
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert page.open == []


def test_text_cannot_break_out_of_its_cell():
    table = Table("a<b", ("x|y",), (("<script>|",),), "")
    assert "<script>" not in to_html([table, Text("<script>")], "<script>", {})
    assert "| <script>\\| |" in to_markdown([table])


def test_results_csv_has_the_mandatory_columns(report):
    rows = list(csv.DictReader(io.StringIO((report / "results.csv").read_text())))
    assert [row["arm"] for row in rows] == ["standard", "l2", "redo", "fresh_oracle"]
    for row in rows:
        assert row["uses_task_boundary"] in ("yes", "no")
        assert row["resets_optimizer"] in ("no", "entries (zero_moments)", "all")
        assert float(row["overhead"]) == 0.0
    assert (rows[2]["seeds"], rows[2]["failed"]) == ("5", "1")


def test_four_methods_with_ten_seeds_take_less_than_ten_seconds(tmp_path):
    arms = {"standard": 100.0, "l2": 110.0, "redo": 120.0, "continual_backprop": 130.0}
    settings = {"num_regimes": 10, "points": 200, "episodes_per_regime": 100}
    folder = add_group(tmp_path, arms, seeds=range(10), **settings)
    start = time.process_time()
    compare_runs([folder], tmp_path / "out")
    assert time.process_time() - start < 10.0
    assert sum(p.stat().st_size for p in (tmp_path / "out" / "data").iterdir()) < 2_000_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare", "RUNS"], "--out"),
        (["compare", "--from", "DATA", "RUNS"], "takes no runs"),
        (["compare", "--from", "DATA", "--baseline", "l2"], "takes no runs"),
        (["compare", "--from", "DATA", "--switching-verified", "x"], "takes no runs"),
        (["compare", "--from", "RUNS"], "holds no data of a comparison"),
        (["compare", "--from", "DAMAGED"], "holds damaged data"),
        (["compare", "--outt", "x"], "unrecognized arguments"),
    ],
)
def test_wrong_command_lines_are_refused_in_one_sentence(report, tmp_path, capsys, words, said):
    damaged = tmp_path / "damaged"
    shutil.copytree(report / "data", damaged)
    text = (damaged / "runs.csv").read_text()
    (damaged / "runs.csv").write_text(text.replace("world_seed", "seed_of_world", 1))
    places = {"RUNS": tmp_path, "DATA": report / "data", "DAMAGED": damaged}
    code = evaluate.main([str(places.get(word, word)) for word in words])
    error = capsys.readouterr().err
    assert code == evaluate.EXIT_CONFIGURATION
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_data_without_runs_of_an_arm_are_refused(report, tmp_path):
    shutil.copytree(report / "data", tmp_path / "data")
    lines = (tmp_path / "data" / "members.csv").read_text().splitlines()
    kept = [line for line in lines if not line.startswith("l2")]
    (tmp_path / "data" / "members.csv").write_text("\n".join(kept) + "\n")
    with pytest.raises(NotARun, match="an arm has no runs"):
        load_study(tmp_path / "data")


def test_a_disk_that_refuses_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*report\.md"):
        write_files(tmp_path / "file", {"report.md": b"text"})
