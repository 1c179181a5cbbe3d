"""What arms cost: paired overheads of the benchmark, parameters and memory in the tables."""

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from synthetic_studies import add_group, add_run

import evaluate
from analysis.compare import Extras
from analysis.compare.collecting import collect, gather
from analysis.compare.fairness import fairness_table
from analysis.compare.flat_results import results_csv
from analysis.compare.overheads import read_overheads
from analysis.compare.presets import chosen_presets
from analysis.compare.scores import score
from analysis.compare.tables import score_table
from analysis.ending import earlier, run_costs
from analysis.process_memory import PeakMemory
from analysis.run_files import NotARun
from analysis.throughput.plan import GRADIENT_STEPS_PER_ENV_STEP
from analysis.throughput.section import Section, write
from analysis.tuning import Selection
from analysis.tuning_results import Conditions, Found, write_presets
from configs import compose
from configs.compose import compose_run

PAIRS = {
    "method=redo_published": [(1.0, 1.02), (1.0, 1.05), (2.0, 2.06)],
    "optimizer=ns_adam": [(1.0, 1.0), (1.0, 1.01), (1.0, 0.99)],
    "arm=continual_backprop_fast": [(1.0, 1.1)] * 3,
    "network=layer_norm": [(1.0, 1.5)] * 3,
    "method=no_such_method": [(1.0, 9.0)] * 3,
}

BOTH = {"redo": {"kind": "redo", "period": 20}, "l2_init": {"kind": "l2_init"}}


def benchmark(folder, pairs=PAIRS, name="methods", **more):
    data = {"pairs": pairs, "interaction": [1.0, 3.0, 2.0], "events": {}, **more}
    about = {"command": f"python -m analysis.throughput --only {name}", "cpu": {"model": "Fast"}}
    write(folder, [Section(name, "", "", [], data, about=about)], [name])
    return folder / "sections" / f"{name}.json"


def sac_benchmark(folder):
    pairs = {"method=l2_init": [(1.0, 1.2), (1.0, 1.3), (1.0, 1.4)], "method=redo": [(1.0, 9.0)]}
    return benchmark(folder, pairs, "methods_sac", agent="sac", rate=0.5)


def tables(folder, file):
    study = collect([folder], extras=Extras((), read_overheads(file)))
    scores = score(study)
    rows = csv.DictReader(io.StringIO(results_csv(study, scores).decode()))
    return study, scores, {row["arm"]: row for row in rows}


def with_momentum(folder, arm):
    """Make an arm differ from the baseline without a method."""
    for path in folder.glob(f"*/ppo-mlp-{arm}/*/config.yaml"):
        config = yaml.safe_load(path.read_text())
        config["optimizer"]["beta1"] = 0.99
        path.write_text(yaml.safe_dump(config))


def last_cells(table):
    return {row[0]: row[-1] for row in table.rows}


def test_overheads_are_medians_and_ranges_of_pairs(tmp_path):
    folder = add_group(tmp_path, {"standard": 1.0, "redo": 2.0, "ns_adam": 3.0}, seeds=range(2))
    with_momentum(folder, "ns_adam")
    study, scores, rows = tables(folder, benchmark(tmp_path))
    table = score_table(study, scores)
    assert table.header[-2:] == ("overhead (not paired)", "overhead, paired [range]")
    rate = GRADIENT_STEPS_PER_ENV_STEP
    # Per environment step: interaction 2, pairs that differ by 0.02, 0.05 and 0.06.
    extra = [0.02 * rate / (2 + rate), 0.05 * rate / (2 + rate), 0.06 * rate / (2 + 2 * rate)]
    found = [float(rows["redo"][f"overhead_paired_env_step{s}"]) for s in ("", "_low", "_high")]
    assert found == pytest.approx([np.median(extra), min(extra), max(extra)])
    found = [
        float(rows["redo"][f"overhead_paired_gradient_step{s}"]) for s in ("", "_low", "_high")
    ]
    assert found == pytest.approx([0.03, 0.02, 0.05])
    cells = last_cells(table)
    assert cells["standard"] == "baseline"
    # Other settings than the benchmark's: the synthetic runs have tiny minibatches.
    assert cells["redo"] == "≈ +0.2 % [+0.1 %, +0.2 %]"
    assert "≈" in table.caption
    assert "Fast, one core" in table.caption
    assert "methods.json, made by `python -m analysis.throughput --only methods`" in table.caption
    assert "redo: method=redo_published" in table.caption
    # No method at all: the row of its optimizer.
    assert cells["ns_adam"] == "≈ +0.0 % [-0.0 %, +0.0 %]"
    fair = fairness_table(study, scores)
    place = fair.header.index("overhead per gradient step [range]")
    assert {row[0]: row[place] for row in fair.rows}["redo"] == "≈ +3.0 % [+2.0 %, +5.0 %]"


def test_arms_that_the_benchmark_lacks_show_a_dash(tmp_path):
    arms = {"standard": 1.0, "redo": 2.0, "continual_backprop": 3.0}
    arms |= {"continual_backprop_fast": 4.0}
    folder = add_group(tmp_path, arms, seeds=range(2))
    with_momentum(folder, "continual_backprop_fast")
    add_run(tmp_path, "adam.redo.l2_init", 0, method=BOTH)
    add_run(tmp_path, "adam.redo.l2_init", 1, method=BOTH)
    for seed in range(2):
        add_run(tmp_path, "fresh_oracle", seed)
    study, scores, rows = tables(folder, benchmark(tmp_path))
    cells = last_cells(score_table(study, scores))
    lacking = ("continual_backprop", "adam.redo.l2_init", "fresh_oracle")
    assert [cells[name] for name in lacking] == ["–"] * 3
    assert cells["redo"] != "–"
    assert rows["fresh_oracle"]["overhead_paired_env_step"] == ""
    facts = study.about["overheads"]["arms"]
    assert {name: facts[name]["row"] for name in facts} == {
        "redo": "method=redo_published",
        "continual_backprop_fast": "arm=continual_backprop_fast",
    }


def test_equal_settings_are_not_called_similar(tmp_path):
    plain = compose_run(["method=l2_init"]).plain
    for seed in range(2):
        for arm, method in (("standard", {}), ("adam.l2_init", plain["method"])):
            path = add_run(tmp_path, arm, seed)
            config = yaml.safe_load((path / "config.yaml").read_text())
            config |= {key: plain[key] for key in ("agent", "network", "optimizer")}
            config["method"] = method
            (path / "config.yaml").write_text(yaml.safe_dump(config))
    pairs = {"method=l2_init": PAIRS["method=redo_published"]}
    study, scores, _ = tables(tmp_path / "runs", benchmark(tmp_path, pairs))
    assert last_cells(score_table(study, scores))["adam.l2_init"].startswith("+0.2 % [")
    assert "≈" not in score_table(study, scores).caption


def test_other_agents_and_baselines_are_not_compared_with_plain_adam(tmp_path):
    folder = add_group(tmp_path, {"standard": 1.0, "redo": 2.0}, seeds=range(2))
    overheads = read_overheads(benchmark(tmp_path))
    study = collect([folder], baseline="redo", extras=Extras((), overheads))
    assert study.about["overheads"]["arms"] == {}
    for path in folder.rglob("config.yaml"):
        config = yaml.safe_load(path.read_text())
        config["agent"] = {"kind": "sac", "warmup_steps": 100}
        config["optimizer"]["learning_rate"] = 1e-4 if config.pop("method") else 1e-3
        path.write_text(yaml.safe_dump({**config, "method": {}}))
    study = collect([folder], extras=Extras((), overheads))
    assert study.about["overheads"] == {}
    assert score_table(study, score(study)).header[-1] == "overhead (not paired)"


def with_sac(folder):
    """Make SAC runs of a group, with the method l2_init in one arm."""
    plain = compose_run(["agent=sac", "agent.warmup_steps=100", "method=l2_init"]).plain
    for path in folder.rglob("config.yaml"):
        config = yaml.safe_load(path.read_text())
        config |= {key: plain[key] for key in ("agent", "network", "optimizer")}
        config["method"] = plain["method"] if "l2_init" in str(path) else {}
        path.write_text(yaml.safe_dump(config))


def test_sac_has_a_benchmark_of_its_own(tmp_path):
    folder = add_group(tmp_path, {"standard": 1.0, "adam.l2_init": 2.0}, seeds=range(2))
    with_sac(folder)
    both = read_overheads(benchmark(tmp_path), sac_benchmark(tmp_path))
    study = collect([folder], extras=Extras((), both))
    facts = study.about["overheads"]
    assert facts["file"].endswith("methods_sac.json")
    assert facts["arms"]["adam.l2_init"] == {
        "row": "method=l2_init",
        "is_exact": True,
        "gradient_step": pytest.approx([0.3, 0.2, 0.4]),
        # Simulating and acting take 2, half a gradient step of 1 per environment step.
        "env_step": pytest.approx([0.15 / 2.5, 0.1 / 2.5, 0.2 / 2.5]),
    }
    cells = last_cells(score_table(study, score(study)))
    assert cells == {"standard": "baseline", "adam.l2_init": "+6.0 % [+4.0 %, +8.0 %]"}
    for path in folder.rglob("config.yaml"):
        config = yaml.safe_load(path.read_text())
        config["agent"]["updates_per_env_step"] = 1.0
        path.write_text(yaml.safe_dump(config))
    study = collect([folder], extras=Extras((), both))
    assert study.about["overheads"]["arms"]["adam.l2_init"]["is_exact"] is False
    with pytest.raises(NotARun, match="both of sac"):
        read_overheads(*[tmp_path / "sections" / "methods_sac.json"] * 2)
    with pytest.raises(NotARun, match="KeyError"):
        read_overheads(benchmark(tmp_path, agent="td3"))


def test_the_benchmark_is_found_where_it_is_written_and_stored(tmp_path, monkeypatch):
    add_group(tmp_path, {"standard": 1.0, "redo": 2.0}, seeds=range(2))
    monkeypatch.chdir(tmp_path)
    words = ["compare", "runs/study", "--out"]
    assert evaluate.main([*words, "a"]) == evaluate.EXIT_DONE
    assert "overhead, paired" not in (tmp_path / "a" / "report.md").read_text()
    benchmark(tmp_path / "results" / "throughput")
    assert evaluate.main([*words, "b"]) == evaluate.EXIT_DONE
    assert "overhead, paired" in (tmp_path / "b" / "report.md").read_text()
    shutil.rmtree(tmp_path / "results")
    assert evaluate.main(["compare", "--from", "b/data", "--out", "c"]) == evaluate.EXIT_DONE
    assert (tmp_path / "c" / "report.md").read_bytes() == (tmp_path / "b/report.md").read_bytes()


@pytest.mark.parametrize("text", [None, "{", "[]", '{"name": "methods", "tables": []}'])
def test_a_file_that_is_no_benchmark_is_refused(tmp_path, capsys, text):
    file = tmp_path / "methods.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(NotARun, match="--only methods"):
        read_overheads(file)
    folder = add_group(tmp_path, {"standard": 1.0}, seeds=range(2))
    words = ["compare", str(folder), "--out", str(tmp_path / "x"), "--overheads", str(file)]
    assert evaluate.main(words) == evaluate.EXIT_CONFIGURATION
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_tuned_arms_say_on_what(tmp_path, monkeypatch):
    chosen = Selection("1", {"0": 1.0, "1": 2.0}, 12)
    conditions = Conditions("python train.py tune arm=l2", 0.1, 400_000, 3, 10_000)
    presets = tmp_path / "configs"
    found = [Found("l2", chosen, {"optimizer.learning_rate": 3e-4})]
    write_presets(presets / "arm", "tuned", found, conditions)
    shutil.copy(Path(compose.__file__).parent / "arm" / "l2.yaml", presets / "arm")
    monkeypatch.setattr("analysis.compare.presets.CONFIG_FOLDER", presets)
    folder = add_group(tmp_path, {"standard": 1.0, "l2_tuned": 2.0}, seeds=range(2))
    study = collect([folder])
    table = fairness_table(study, score(study))
    place = table.header.index("tuning")
    assert {row[0]: row[place] for row in table.rows} == {
        "standard": "not tuned",
        "l2_tuned": "the first 10% of the lifetime on worlds from 10000",
    }
    arms = {arm.name: arm for arm in gather([folder]).arms}
    assert chosen_presets(arms["l2_tuned"], "adam") == ("ns_adam", [])  # of the arm it builds on


# Parameters and memory -----------------------------------------------------------------------


def with_costs(path, **costs):
    done = json.loads((path / "done.json").read_text())
    done["summary"] |= costs
    (path / "done.json").write_text(json.dumps(done))


def test_parameters_and_memory_are_columns_with_a_dash_for_older_runs(tmp_path):
    for seed, memory in enumerate((210.4, 1234.4, 300.0)):
        path = add_run(tmp_path, "standard", seed)
        with_costs(path, parameters=150_000, peak_memory_mib=memory)
        add_run(tmp_path, "l2", seed)
    study = collect([tmp_path])
    scores = score(study)
    table = fairness_table(study, scores)
    columns = dict(zip(table.header, zip(*table.rows, strict=True), strict=True))
    assert columns["parameters"] == ("150,000", "–")
    assert columns["peak memory (MiB)"] == ("1,234", "–")
    rows = list(csv.DictReader(io.StringIO(results_csv(study, scores).decode())))
    assert [row["parameters"] for row in rows] == ["150000.0", ""]
    assert [row["peak_memory_mib"] for row in rows] == ["1234.4", ""]


class _Agent:
    def __init__(self):
        shared = torch.nn.Linear(4, 3)
        self._networks = {
            "policy": torch.nn.Sequential(shared, torch.nn.Linear(3, 2)),
            "value": torch.nn.Sequential(shared, torch.nn.Linear(3, 1)),
        }

    def networks(self):
        return self._networks


def test_shared_parameters_count_once():
    costs = run_costs(_Agent(), PeakMemory())  # type: ignore[arg-type]
    assert costs["parameters"] == (4 * 3 + 3) + (3 * 2 + 2) + (3 + 1)
    assert costs["peak_memory_mib"] > 20.0


def test_the_peak_is_of_this_run_and_of_its_lives_before():
    """In a process of its own, whose resident set nobody else changes."""
    code = """
import numpy as np
from analysis.process_memory import PeakMemory

memory = PeakMemory()
before = memory.mib
held = np.ones(100 * 2**17)  # 100 MiB
grown = memory.mib
assert 90.0 < grown - before < 250.0, (before, grown)
del held
assert memory.mib > grown - 10.0
assert PeakMemory(1e6).mib == 1e6
assert PeakMemory().mib < grown - 50.0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_lives_before_are_read_from_the_checkpoint():
    def checkpoint(**manifest) -> Any:
        return SimpleNamespace(manifest=manifest)

    noted = checkpoint(metadata={"peak_memory_mib": 512.5})
    assert earlier(noted, "peak_memory_mib") == 512.5
    assert earlier(checkpoint(), "peak_memory_mib") == 0.0  # of an earlier version
    assert earlier(None, "peak_memory_mib") == 0.0
