"""Modifiers on schedule: wrapper against batch, resume across switches, several at once."""

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import train
from analysis.evaluation import checked_values
from analysis.restored import fixed_worlds
from analysis.run_columns import regime_label
from analysis.run_files import world_events
from configs.compose import compose_run
from configs.schema import ConfigurationError
from envs import modifiers
from envs.contexts import given
from envs.locomotion import Config, make, probe
from envs.physics import PhysicsSchedule, make_slippery
from envs.robots import ROBOT_NAMES
from envs.schedules import SCHEDULES

SCHEDULED = {"switch_interval": 60, "max_episode_steps": 25, "world_seed": 4}
CASES = [
    ("gravity", {}),
    ("mass", {"semantics": "v5"}),
    ("mass", {"robot": "humanoid", "semantics": "v5"}),
    ("actuator_gain", {"robot": "half_cheetah"}),
    ("joint_paralysis", {"robot": "hopper"}),
    ("observation_offset", {"robot": "walker2d"}),
    ("observation_permutation", {"robot": "humanoid"}),
    ("target_velocity", {"robot": "humanoid"}),
    ("target_velocity", {"robot": "ant"}),
    (("mass", "friction"), {"robot": "ant"}),
]
NAMES = [
    f"{name if isinstance(name, str) else '+'.join(name)}-{i}" for i, (name, _) in enumerate(CASES)
]


@pytest.mark.parametrize(("modifier", "settings"), CASES, ids=NAMES)
def test_wrapper_and_batch_give_the_same_bits(modifier, settings):
    values = {**SCHEDULED, "modifier": modifier, **settings}
    batch, info = make(Config(num_envs=1, **values), total_steps=200)
    limit = {"episode_steps": values["max_episode_steps"]}
    rest = {name: value for name, value in values.items() if name != "max_episode_steps"}
    single = make_slippery(**{"robot": "ant", "total_steps": 200, **rest, **limit})
    assert single.schedule_hash == batch.schedule_hash
    assert np.array_equal(batch.reset()[0][0], single.reset()[0])
    seen = set()
    for action in np.random.default_rng(0).uniform(-0.4, 0.4, size=(190, info.action_dim)):
        row, one = batch.step(action[None]), single.step(action)
        assert np.array_equal(row[4]["next_observation"][0], one[0])
        assert (row[1][0], row[2][0], row[3][0]) == one[1:4]
        first = modifier if isinstance(modifier, str) else modifier[0]
        assert row[4]["regime_value"][0] == one[4]["regime_value"] == one[4][first]
        seen.add(one[4]["regime_value"])
        if one[2] or one[3]:
            assert np.array_equal(single.reset()[0], row[0][0])
    assert len(seen) >= 3  # in four worlds; a hopper has only three joints


@pytest.mark.parametrize(
    ("modifier", "settings"),
    [
        *CASES,
        ("mass", {"switch_rule": "episode_end"}),
        ("observation_permutation", {"switch_rule": "episode_end"}),
        ("gravity", {"schedule": "gradual", "update_every": 12}),
        ("target_velocity", {"schedule": "sinusoidal", "sinusoid_period": 240, "update_every": 12}),
        ("mass", {"intervals": "geometric", "update_every": 12}),
        (
            "mass",
            {
                "intervals": "geometric",
                "update_every": 6,
                "switch_interval": 30,
                "switch_rule": "episode_end",
            },
        ),
    ],
)
def test_a_restored_run_equals_an_uninterrupted_one_across_switches(modifier, settings):
    config = Config(num_envs=3, **{**SCHEDULED, "modifier": modifier, **settings})
    env, info = make(config, total_steps=10_000)
    tape = np.random.default_rng(1).uniform(-0.5, 0.5, size=(74, 3, info.action_dim))

    def play(envs, actions):
        rows = []
        for action in actions:
            observation, reward, terminated, truncated, told = envs.step(action)
            rows.append((observation, reward, terminated, truncated, told["next_observation"]))
            rows[-1] += (told["regime"], *(told[name] for name in config.modifiers))
        return rows

    env.reset()
    play(env, tape[:17])
    saved = env.snapshot()
    plain = {k: v for k, v in saved.items() if not isinstance(v, np.ndarray)}
    snapshot = {**saved, **json.loads(json.dumps(plain))}
    expected = play(env, tape[17:])
    assert len({row[6].tobytes() for row in expected}) >= 2  # values changed after the snapshot

    restored = make(config, total_steps=10_000)[0]
    restored.reset()
    play(restored, tape[:50])  # into other worlds, which must leave no trace
    restored.restore(snapshot)
    for found, row in zip(play(restored, tape[17:]), expected, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(found, row, strict=True))
    for key, value in env.snapshot().items():
        assert np.array_equal(restored.snapshot()[key], value), key


def test_any_mujoco_environment_can_be_changed():
    env = PhysicsSchedule(
        gymnasium.make("Swimmer-v5", max_episode_steps=1000),
        modifier=("actuator_gain", "target_velocity"),
        switch_interval=20,
    )
    env.reset(seed=0)
    weight, values = 1.0, set()
    for action in np.random.default_rng(0).uniform(-1, 1, size=(70, 2)):
        told = env.step(action)
        info = told[4]
        others = info["reward_ctrl"]
        gap = abs(info["x_velocity"] - info["target_velocity"])
        assert told[1] == pytest.approx(-weight * gap + others, abs=1e-12)
        values.add((info["actuator_gain"], info["target_velocity"]))
        if told[3]:
            env.reset()
    assert len(values) == 4
    with pytest.raises(AttributeError, match="leaves friction alone"):
        _ = env.friction


def test_environments_that_cannot_be_changed_so_are_refused():
    with pytest.raises(ValueError, match="reward for forward velocity"):
        PhysicsSchedule(gymnasium.make("Reacher-v5"), modifier="target_velocity")
    with pytest.raises(ValueError, match="has none; choose another modifier"):
        PhysicsSchedule(gymnasium.make("Pusher-v5"), modifier="gravity")


def test_drift_of_masses_reaches_the_model_under_running_episodes():
    settings = {"schedule": "sinusoidal", "sinusoid_period": 400, "update_every": 20}
    env, _ = make(Config(num_envs=2, modifier="mass", **settings), total_steps=1000)
    env.reset()
    for _ in range(150):
        info = env.step(np.zeros((2, 8)))[4]
        assert not info["switch_truncated"].any()
        total = env.simulations.models[0].body_mass.sum()
        assert total == pytest.approx(0.9108800827 * env.regime_value[0])


def test_events_name_the_quantity_and_are_read_by_reports(tmp_path):
    env, info = make(
        Config(num_envs=2, modifier=("mass", "friction"), switch_interval=20), total_steps=100
    )
    assert info.regime_label == "mass"
    env.reset()
    events = [event for _ in range(45) for event in env.step(np.zeros((2, 8)))[4]["events"]]
    assert [event["regime"] for event in events] == [1, 2, 3, 4]
    for event in events:
        assert event["value"] == event["mass"]
        assert 0.5 <= event["mass"] <= 2.0
        assert 0.02 <= event["friction"] <= 2.0
    assert events[-1]["mass"] == env.regime_values["mass"][0] == env.regime_value[0]
    assert events[-1]["friction"] == env.friction[0]
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    read = world_events(path)
    assert [values for _, _, values in read] == [[event["mass"]] for event in events]


def test_one_command_changes_the_quantity():
    default = compose_run(["env=slippery_ant"])
    assert "modifier" not in default.plain["env"]  # runs from before can go on
    chosen = compose_run(["env=slippery_ant", "env.modifier=mass"])
    assert chosen.config.env.modifiers == ("mass",)
    assert chosen.relative_directory != default.relative_directory
    assert regime_label(chosen.plain["env"]) == "mass"
    assert regime_label(default.plain["env"]) == "friction"
    both = compose_run(["env=slippery_humanoid", "env.modifier=[mass,gravity]"])
    assert both.config.env.modifiers == ("mass", "gravity")
    assert make(both.config.env, 100)[0].regime_values.keys() == {"mass", "gravity"}
    with pytest.raises(ConfigurationError, match="did you mean 'gravity'"):
        compose_run(["env=slippery_ant", "env.modifier=gravitiy"])


def test_contexts_tell_the_value_whatever_it_is_of():
    def told(modifier, source, **settings):
        envs, info = make(Config(num_envs=2, modifier=modifier, **settings), 100)
        envs.reset()
        config = given.Config(source=source, features="log")
        return envs, given.provide(config, envs, info, envs.config, 100, 0)

    for modifier in ("mass", "target_velocity"):
        envs, provider = told(modifier, "friction")
        law = envs.config.laws[modifier]
        middle, width = (law.low + law.high) / 2, law.high - law.low
        value = envs.regime_value
        if law.scale == "log":
            value = np.log(value)
            middle = (np.log(law.low) + np.log(law.high)) / 2
            width = np.log(law.high / law.low)
        expected = (value - middle) / (width / np.sqrt(12.0))
        found = provider._source.current(envs)
        np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5)
        assert (found[:, 1] == 1.0).all()
    with pytest.raises(ValueError, match="choose context=regime"):
        told("joint_paralysis", "friction")
    _, provider = told("joint_paralysis", "regime", schedule="cyclic", switch_interval=20)
    assert provider.dim == 2
    envs, provider = told(
        "mass", "regime", intervals="geometric", switch_interval=30, update_every=4
    )
    assert provider.dim == envs._clock.schedule.regime_at(99) + 1


def test_probe_sets_follow_the_quantity_and_nothing_else():
    sets = {
        name: probe(Config(robot="hopper", modifier=name))
        for name in ("friction", "gravity", "observation_permutation")
    }
    assert len({found.sha256 for found in sets.values()}) == 3
    other = Config(robot="hopper", modifier="gravity", world_seed=5, low=2.0, num_envs=3)
    assert probe(other).sha256 == sets["gravity"].sha256


def test_the_guide_names_every_quantity_schedule_and_robot():
    text = (Path(train.__file__).parent / "docs/worlds.md").read_text()
    presets = [f"{stem}{robot}" for robot in ROBOT_NAMES for stem in ("", "slippery_")]
    for name in [*modifiers.names(), *SCHEDULES, *presets]:
        assert f"`{name}`" in text, name
    for name in modifiers.names():
        law = modifiers.get(name).LAW
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}`"))
        assert f"{law.low:g} to {'all' if law.high is None else f'{law.high:g}'}" in row
        assert law.scale in row
        assert f"| {law.nominal:g}" in row


def test_an_evaluation_tells_values_on_the_scale_of_training():
    """A fixed world reads no range, but the networks learned with the range of their run."""
    words = ["env=slippery_ant", "context=friction", "env.num_envs=2", "env.friction_low=0.2"]
    config = compose_run([*words, "env.friction_high=0.8"]).config
    envs, _ = fixed_worlds(config, 2)
    envs.set_value(0.4)  # the geometric mean of the range of training
    envs.reset()
    np.testing.assert_allclose(envs.context[:, 0], 0.0, atol=1e-6)
    envs.close()


def test_values_to_visit_are_those_of_the_quantity():
    laws = Config(modifier=("mass", "target_velocity"), schedule="fixed").laws
    assert checked_values(None, "mass", laws["mass"]) == [0.5, 1.0, 2.0]
    assert checked_values("2, 0.7", "mass", laws["mass"]) == [2.0, 0.7]
    assert checked_values("-1,0", "target_velocity", laws["target_velocity"]) == [-1.0, 0.0]
    for text, words in (("0", "above 0"), ("x", "above 0"), ("2,2", "mass 2 is given twice")):
        with pytest.raises(ValueError, match=words):
            checked_values(text, "mass", laws["mass"])
