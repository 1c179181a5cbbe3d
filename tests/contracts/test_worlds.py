"""What training, resuming and comparing rely on, of every kind of environment.

Parametrised over the files of `envs/`, so that a new one is covered the moment it exists: with the
first preset that names its kind, and with those of `SMALL` that its settings have.
"""

import dataclasses
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import yaml

import configs
from analysis.run_clock import num_envs
from configs.build import build_environment
from configs.compose import compose_run
from configs.run import ENVIRONMENTS

SMALL = {"num_envs": 2, "max_episode_steps": 7, "switch_interval": 30}
# Preset and settings with which a world of each kind changes within the steps of a test.
KNOWN = {
    "bit_flipping": ("bit_flipping", ["env.num_envs=4", "env.switch_interval=32"]),
    "class_increments": ("class_increments", ["env.num_epochs=1", "total_steps=5750"]),
    "image_pairs": ("image_pairs", ["env.num_epochs=1", "env.num_tasks=8", "total_steps=2960"]),
    "locomotion": ("slippery_ant", [f"env.{name}={value}" for name, value in SMALL.items()]),
    "meta_world": ("mt1", ["env.horizon=6"]),
    "online_permutations": ("online_permuted_digits", []),
    "permuted_tasks": (
        "permuted_digits",
        ["env.num_epochs=1", "env.num_tasks=3", "total_steps=5568"],
    ),
    "sequences": (
        "mt10_sequence",
        ["env.copies=2", "env.horizon=6", "env.steps_per_task=30", "total_steps=300"],
    ),
}
SUPERVISED = set(KNOWN) - {"locomotion", "meta_world", "sequences"}
NUMBERED = SUPERVISED | {"sequences"}  # their worlds are tasks, which have no physical value
NUM_STEPS = 64
# What `train.py` and the recorder read of every step: name -> kinds of numpy types.
ROWS = {
    "regime": "iu",
    "regime_value": "f",
    "switch_truncated": "b",
    "unstable": "b",
    "episode_return": "f",
    "episode_length": "iuf",
    "episode_start_regime": "iu",
}


def _preset_of(kind):
    folder = Path(configs.__file__).parent / "env"
    for file in sorted(folder.glob("*.yaml")):
        if yaml.safe_load(file.read_text()).get("kind") == kind:
            return file.stem
    pytest.fail(f"no preset in configs/env says kind: {kind}")


def _words(kind):
    if kind in KNOWN:
        preset, settings = KNOWN[kind]
        return [f"env={preset}", *settings]
    names = {field.name for field in dataclasses.fields(ENVIRONMENTS.get(kind).Config)}
    small = [f"env.{name}={value}" for name, value in SMALL.items() if name in names]
    return [f"env={_preset_of(kind)}", *small]


@pytest.fixture(scope="module", params=ENVIRONMENTS.names())
def config(request):
    words = _words(request.param)
    if not any(word.startswith("total_steps=") for word in words):
        words.append("total_steps=100000")
    return compose_run([*words, *_agent(request.param)]).config


def _agent(kind):
    if kind in SUPERVISED:
        return ["agent=supervised"]
    return ["agent.rollout_length=4", "agent.minibatch_size=8"]


@pytest.fixture
def build(config):
    """Several worlds of the same settings, closed after the test."""
    built = []

    def one():
        built.append(build_environment(config))
        return built[-1]

    yield one
    for envs, _ in built:
        envs.close()


def actions(info):
    """(steps, N, actions) within what the simulator takes."""
    shape = NUM_STEPS, info.num_envs, info.action_dim
    low, high = np.maximum(info.action_low, -1.0), np.minimum(info.action_high, 1.0)
    return np.random.default_rng(0).uniform(low, high, shape).astype(np.float32)


def walk(envs, taken):
    """All that a run sees of these steps; environments may use their buffers again."""
    seen = []
    for action in taken:
        observation, reward, terminated, truncated, info = envs.step(action)
        np.testing.assert_array_equal(info["context"], envs.context)
        seen.append(deepcopy((observation, reward, terminated, truncated, info)))
    return seen


def same(one, other):
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        for a, b in zip(left[:4], right[:4], strict=True):
            np.testing.assert_array_equal(a, b)
        for name in (*ROWS, "next_observation", "context", "next_context"):
            np.testing.assert_array_equal(left[4][name], right[4][name], err_msg=name)
        assert left[4]["events"] == right[4]["events"]


def test_the_description_is_that_of_the_arrays(config, build):
    envs, info = build()
    observation, _ = envs.reset()
    assert observation.shape == (info.num_envs, info.observation_dim)
    assert envs.action_space.shape == (info.num_envs, info.action_dim)
    assert info.action_low.shape == info.action_high.shape == (info.action_dim,)
    context_dim = info.context_dim + info.gate_context_dim
    assert envs.context.shape == (info.num_envs, context_dim)
    assert info.regime_label
    # Curves, areas and recovery of a finished run count its steps with this number.
    assert num_envs(dataclasses.asdict(config.env)) == info.num_envs


def test_every_step_hands_back_what_training_reads(build):
    envs, info = build()
    first = envs.reset()[0]
    ended = 0
    for observation, reward, terminated, truncated, told in walk(envs, actions(info)):
        assert observation.shape == told["next_observation"].shape == first.shape
        assert np.isfinite(observation).all()
        assert np.isfinite(told["next_observation"]).all()
        assert reward.shape == (info.num_envs,)
        assert np.isfinite(reward).all()
        for flags in (terminated, truncated):
            assert flags.shape == (info.num_envs,)
            assert flags.dtype == bool
        for name, kinds in ROWS.items():
            assert told[name].shape == (info.num_envs,), name
            assert told[name].dtype.kind in kinds, name
        for name in ("context", "next_context"):
            assert told[name].shape == envs.context.shape
        if info.tells_success:
            assert told["episode_success"].shape == (info.num_envs,)
            assert told["episode_success"].dtype == bool
        if info.task_names:
            assert info.num_tasks == len(set(told["regime"].tolist())) <= len(info.task_names)
        if not info.answers:  # the others have no episodes
            over = terminated | truncated
            ended += over.sum()
            # Where an episode goes on, the next one begins with what the step led to.
            np.testing.assert_array_equal(observation[~over], told["next_observation"][~over])
    assert ended or info.answers


def test_worlds_change_and_every_change_is_an_event(config, build):
    envs, info = build()
    envs.reset()
    regime, num_changes = envs.regime.copy(), 0
    for *_, told in walk(envs, actions(info)):
        for event in told["events"]:
            if event["event"] not in ("switch", "drift"):
                continue
            num_changes += 1
            assert {"env_steps", "env_index", "regime"} <= set(event), event
            if config.env.kind not in NUMBERED:  # no value, no name in figures and tables
                assert {"value", "friction"} & set(event), event
            changed = slice(None) if event["env_index"] is None else event["env_index"]
            assert (event["regime"] > regime[changed]).all(), "worlds are numbered upwards"
            regime[changed] = event["regime"]
    if config.env.kind not in SUPERVISED:
        np.testing.assert_array_equal(envs.regime, regime)
    never = hasattr(ENVIRONMENTS.get(config.env.kind), "NEVER_CHANGES")
    assert bool(num_changes) is not never


def test_a_restored_world_goes_on_with_the_same_bits(build):
    (envs, info), (other, _) = build(), build()
    envs.reset()
    other.reset()
    taken = actions(info)
    for split in (9, 25):  # the second in another episode
        walk(envs, taken[:split])
        kept = envs.snapshot()
        expected = walk(envs, taken[split:])  # later steps must not change what was kept
        other.restore(kept)
        assert other.env_steps == envs.env_steps - (NUM_STEPS - split) * info.num_envs
        same(expected, walk(other, taken[split:]))


def test_equal_settings_give_equal_worlds(build):
    (envs, info), (other, _) = build(), build()
    np.testing.assert_array_equal(envs.reset()[0], other.reset()[0])
    taken = actions(info)
    same(walk(envs, taken), walk(other, taken))
