"""Tables of fresh networks: made from runs, kept, checked, and used in a comparison."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from synthetic_studies import FRICTIONS, add_run, run_place

import evaluate
import train
from analysis.compare import Extras, build_oracles
from analysis.compare.arms import CannotCompare
from analysis.compare.collecting import collect
from analysis.compare.oracle_building import build_tables
from analysis.compare.oracle_settings import OracleSettings, refuse_schedule
from analysis.compare.oracle_table import read_table, read_tables
from analysis.compare.report import warnings
from analysis.compare.scores import score
from analysis.compare.study import RECORDS, load_study, study_files
from analysis.continual import OracleGrid
from analysis.run_files import NotARun
from configs.compose import compose_run

GRID_PRESET = "configs/experiment/oracle_grid.yaml"
GRID = (0.01, 0.1, 1.0, 10.0)


def level(friction):
    """A fresh network's return at the end of a regime: linear in the logarithm."""
    return 200.0 + 20.0 * math.log(friction)


def add_grid(root, arm="standard", factor=1.0, seeds=(0, 1, 2), grid=GRID, curve=level, **settings):
    """Fresh networks in single worlds, one run per friction and seed, without noise."""
    for place, friction in enumerate(grid):
        for seed in seeds:
            path = add_run(
                root, f"{arm}-{place:08x}", seed, num_regimes=1, group="grid",
                level=factor * curve(friction), score=lambda a, s, k, share: a * share,
                env={"schedule": "fixed", "fixed_friction": friction}, **settings,
            )  # fmt: skip
            if "l2" in arm:
                config = yaml.safe_load((path / "config.yaml").read_text())
                config["optimizer"]["weight_decay"] = 0.001
                (path / "config.yaml").write_text(yaml.safe_dump(config))
    return root / "runs" / "grid"


def keeps(loss, factor=1.0):
    """A run that reaches less of a fresh network's return with every regime."""
    return lambda a, seed, regime, share: (
        share * factor * level(FRICTIONS[regime % 10]) * (1.0 - loss * regime) * (1 + 0.01 * seed)
    )


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("oracle")
    for seed in range(10):
        add_run(root, "standard", seed, score=keeps(0.1))
        add_run(root, "l2", seed, score=keeps(0.05, 0.6))
    add_grid(root)
    add_grid(root, "l2", 0.6)
    return root


@pytest.fixture(scope="module")
def tables(template):
    out = template / "results" / "oracles"
    words = ["oracle", str(template / "runs" / "grid"), "--out", str(out)]
    assert evaluate.main(words) == evaluate.EXIT_DONE
    return out


def compared(template, *tables) -> tuple[Any, dict[str, Any], Any]:
    study = collect([template / "runs" / "study"], extras=Extras(tuple(read_tables(tables))))
    scores = score(study)
    return study, {arm.facts.name: arm for arm in scores.arms}, scores


def test_one_table_per_arm_named_by_its_settings(tables):
    files = sorted(tables.iterdir())
    assert [f.name.rpartition("-")[0] for f in files] == [
        "slippery_ant-ppo-mlp-l2",
        "slippery_ant-ppo-mlp-standard",
    ]
    table = read_table(files[1])
    assert table.seeds == (0, 1, 2)
    np.testing.assert_array_equal(table.grid.values, GRID)
    # Episodes end at shares 1/25 ... 25/25 of the regime, all equally long.
    for friction, area in zip(GRID, table.grid.areas, strict=True):
        assert area == pytest.approx(level(friction) * 13 / 25)
    assert table.settings.key.startswith(files[1].stem.rpartition("-")[2])
    content = json.loads(files[1].read_text())
    assert len(content["rows"]) == len(GRID) * 3
    assert content["about"]["command"].startswith("python evaluate.py oracle ")


def test_indices_are_those_that_the_runs_were_made_with(template, tables):
    study, arms, scores = compared(template, tables)
    assert scores.oracle == "fresh networks of standard, interpolated"
    untrained = np.mean([place / 25 for place in range(1, 21)])
    fresh = np.array([level(f) for f in FRICTIONS[:4]])
    areas = study.matrix("standard", "regime/area")
    expected = (areas - untrained * fresh) / (13 / 25 * fresh - untrained * fresh)
    # The untrained return of a regime is interpolated like everything else.
    slopes = [np.polyfit(range(4), row, 1)[0] for row in expected]
    assert arms["standard"].index["slope"].estimate == pytest.approx(np.mean(slopes))
    # Against its own fresh copies, l2 keeps 0.95 where it is far below the plain oracle.
    own = study.matrix("l2", "regime/area")
    floor = untrained * 0.6 * fresh
    index = (own - floor) / (13 / 25 * 0.6 * fresh - floor)
    assert arms["l2"].self_index["late_mean"].estimate == pytest.approx(index[:, -2:].mean())
    assert arms["l2"].index["late_mean"].estimate != arms["l2"].self_index["late_mean"].estimate
    assert study.about["recovery_reference"] == "interpolated fresh networks"
    assert arms["standard"].share_recovered < 1.0
    assert scores.verdict is not None


def test_the_report_says_what_the_oracle_is_and_is_drawn_again(template, tables, tmp_path):
    words = ["compare", str(template / "runs" / "study"), "--out", str(tmp_path / "x")]
    assert evaluate.main([*words, "--oracle-table", str(tables)]) == evaluate.EXIT_DONE
    text = (tmp_path / "x" / "report.md").read_text()
    for said in (
        "Validity gate (fresh networks of standard, interpolated against standard)",
        "interpolated in the logarithm from 4 values x 3 seeds (slippery_ant-ppo-mlp-standard-",
        "fewer than 5 seeds of the fresh networks of l2, standard",
        "PI_self slope",
        "the end of the phase of interpolated fresh networks",
    ):
        assert said in text, said
    shutil.copytree(tmp_path / "x" / "data", tmp_path / "data")
    words = ["compare", "--from", str(tmp_path / "data"), "--out", str(tmp_path / "y")]
    assert evaluate.main(words) == evaluate.EXIT_DONE
    for name in ("report.md", "results.csv", "data/about.json"):
        assert (tmp_path / "y" / name).read_bytes() == (tmp_path / "x" / name).read_bytes()


def test_a_table_that_interpolates_badly_is_not_used_and_named(template, tmp_path):
    def bump(friction):
        return level(friction) + (80.0 if friction == 0.1 else 0.0)

    ((path, table),) = build_oracles([add_grid(tmp_path, curve=bump)], tmp_path / "tables")
    assert not table.grid.is_accepted
    study, arms, scores = compared(template, path)
    assert scores.oracle is None
    assert not arms["standard"].index
    assert study.about["recovery_reference"] == "standard"
    (found,) = [line for line in warnings(study) if "oracle" in line]
    assert "the point at 0.1 is missed by" in found
    assert "above 10 %" in found


def test_a_table_goes_before_fresh_runs_and_a_refused_one_behind(template, tables, tmp_path):
    shutil.copytree(template / "runs" / "study", tmp_path / "runs" / "study")
    for seed in range(10):
        add_run(tmp_path, "fresh_oracle", seed, score=keeps(0.0))
    names = []
    for given in ((), (tables,)):
        study = collect([tmp_path / "runs"], extras=Extras(tuple(read_tables(given))))
        names.append(score(study).oracle)
    assert names == ["fresh_oracle", "fresh networks of standard, interpolated"]


def test_a_regime_that_is_cut_short_has_no_index(template, tables):
    runs = template / "runs" / "study"
    extras = Extras(tuple(read_tables([tables])))
    whole = score(collect([runs], extras=extras))
    study = collect([runs], partial=True, extras=extras)
    about = {**study.about, "end": 3_500}
    cut = score(type(study)(about, study.arms, study.runs))
    one, other = (next(a for a in s.arms if a.facts.name == "standard") for s in (whole, cut))
    assert (one.num_undefined, other.num_undefined) == (0, 10)
    assert one.index["slope"] != other.index["slope"]


def test_a_regime_that_is_cut_short_has_no_recovery(tables, tmp_path):
    def rises_soon(a, seed, regime, share):
        return level(FRICTIONS[regime % 10]) * min(1.0, 2.0 * share)

    extras = Extras(tuple(read_tables([tables])))
    studies = []
    for name, ended in (("whole", {}), ("cut", {"until": 3_480, "status": "unfinished"})):
        for seed in range(3):
            add_run(tmp_path / name, "standard", seed, score=rises_soon, **ended)
        studies.append(collect([tmp_path / name], partial=True, extras=extras))
    whole, cut = studies
    expected = np.minimum(whole.matrix("standard", "regime/recovery")[:, 1:3], 1.0)
    assert (expected < 1.0).any()
    assert np.isnan(cut.matrix("standard", "regime/recovery")[:, 3]).all()
    assert not (cut.matrix("standard", RECORDS[0]) == 3.0).any()
    older = replace(whole, about={**whole.about, "end": 3_480})  # has times of the cut regime
    for study in (cut, older):
        scores = score(study)
        (arm,) = scores.arms
        assert arm.recovery is not None
        assert arm.recovery.estimate == pytest.approx(expected.mean())
        assert arm.share_recovered == (expected < 1.0).mean()
        assert math.isnan(scores.recovery_regimes["standard"][2].estimate)


def change(path, **settings):
    config = yaml.safe_load((path / "config.yaml").read_text())
    for name, value in settings.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    (path / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"agent": {"num_epochs": 7}}, "agent.num_epochs is 2 in the table and 7 in the runs"),
        ({"env": {"num_envs": 8}}, "env.num_envs is 4 in the table and 8 in the runs"),
        ({"env": {"switch_interval": 500}}, "interval is 1000 in the table and 500 in the runs"),
        ({"env": {"schedule": "gradual"}}, "env.schedule is gradual"),
        ({"env": {"intervals": "geometric"}}, "env.intervals is geometric"),
        ({"env": {"switch_rule": "episode_end"}}, "env.switch_rule is episode_end"),
        ({"env": {"modifier": ["friction", "gravity"]}}, "friction, gravity"),
    ],
)
def test_a_table_of_other_agents_or_worlds_is_refused(tables, tmp_path, settings, said):
    for seed in range(2):
        change(add_run(tmp_path, "standard", seed), **settings)
    named = next(file for file in tables.iterdir() if "standard" in file.name)
    for path in (named, *([tables] if "table" in said else [])):
        extras = Extras(tuple(read_tables([path])))
        with pytest.raises(CannotCompare, match="no table fits" if path is tables else said):
            collect([tmp_path / "runs"], extras=extras)


def test_tables_of_a_folder_that_fit_nothing_are_passed_over(template, tables, tmp_path):
    for seed in range(2):
        add_run(tmp_path, "standard", seed, score=keeps(0.1))
    study = collect([tmp_path / "runs"], extras=Extras(tuple(read_tables([tables]))))
    assert list(study.about["oracle_tables"]) == ["standard"]
    l2 = next(file for file in tables.iterdir() if "l2" in file.name)
    with pytest.raises(CannotCompare, match=r"weight_decay is 0\.001 in the table and 0\.0 in"):
        collect([tmp_path / "runs"], extras=Extras(tuple(read_tables([l2]))))


def test_a_table_changed_by_hand_is_refused(tables, tmp_path):
    file = next(tables.iterdir())
    copy = tmp_path / file.name
    for damage, said in (
        (lambda text: text.replace('"seed"', '"sead"'), "SHA-256"),
        (lambda text: text[:-30], "no table of fresh networks"),
        (lambda text: "[]", "no table of fresh networks"),
    ):
        copy.write_text(damage(file.read_text()))
        with pytest.raises(NotARun, match=said):
            read_table(copy)
    with pytest.raises(NotARun, match="python evaluate"):
        read_table(tmp_path / "missing.json")
    with pytest.raises(NotARun, match="holds no table"):
        read_tables([tmp_path / "runs" if (tmp_path / "runs").exists() else _empty(tmp_path)])


def _empty(folder):
    (folder / "empty").mkdir()
    return folder / "empty"


def test_grids_with_holes_or_other_runs_are_refused(tmp_path):
    grid = add_grid(tmp_path)
    hole = next(grid.glob("*/ppo-mlp-standard-00000001/seed_2"))
    shutil.move(hole, tmp_path / "aside")
    with pytest.raises(CannotCompare, match=r"lacks seed 2 at 0\.1;"):
        build_tables([grid])
    shutil.move(tmp_path / "aside", hole)
    (hole / "done.json").rename(tmp_path / "done.json")
    with pytest.raises(CannotCompare, match="to finish it"):
        build_tables([grid])
    (tmp_path / "done.json").rename(hole / "done.json")
    change(hole, env={"schedule": "abrupt"})
    with pytest.raises(CannotCompare, match=r"env\.schedule is abrupt, not fixed"):
        build_tables([grid])
    change(hole, env={"schedule": "fixed", "modifier": ["friction", "gravity"]})
    with pytest.raises(CannotCompare, match="names 2 quantities"):
        build_tables([grid])
    config = yaml.safe_load((hole / "config.yaml").read_text())
    del config["env"]["modifier"]
    (hole / "config.yaml").write_text(yaml.safe_dump(config))
    (table,) = build_tables([grid])
    assert table.grid.is_accepted


def test_a_file_where_the_folder_of_tables_should_be_is_a_storage_error(template, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    words = ["oracle", str(template / "runs" / "grid"), "--out", str(tmp_path / "file")]
    assert evaluate.main(words) == evaluate.EXIT_STORAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("storage: cannot write ")


def test_a_failed_fresh_network_earns_the_untrained_return_from_then_on(tmp_path):
    grid = add_grid(tmp_path, seeds=(0,))
    shutil.rmtree(next(grid.glob("*/ppo-mlp-standard-00000002")))
    add_run(
        tmp_path, "standard-00000002", 0, num_regimes=1, group="grid", level=100.0,
        score=lambda a, s, k, share: a * share, until=800, status="failed",
        env={"schedule": "fixed", "fixed_friction": 1.0},
    )  # fmt: skip
    (table,) = build_tables([grid])
    untrained = 100.0 * np.mean(np.arange(1, 21) / 25)  # all that it lived to see
    assert table.grid.untrained[2, 0] == pytest.approx(untrained)
    assert table.grid.areas[2, 0] == pytest.approx(0.8 * untrained + 0.2 * untrained)
    assert table.grid.phases[2, 0] == pytest.approx(untrained)
    assert table.about["failed"] == 1


def test_the_preset_trains_the_agent_of_the_published_comparison():
    words = ["arm=l2", "seed=3"]
    grid = compose_run(["experiment=oracle_grid", "env.fixed_friction=0.0251785", *words])
    runs = compose_run(["experiment=compare_slippery_ant", *words])
    mine = OracleSettings.of(grid.plain, grid.config.total_steps)
    theirs = OracleSettings.of(runs.plain, runs.config.env.switch_interval)
    assert mine.difference(theirs) == ""
    assert mine.key == theirs.key
    refuse_schedule(runs.plain["env"])
    other = OracleSettings.of({**runs.plain, "init_from": "x"}, 2_000_000)
    assert "init_from is absent" in mine.difference(other)
    content = yaml.safe_load((Path(train.__file__).parent / GRID_PRESET).read_text())
    values = content["hydra"]["sweeper"]["params"]["env.fixed_friction"].split(",")
    expected = 0.02 * 100.0 ** (np.arange(5, 100, 10) / 100)
    np.testing.assert_allclose([float(value) for value in values], expected, rtol=5e-6)


@pytest.mark.slow
def test_a_small_grid_from_the_sweep_to_the_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny = [
        *("-m", "hydra/launcher=basic", "env.num_envs=4", "env.max_episode_steps=50"),
        *("network=small", "agent.rollout_length=128", "agent.minibatch_size=64", "seed=0,1"),
        *("agent.num_epochs=1", "log.log_every_iterations=1", "log.ranks_every_iterations=2"),
        *("log.all_ranks_every_iterations=2", "log.tensorboard=false", "progress=false"),
        *("arm=standard", "log.figures=false"),
    ]
    values = "env.fixed_friction=0.04,0.2,1.0"
    grid = ["experiment=oracle_grid", values, "total_steps=1024"]
    runs = ["experiment=compare_slippery_ant", "env.switch_interval=1024", "total_steps=3072"]
    assert train.main([*tiny, *grid]) == train.EXIT_DONE
    assert train.main([*tiny, *runs]) == train.EXIT_DONE
    assert evaluate.main(["oracle", "runs/oracle_grid", "--out", "tables"]) == evaluate.EXIT_DONE
    assert "3 values x 2 seeds" in capsys.readouterr().out
    (file,) = Path("tables").iterdir()
    words = ["compare", "runs/compare_slippery_ant", "--out", "results/x"]
    assert evaluate.main([*words, "--oracle-table", str(file)]) == evaluate.EXIT_DONE
    text = Path("results/x/report.md").read_text()  # two seeds may interpolate well or badly
    assert f"({file.name})" in text or "the interpolated oracle of standard is not used" in text
    about = json.loads(file.read_text())["about"]
    assert len(about["training_commands"]) == 1
    assert all(row[2] == row[2] for row in json.loads(file.read_text())["rows"])


def with_wobble(path, size):
    """A table like another whose seeds differ by `size` around the same means."""
    table = read_table(path)
    grid, wobble = table.grid, size * np.array([-1.0, 0.0, 1.0])
    seeds = OracleGrid(grid.values, grid.areas + wobble, grid.phases + wobble, grid.untrained)
    return replace(table, grid=seeds)


def test_recovery_intervals_resample_the_seeds_behind_the_thresholds(template, tables, tmp_path):
    (file,) = tables.glob("*-standard-*")
    paths = [run_place(template, "standard", seed) for seed in range(10)]
    found = {}
    for size in (0.0, 30.0):
        study = collect(paths, extras=Extras(((with_wobble(file, size), True),)))
        found[size] = score(study).arms[0].recovery
        # The estimate is that of the means over seeds, as stored for every run.
        times = np.minimum(study.matrix("standard", "regime/recovery")[:, 1:], 1.0)
        assert found[size].estimate == pytest.approx(times.mean())
        assert found[size].n == 10
    assert max(len(study.matrix("standard", name)[0]) for name in RECORDS) > 3
    assert score(stored_and_read(study, tmp_path / "data")).arms[0].recovery == found[30.0]
    assert found[30.0].high - found[30.0].low > 1.3 * (found[0.0].high - found[0.0].low)
    scores = score(replace(study, about={**study.about, "format": 2}))
    assert [note for note in scores.notes if "older than the records" in note]
    fixed = scores.arms[0].recovery
    assert fixed is not None
    bounds = found[0.0].low, found[0.0].high
    assert (fixed.low, fixed.high) == pytest.approx(bounds, abs=0.02)  # other draws


def stored_and_read(study, folder):
    folder.mkdir()
    for name, data in study_files(study).items():
        (folder / name).write_bytes(data)
    return load_study(folder)
