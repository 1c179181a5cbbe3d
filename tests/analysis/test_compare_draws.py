"""Tables with more bootstrap draws than usual: all intervals have them, and the report says so."""

import json
import sys

import numpy as np
import pytest
from synthetic_studies import add_group

import evaluate
from analysis.compare.collecting import Extras, collect
from analysis.compare.report import render
from analysis.statistics import compare, interval, resampling, stratified_interval
from analysis.statistics.bootstrap import bootstrap_indices

LEVELS = {"standard": 100.0, "redo": 140.0, "fresh_oracle": 150.0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return add_group(tmp_path_factory.mktemp("draws"), LEVELS)


def test_intervals_take_the_draws_of_the_table_that_they_are_in():
    values, other = np.arange(9.0) ** 2, np.arange(9.0)
    few, usual = interval(values, num_resamples=300), interval(values)
    pairs = dict(enumerate(values)), dict(enumerate(other))
    expected = compare(*pairs, num_resamples=300)
    with resampling(300):
        assert interval(values) == few != usual
        assert interval(values, num_resamples=10_000) == usual
        assert stratified_interval({"a": values}) == few
        assert compare(*pairs) == expected
    assert interval(values) == usual
    with pytest.raises(ValueError, match="give at least 1"), resampling(0):
        pass


def test_every_interval_of_a_report_has_them(runs, monkeypatch):
    asked = set()

    def watched(num_runs, num_resamples, seed):
        asked.add(num_resamples)
        return bootstrap_indices(num_runs, num_resamples, seed)

    for name, module in list(sys.modules.items()):
        if name.startswith("analysis.") and hasattr(module, "bootstrap_indices"):
            monkeypatch.setattr(module, "bootstrap_indices", watched)
    study = collect([runs], extras=Extras(draws=1_234))
    study.about["out"] = study.about["name"] = "x"  # type: ignore[index]
    render(study, "x")
    assert asked == {1_234, 2_000}  # the second for curves and correlations


def test_the_report_says_how_many_there_are(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["compare", str(runs), "--out"]
    assert evaluate.main([*words, "usual"]) == evaluate.EXIT_DONE
    assert "intervals: 10,000 bootstrap draws" in (tmp_path / "usual" / "report.md").read_text()
    assert "draws" not in json.loads((tmp_path / "usual" / "data" / "about.json").read_text())
    assert evaluate.main([*words, "more", "--draws", "1500"]) == evaluate.EXIT_DONE
    text = (tmp_path / "more" / "report.md").read_text()
    assert "intervals: 1,500 bootstrap draws of whole runs, 2,000 for curves" in text
    assert "--draws 1500" in text
    again = ["compare", "--from", "more/data", "--out", "more"]
    assert evaluate.main(again) == evaluate.EXIT_DONE
    assert (tmp_path / "more" / "report.md").read_text() == text


@pytest.mark.parametrize("number", ["999", "1e4", "-5", "many"])
def test_too_few_draws_are_refused(number, capsys):
    assert evaluate.main(["compare", "runs", "--out", "x", "--draws", number]) == 2
    assert "is not a whole number of 1000 or more" in capsys.readouterr().err


def test_stored_data_keep_their_draws(tmp_path, capsys):
    words = ["compare", "--from", str(tmp_path), "--out", "x", "--draws", "5000"]
    assert evaluate.main(words) == 2
    assert "draws stored data again" in capsys.readouterr().err
