"""Small copies of runs give the same report as the runs, whatever else they leave out."""

import csv
import shutil

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_studies import add_group, add_run, run_place, write_csv

import evaluate
from analysis.compare.arms import CannotCompare
from analysis.compare.before import values_before
from analysis.compare.collecting import collect, gather
from analysis.compare.condensed import condense, from_rows, record_rows, return_rows
from analysis.compare.copies import all_copies
from analysis.continual import (
    Episodes,
    binned_returns,
    recovery_shares,
    trailing_means,
    trailing_records,
)
from analysis.evaluation import write_results
from analysis.run_files import NotARun
from analysis.runs import find_runs, load_runs


def wide_progress(path):
    """More columns, as real runs have, and cells that are empty in most rows."""
    with (path / "progress.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    seed = int(path.name.removeprefix("seed_"))
    for place, row in enumerate(rows):
        row["window/policy/all/dead_fraction"] = repr(0.1 + 0.017 * place ** (1.5 + 0.1 * seed))
        row["weights/policy/layers.0/weight_magnitude"] = repr(0.3 + place / 7)
        row["probe/policy/all/dormant_fraction"] = repr(place / 9) if place % 3 == 0 else ""
        row["entropy"] = repr(5.0 - place / 3)
    write_csv(path / "progress.csv", list(rows[0]), rows)


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A report of runs, one that failed among them, and one of their copies."""
    root = tmp_path_factory.mktemp("copied")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        levels = {"standard": 100.0, "redo": 120.0, "fresh_oracle": 150.0}
        folder = add_group(root, levels, seeds=range(3))
        add_run(root, "redo", 3, until=2_300, status="failed")
        for arm in ("standard", "fresh_oracle"):
            add_run(root, arm, 3)
        for path in find_runs(folder):
            wide_progress(path)
        (folder / "commands.txt").write_text("python train.py -m experiment=x seed=0,1\n")
        words = ["compare", "runs", "--out", "results/demo", "--export-data", "small"]
        assert evaluate.main(words) == evaluate.EXIT_DONE
        first = files_of(root / "results" / "demo")
        assert evaluate.main(["compare", "small", "--out", "results/demo"]) == evaluate.EXIT_DONE
        second = files_of(root / "results" / "demo")
    return root, first, second


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_copies_give_the_same_report_byte_for_byte(copied):
    _, first, second = copied
    assert sorted(first) == sorted(second)
    command = b"evaluate.py compare runs --out results/demo --export-data small"
    for name, data in first.items():
        expected = data.replace(command, b"evaluate.py compare small --out results/demo")
        assert second[name] == expected, name
    assert b"redo seed 3 at step 2,300" in first["report.md"]
    assert b"window/policy/all/dead_fraction" in first["report.md"]


def test_copies_are_runs_without_episodes_and_checkpoints(copied):
    root, _, _ = copied
    place = root / "small" / "study" / "slippery_ant" / "ppo-mlp-redo" / "seed_1"
    assert {path.name for path in place.iterdir()} == {
        *("config.yaml", "done.json", "environment.json", "events.jsonl"),
        *("progress.csv", "records.csv", "returns.csv", "timing.csv"),
    }
    whole = load_runs(run_place(root, "redo", 1), ["action_std", "entropy"])
    small = load_runs(place, ["action_std", "entropy"])
    column = whole.where(metric="action_std").column("value")
    np.testing.assert_array_equal(small.where(metric="action_std").column("value"), column)
    # Of other diagnostics only the last values before the three switches are kept.
    assert small.where(metric="entropy").column("env_steps").tolist() == [1_000, 2_000, 3_000]
    assert "weights/policy/layers.0/weight_magnitude" not in (place / "progress.csv").read_text()


def test_a_copy_of_a_copy_is_the_same(copied, tmp_path, monkeypatch):
    root, _, _ = copied
    monkeypatch.chdir(tmp_path)
    words = ["compare", str(root / "small"), "--out", "out", "--export-data", "again"]
    assert evaluate.main(words) == evaluate.EXIT_DONE
    assert files_of(tmp_path / "again") == files_of(root / "small")


def test_some_of_the_copies_may_be_compared(copied):
    root, _, _ = copied
    arms = [
        root / "small" / "study" / "slippery_ant" / f"ppo-mlp-{a}" for a in ("standard", "redo")
    ]
    originals = [root / "runs" / "study" / "slippery_ant" / path.name for path in arms]
    small, whole = collect(arms), collect(originals)
    for arm in ("standard", "redo"):
        for key, run in whole.runs[arm].items():
            for quantity, values in run.values.items():
                np.testing.assert_array_equal(small.runs[arm][key].values[quantity], values)


def test_a_set_may_grow_by_copies_that_are_made_later(copied, tmp_path, monkeypatch):
    root, _, _ = copied
    monkeypatch.chdir(tmp_path)
    arms = ("standard", "redo", "fresh_oracle")
    for lot, seeds in (("first", [0]), ("later", [1, 2])):
        paths = [str(run_place(root, arm, seed)) for arm in arms for seed in seeds]
        assert evaluate.main(["compare", *paths, "--out", lot, "--export-data", "grown"]) == 0
    grown = collect([tmp_path / "grown"])
    whole = collect([run_place(root, arm, seed) for arm in arms for seed in range(3)])
    assert grown.runs.keys() == whole.runs.keys()
    for arm, runs in whole.runs.items():
        assert grown.runs[arm].keys() == runs.keys()
        for key, run in runs.items():
            for quantity, values in run.values.items():
                np.testing.assert_array_equal(grown.runs[arm][key].values[quantity], values)


def test_returns_in_chosen_worlds_are_no_success_on_tasks(tmp_path):
    """`evaluate.py run` leaves a file of the same name in runs of walking robots."""
    folder = add_group(tmp_path, {"standard": 100.0, "redo": 120.0}, seeds=range(2))
    path = run_place(tmp_path, "standard", 0)
    write_results(path / "evaluation.json", [], {"run": str(path)})
    study = collect([folder])
    assert (study.about["tasks"], study.about["not_evaluated"]) == ([], [])
    gathered = gather([folder])
    copies = all_copies(gathered.members, gathered.condensed, tmp_path / "small")
    assert not any(name.endswith("evaluation.json") for name in copies)


def test_copies_of_another_length_and_damaged_ones_are_refused(copied, tmp_path, capsys):
    root, _, _ = copied
    shutil.copytree(root / "small", tmp_path / "small")
    place = tmp_path / "small" / "study" / "slippery_ant" / "ppo-mlp-redo" / "seed_0"
    (place / "done.json").unlink()
    text = (place / "returns.csv").read_text()
    (place / "returns.csv").write_text(text.replace("env_steps,0,4000", "env_steps,0,2000"))
    with pytest.raises(CannotCompare, match=r"small copy that holds scores of 4,000 steps"):
        collect([tmp_path], partial=True)
    (place / "returns.csv").write_text(text.replace("lifetime", "lifetimes"))
    with pytest.raises(NotARun, match=r"returns\.csv is damaged: it lacks lifetime"):
        collect([tmp_path])
    words = ["compare", str(root / "small"), "--out", str(tmp_path / "out")]
    code = evaluate.main([*words, "--export-data", str(root / "small")])
    assert code == evaluate.EXIT_CONFIGURATION
    assert "would overwrite" in capsys.readouterr().err


def test_a_long_run_is_small(tmp_path):
    """20 million steps, 60,000 episodes, a row every 10,240 steps."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0.0, 1.0, 200_000)

    def score(level, seed, regime, share):
        return 100.0 * share + noise[int(share * 6_000) + 6_000 * regime]

    size = {"num_regimes": 10, "interval": 2_000_000, "points": 1_953, "episodes_per_regime": 6_000}
    folder = add_group(tmp_path, {"standard": 1.0}, seeds=range(1), score=score, **size)
    path = find_runs(folder)[0]
    with (path / "progress.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        row |= {name: repr(rng.normal()) for name in ("action_std", "entropy", "approx_kl")}
        row |= {"window/policy/all/dead_fraction": repr(rng.random())}
        row |= {"weights/policy/all/weight_magnitude": repr(rng.random())}
    write_csv(path / "progress.csv", list(rows[0]), rows)
    out = ["--out", str(tmp_path / "out"), "--export-data", str(tmp_path / "small")]
    assert evaluate.main(["compare", str(folder), *out]) == evaluate.EXIT_DONE
    assert sum(len(data) for data in files_of(tmp_path / "small").values()) < 300_000


# Condensing -----------------------------------------------------------------------------------

LISTS = st.lists(
    st.tuples(st.floats(-100, 100), st.integers(1, 40), st.booleans()), min_size=1, max_size=60
)


def episodes_from(rows):
    returns, lengths, cut = zip(*rows, strict=True)
    ends = np.cumsum(lengths).astype(float)
    regimes = (ends > ends[-1] / 2).astype(int)
    return Episodes.from_rows(returns, lengths, ends, regimes, cut)


@settings(max_examples=50, deadline=None)
@given(LISTS, st.floats(-100, 100))
def test_records_say_when_any_threshold_is_reached(rows, threshold):
    episodes = episodes_from(rows)
    end = float(episodes.end_steps[-1])
    boundaries = np.array([0.0, np.floor(end / 2), end + 1])
    _, regimes, steps, returns = trailing_records(episodes, boundaries)
    found = recovery_shares((regimes, steps, returns), boundaries, np.full(2, threshold))
    for regime in (0, 1):
        begin, stop = boundaries[regime : regime + 2]
        window = 0.02 * (stop - begin)
        ends, means = trailing_means(episodes.complete(regime), begin, window)
        reached = [
            (t - begin) / (stop - begin)
            for t, mean in zip(ends, means, strict=True)
            if mean >= threshold and t <= stop
        ]
        never = np.inf if (ends <= stop).any() else np.nan  # too few episodes say nothing
        np.testing.assert_equal(found[regime], reached[0] if reached else never)


def test_many_records_are_thinned_and_recovery_is_at_most_a_stretch_late():
    ends = np.arange(1.0, 5_001.0)
    episodes = Episodes.from_rows(ends, np.ones(5_000), ends, np.zeros(5_000), np.zeros(5_000))
    boundaries = np.array([0.0, 5_000.0])
    _, regimes, steps, returns = trailing_records(episodes, boundaries)
    assert len(regimes) <= 2_000
    times, means = trailing_means(episodes, 0.0, 100.0)
    for threshold in (120.0, 1_234.5, 4_900.0):
        exact = times[means >= threshold][0] / 5_000
        late = recovery_shares((regimes, steps, returns), boundaries, np.array([threshold]))[0]
        assert exact <= late <= exact + 1 / 2_000


@settings(max_examples=50, deadline=None)
@given(LISTS, st.sampled_from([1, 2, 4, 5, 10, 20, 25, 50, 100]))
def test_condensed_episodes_read_back_and_give_the_same_curve(rows, num_bins):
    episodes = episodes_from(rows)
    end = int(episodes.end_steps[-1])
    boundaries = np.array([0.0, end / 2, end])
    condensed = condense(episodes, boundaries, end, windows=False, env_steps=end)
    values = {}
    for name, _, value in return_rows(condensed):
        values.setdefault(name, []).append(float(repr(value)))
    again = from_rows(values, record_rows(condensed))
    for name, value in vars(condensed).items():
        np.testing.assert_array_equal(getattr(again, name), value)
    edges = np.linspace(0.0, end, 101)[:: 100 // num_bins]
    np.testing.assert_allclose(
        condensed.curve(num_bins), binned_returns(episodes, edges), rtol=1e-12, atol=1e-12
    )


def test_values_before_switches_are_the_last_of_their_regime():
    header = ["env_steps", "a", "b"]
    rows = [["10", "1", "5"], ["20", "2", ""], ["30", "3", ""], ["40", "", ""], ["50", "9", "7"]]
    found = values_before(header, rows, (0, 20, 45), ["a", "b"])
    np.testing.assert_array_equal(found["a"], [np.nan, 2.0, 3.0])
    np.testing.assert_array_equal(found["b"], [np.nan, 5.0, np.nan])


def test_runs_that_differ_in_how_they_are_run_may_be_compared(copied, tmp_path):
    root, _, _ = copied
    shutil.copytree(root / "runs", tmp_path / "runs")
    file = run_place(tmp_path, "redo", 0) / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config["env"]["num_workers"] = 3
    file.write_text(yaml.safe_dump(config))
    assert len(collect([tmp_path / "runs"]).runs["redo"]) == 4
