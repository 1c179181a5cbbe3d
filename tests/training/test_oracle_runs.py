"""Whole runs of the fresh-network oracle, of transplants, of probes and of unit histories."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import train
from analysis.checkpoint import CheckpointStore
from analysis.compare.arms import group_arms
from analysis.compare.flags import method_flags
from analysis.compare.members import find_members
from configs.build import build_probe
from configs.compose import compose_run, presets
from plasticity import probe

TINY = {
    "ppo": ["agent.rollout_length=64", "agent.minibatch_size=64", "agent.num_epochs=2"],
    "sac": [
        "agent=sac",
        "agent.batch_size=16",
        "agent.replay_size=2048",
        "agent.warmup_steps=64",
        "agent.steps_per_iteration=256",
        "agent.updates_per_env_step=0.0625",
    ],
}
SHORT = [
    "env=slippery_ant",
    "env.num_envs=4",
    "env.max_episode_steps=50",
    "network.hidden_sizes=[16,16]",
    "total_steps=1536",
    "env.switch_interval=640",
    "num_threads=1",
    "progress=false",
    "log.figures=false",
    "log.tensorboard=false",
    "log.log_every_iterations=2",
    "log.ranks_every_iterations=2",
    "log.all_ranks_every_iterations=4",
]
FILES = ("progress.csv", "events.jsonl", "episodes.csv")


PROBES = {}


def cached_probe(config, *rest):
    """The same for all runs here, and half of the time of such short ones."""
    if "probe" not in PROBES:
        PROBES["probe"] = build_probe(config, *rest)
    return PROBES["probe"]


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)
    monkeypatch.setattr(train, "build_probe", cached_probe)


def run(root, *words):
    """The last of two words for one key counts here."""
    by_key = {word.partition("=")[0]: word for word in (*SHORT, f"runs_root={root}", *words)}
    return train.main([*by_key.values()])


def directory(root):
    found = [path.parent for path in Path(root).glob("*/*/*/seed_*/config.yaml")]
    assert len(found) == 1, found
    return found[0]


def files(folder, names=FILES):
    return {name: (folder / name).read_bytes() for name in names}


def rows(folder):
    return list(csv.DictReader((folder / "progress.csv").open()))


def events(folder, name):
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


class Stop:
    """A signal that comes after a given number of vector steps."""

    def __init__(self, after):
        self._left, self.requested = after, None

    def __call__(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None

    def __getattribute__(self, name):
        if name == "requested":
            self._left -= 1
            return 15 if self._left <= 0 else None
        return object.__getattribute__(self, name)

    def is_requested(self):
        return False


def stop_and_go_on(root, monkeypatch, at, *words):
    """Run until a given environment step, as if a signal came then, and once more."""
    with monkeypatch.context() as patch:
        patch.setattr(train, "Interruption", Stop(at // 4))
        assert run(root, *words) == train.EXIT_SIGNAL
    assert run(root, *words) == train.EXIT_DONE


# The oracle --------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", ["ppo", pytest.param("sac", marks=pytest.mark.slow)])
def test_the_oracle_is_the_baseline_until_the_first_switch_and_then_begins_anew(agent, tmp_path):
    assert run(tmp_path / "oracle", *TINY[agent], "arm=fresh_oracle") == train.EXIT_DONE
    assert run(tmp_path / "plain", *TINY[agent], "arm=standard") == train.EXIT_DONE
    oracle, plain = directory(tmp_path / "oracle"), directory(tmp_path / "plain")
    assert [e["env_steps"] for e in events(oracle, "begin_anew")] == [640, 1280]
    assert events(oracle, "switch") == events(plain, "switch")
    ours, theirs = rows(oracle), rows(plain)
    assert [r for r in ours if int(r["env_steps"]) <= 640] == [
        r for r in theirs if int(r["env_steps"]) <= 640
    ]
    assert ours[-1] != theirs[-1]
    # Distances refer to the newly drawn network, so they fall at the switch.
    name = "policy" if agent == "ppo" else "critic_1"
    column = f"weights/{name}/all/distance_from_init"
    assert float(ours[-1][column]) < 0.9 * float(theirs[-1][column])
    assert [int(r["iteration"]) for r in ours] == sorted(int(r["iteration"]) for r in ours)


def test_a_world_that_environments_enter_one_by_one_is_announced_once(tmp_path, monkeypatch):
    words = [*TINY["ppo"], "arm=fresh_oracle", "env.switch_rule=episode_end"]
    assert run(tmp_path / "whole", *words) == train.EXIT_DONE
    whole = directory(tmp_path / "whole")
    first = {}
    for event in events(whole, "switch"):
        first.setdefault(event["regime"], event["env_steps"])
    assert len(events(whole, "switch")) > len(first) > 1
    found = {e["task"]: e["env_steps"] for e in events(whole, "begin_anew")}
    assert found == first
    assert len(events(whole, "begin_anew")) == len(found)
    # Between the first environment and the last.
    stop_and_go_on(tmp_path / "cut", monkeypatch, first[1] + 8, *words)
    assert files(directory(tmp_path / "cut")) == files(whole)


def test_the_oracle_begins_anew_where_friction_drifts(tmp_path):
    words = ["env.schedule=gradual", "env.update_every=128", "env.switch_interval=512"]
    resting = "env.ramp=256"  # values rest at the borders, which are told all the same
    assert run(tmp_path, *TINY["ppo"], "arm=fresh_oracle", *words, resting) == train.EXIT_DONE
    found = [(e["task"], e["env_steps"]) for e in events(directory(tmp_path), "begin_anew")]
    assert found == [(1, 512), (2, 1024)]


@pytest.mark.parametrize(
    ("agent", "at"),
    [
        ("ppo", 640),
        pytest.param("sac", 900, marks=pytest.mark.slow),
        pytest.param("ppo", 900, marks=pytest.mark.slow),
        pytest.param("sac", 640, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_oracle_ends_in_the_same_bits(agent, at, tmp_path, monkeypatch):
    words = [*TINY[agent], "arm=fresh_oracle"]
    assert run(tmp_path / "whole", *words) == train.EXIT_DONE
    stop_and_go_on(tmp_path / "cut", monkeypatch, at, *words)
    assert files(directory(tmp_path / "cut")) == files(directory(tmp_path / "whole"))


def test_the_oracle_needs_announced_switches(tmp_path, capsys):
    assert run(tmp_path, "fresh_at_switch=true") == train.EXIT_CONFIGURATION
    assert "boundary=oracle" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arm", [a for a in presets("arm") if f"fresh_{a}" in presets("arm")])
def test_a_fresh_arm_is_its_arm_but_for_beginning_anew(arm):
    plain, fresh = (dict(compose_run([f"arm={name}"]).plain) for name in (arm, f"fresh_{arm}"))
    assert (fresh.pop("fresh_at_switch"), fresh.pop("boundary")) == (True, "oracle")
    assert plain.pop("boundary") == "none"
    assert fresh == plain


def test_the_oracle_itself_is_the_plain_arm():
    plain, fresh = (dict(compose_run([f"arm={a}"]).plain) for a in ("standard", "fresh_oracle"))
    fresh.pop("fresh_at_switch")
    assert fresh | {"boundary": "none"} == plain


def test_comparisons_find_whose_fresh_copy_a_run_is(tmp_path):
    group = [*TINY["ppo"], "total_steps=512", "env.switch_interval=256", "log.diagnostics=false"]
    by_setting = ["arm=ns_adam", "boundary=oracle", "fresh_at_switch=true"]
    for arm in (["arm=standard"], ["arm=fresh_oracle"], ["arm=ns_adam"], by_setting):
        assert run(tmp_path, *group, *arm) == train.EXIT_DONE
    arms = group_arms(find_members([tmp_path]))
    assert {arm.name: arm.fresh_of for arm in arms} == {
        "standard": None,
        "fresh_oracle": "standard",
        "ns_adam": None,
        "fresh_ns_adam": "ns_adam",
    }
    flags = {arm.name: method_flags(arm.members[0].config) for arm in arms}
    assert flags["fresh_oracle"] == (True, "all")
    assert flags["standard"] == (False, "no")


def test_a_setting_that_came_later_does_not_change_older_runs():
    """config.yaml of a run without it stays as it was before the setting existed."""
    plain = compose_run([]).plain
    assert "fresh_at_switch" not in plain
    assert not {"trainability_steps", "unit_histories"} & set(plain["log"])
    assert compose_run(["log.unit_histories=true"]).plain["log"]["unit_histories"] is True


# Last rows ---------------------------------------------------------------------------------------


def test_a_finished_run_has_a_row_at_its_end(tmp_path, monkeypatch):
    words = [*TINY["ppo"], "log.log_every_iterations=4", "log.ranks_every_iterations=4"]
    words += ["total_steps=1600", "log.figures=true", "log.trainability_steps=null"]
    assert run(tmp_path / "whole", *words) == train.EXIT_DONE
    whole = directory(tmp_path / "whole")
    assert [(int(r["env_steps"]), int(r["iteration"])) for r in rows(whole)] == [
        (256, 1),
        (1024, 4),
        (1600, 6),
    ]
    last = rows(whole)[-1]
    assert float(last["weights/policy/all/weight_magnitude"]) > 0
    assert float(last["probe/policy/layers.1/stable_rank"]) >= 1
    assert last["window/policy/layers.1/stable_rank"] == ""
    assert float(last["policy_loss"]) != 0
    assert (whole / "figures" / "run.png").stat().st_size > 0
    stop_and_go_on(tmp_path / "cut", monkeypatch, 1300, *words)
    assert files(directory(tmp_path / "cut")) == files(whole)


@pytest.mark.slow
def test_a_run_made_longer_goes_on_without_the_old_last_row(tmp_path):
    words = [*TINY["ppo"], "log.log_every_iterations=4", "log.ranks_every_iterations=4"]
    assert run(tmp_path / "long", *words, "total_steps=3072") == train.EXIT_DONE
    assert run(tmp_path / "short", *words, "total_steps=1536") == train.EXIT_DONE
    assert int(rows(directory(tmp_path / "short"))[-1]["env_steps"]) == 1536
    folder = directory(tmp_path / "short")
    grown = [f"run_dir={folder}", "accept_change=true", "total_steps=3072"]
    assert run(tmp_path / "short", *words, *grown) == train.EXIT_DONE
    long = directory(tmp_path / "long")
    assert (folder / "progress.csv").read_bytes() == (long / "progress.csv").read_bytes()


@pytest.mark.slow
def test_a_run_begun_by_an_earlier_version_keeps_its_columns(tmp_path, monkeypatch, capsys):
    """Diagnostics that came later are left out of a file that goes on."""
    from analysis.network_measures import NetworkMeasures

    words, columns = TINY["ppo"], NetworkMeasures.columns

    def fewer(self):
        return [name for name in columns(self) if "feature_norm" not in name]

    monkeypatch.setattr(NetworkMeasures, "columns", fewer)
    monkeypatch.setattr("analysis.network_measures.feature_norms", lambda *arguments: {})
    monkeypatch.setattr(train, "Interruption", Stop(200))
    assert run(tmp_path, *words) == train.EXIT_SIGNAL
    monkeypatch.undo()
    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)
    monkeypatch.setattr(train, "build_probe", cached_probe)
    assert run(tmp_path, *words) == train.EXIT_DONE
    assert "begun by an earlier version; 8 diagnostics" in capsys.readouterr().err
    found = rows(directory(tmp_path))
    assert not any("feature_norm" in name for name in found[0])
    assert float(found[-1]["weights/policy/all/weight_magnitude"]) > 0


# The probe ---------------------------------------------------------------------------------------


@pytest.fixture
def quick_probe(monkeypatch):
    """The protocol is tested elsewhere; here it only has to run."""
    quick = probe.Settings(num_targets=1, num_steps=4, num_fresh=1)
    monkeypatch.setattr("analysis.trainability.Settings", lambda: quick)


def learned(root):
    """Hash of what was learned: everything saved except what the recorder keeps."""
    state = CheckpointStore(directory(root) / "checkpoints").load_latest().state
    return state["agent"], state["env"]


def same(left, right):
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return all(same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    return np.array_equal(left, right)


@pytest.mark.parametrize("agent", ["ppo", pytest.param("sac", marks=pytest.mark.slow)])
def test_a_run_is_the_same_with_and_without_the_probe(agent, tmp_path, quick_probe):
    words = [*TINY[agent], "method=[redo]", "method.redo.period=4"]
    assert run(tmp_path / "probed", *words, "log.trainability_steps=1280") == train.EXIT_DONE
    assert run(tmp_path / "plain", *words) == train.EXIT_DONE
    assert same(learned(tmp_path / "probed"), learned(tmp_path / "plain"))
    probed, plain = (rows(directory(tmp_path / name)) for name in ("probed", "plain"))
    for ours, theirs in zip(probed, plain, strict=True):
        assert {key: ours[key] for key in theirs} == theirs
    names = {key for key in probed[0] if key not in plain[0]}
    networks = ("policy", "value") if agent == "ppo" else ("actor", "critic_1", "critic_2")
    assert names == {
        f"probe/{name}/all/trainability_gap{end}" for name in networks for end in ("", "_final")
    }
    measured = [int(row["env_steps"]) for row in probed if row[min(names)]]
    # In the first row, and in the last one that was begun before step 1280.
    steps = [int(row["env_steps"]) for row in probed]
    assert measured == [steps[0], steps[2]]
    assert len(steps) == 4
    assert all(np.isfinite(float(row[min(names)])) for row in probed if row[min(names)])


def test_probing_resumes_exactly(tmp_path, monkeypatch, quick_probe):
    words = [*TINY["ppo"], "log.trainability_steps=640"]
    assert run(tmp_path / "whole", *words) == train.EXIT_DONE
    stop_and_go_on(tmp_path / "cut", monkeypatch, 800, *words)
    assert files(directory(tmp_path / "cut")) == files(directory(tmp_path / "whole"))


# Unit histories ----------------------------------------------------------------------------------


RECYCLERS = {
    "continual_backprop": ["maturity_threshold=2", "replacement_rate=0.05"],
    "redo": ["period=4", "dormancy_threshold=0.6"],
    "regrama": ["period=4", "dormancy_threshold=0.6"],
    "snr": ["min_silence=1", "max_silence=4", "min_records=1", "refresh_period=2"],
}


@pytest.mark.parametrize(
    "method",
    [
        "continual_backprop",
        pytest.param("redo", marks=pytest.mark.slow),
        pytest.param("regrama", marks=pytest.mark.slow),
        pytest.param("snr", marks=pytest.mark.slow),
    ],
)
def test_unit_histories_follow_every_recycler(method, tmp_path):
    words = [*TINY["ppo"], f"method=[{method}]", "log.unit_histories=true"]
    words += [f"method.{method}.{setting}" for setting in RECYCLERS[method]]
    if method == "snr":
        words.append("network.activation=relu")
    assert run(tmp_path, *words) == train.EXIT_DONE
    folder = directory(tmp_path)
    resets = events(folder, "unit_reset")
    log = np.load(folder / "unit_histories.npz", allow_pickle=False)
    groups, sizes = log["groups"].tolist(), log["num_units"].tolist()
    assert log["utility"].shape == (len(log["env_steps"]), sum(sizes))
    # Ages at the last snapshot, worked out from the events alone.
    steps_at = log["env_steps"][-1] // 256 * 2 * 4  # two epochs of four minibatches
    expected = np.full(sum(sizes), float(steps_at))
    starts = dict(zip(groups, np.cumsum([0, *sizes[:-1]]), strict=True))
    for event in resets:
        if event["env_steps"] <= log["env_steps"][-1]:
            place = starts[f"{event['network']}/{event['group']}"] + event["unit"]
            expected[place] = steps_at - event["gradient_step"]
    assert np.array_equal(log["age"][-1], expected)
    renewed = {(e["network"], e["group"], e["unit"]) for e in resets}
    never = np.isnan(log["moved_after"][-1])
    assert never.sum() == sum(sizes) - len(renewed)
    assert log["moved_bins"].sum() + log["ended_before"].sum() <= len(resets)


def test_unit_histories_resume_exactly(tmp_path, monkeypatch):
    settings = [f"method.continual_backprop.{s}" for s in RECYCLERS["continual_backprop"]]
    words = [*TINY["sac"], "method=[continual_backprop]", *settings, "log.unit_histories=true"]
    assert run(tmp_path / "whole", *words) == train.EXIT_DONE
    stop_and_go_on(tmp_path / "cut", monkeypatch, 1100, *words)
    names = (*FILES, "unit_histories.npz")
    assert files(directory(tmp_path / "cut"), names) == files(directory(tmp_path / "whole"), names)


# Transplants -------------------------------------------------------------------------------------


def test_a_transplant_sweep_has_a_run_for_every_organ_and_a_pair(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("donors", *TINY["ppo"], "total_steps=512") == train.EXIT_DONE
    donor = directory("donors") / "checkpoints" / "step-000000000512"
    words = ["-m", "experiment=transplant", "hydra/launcher=basic", f"init_from={donor}"]
    words += [w for w in SHORT if not w.startswith(("env=", "env.switch", "total_steps"))]
    assert train.main([*words, *TINY["ppo"], "total_steps=256", "seed=0"]) == train.EXIT_DONE
    found = sorted(Path("runs/transplant").glob("*/*/seed_0"))
    assert len(found) == 7
    parts = set()
    for folder in found:
        config = (folder / "config.yaml").read_text()
        assert "init_from" in config
        parts.add(config.partition("fresh_parts:")[2].partition("fresh:")[0].strip())
    assert len(parts) == 7
    assert "7 runs: 7 done" in capsys.readouterr().out


def test_a_transplant_without_a_donor_is_refused(tmp_path, capsys):
    words = ["experiment=transplant", "fresh_parts=[]", "progress=false", f"runs_root={tmp_path}"]
    assert train.main(words) == train.EXIT_CONFIGURATION
    assert "starts from a checkpoint; name it" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
