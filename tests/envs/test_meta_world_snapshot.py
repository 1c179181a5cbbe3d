"""A restored batch goes on bit for bit in a new process; controls show what else is needed."""

import mujoco
import numpy as np
import pytest
from gymnasium.spaces import Space
from meta_world_tools import (
    assert_same,
    batch,
    built,
    expert,
    goal_of,
    play,
    random_actions,
    reset_to,
)
from snapshot_tools import through_a_file

from envs.meta_world_snapshot import (
    CONSTANT,
    TaskState,
    View,
    capture,
    decode_attributes,
    encode_attributes,
    restore,
)
from envs.meta_world_tasks import ALL_TASKS, CW10, MT10

pytestmark = [
    pytest.mark.metaworld,
    pytest.mark.filterwarnings("ignore:Constant.s. may be too high"),
]

# Contacts, a hinge, two objects, and a task whose goal is a live view of MuJoCo's memory.
DIFFICULT = ("door-open-v3", "push-v3", "stick-pull-v3", "basketball-v3")
PUBLISHED = tuple(dict.fromkeys(MT10 + CW10))


def check_continuation(tasks, steps, num_workers):
    """Experts up to step 60, then the same random actions here and in the restored batch."""
    settings = {"horizon": 95, "run_seed": 2}
    env = batch(tasks, **settings)
    observation, policies = env.reset()[0], [expert(name) for name in tasks]
    for _ in range(60):
        actions = [policy(row) for policy, row in zip(policies, observation, strict=True)]
        observation = env.step(np.array(actions))[0]
    snapshot = through_a_file(env.snapshot())
    actions = random_actions(steps, len(tasks))
    expected = play(env, actions)
    env.close()
    other = batch(tasks, num_workers=num_workers, **settings)
    other.restore(snapshot)
    assert np.array_equal(other.last_observation, observation)
    assert other.env_steps == 60 * len(tasks)
    assert_same(play(other, actions), expected)
    other.close()


def test_a_new_process_goes_on_bit_for_bit_through_the_next_episode():
    check_continuation(DIFFICULT, 50, num_workers=1)


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [PUBLISHED[:9], PUBLISHED[9:]])
def test_all_published_tasks_go_on_in_a_new_process(tasks):
    check_continuation(tasks, 100, num_workers=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_TASKS)
def test_every_task_goes_on_bit_for_bit(name):
    check_continuation([name], 100, num_workers=0)


def continued(name, spoil):
    """Largest difference within 100 steps after a restore that ``spoil`` has touched."""
    env, policy = built(name), expert(name)
    observation = reset_to(env, name, goal_of(name))
    for _ in range(60):
        observation = env.step(policy(observation))[0]
    state = capture(env)
    actions = random_actions(100)
    expected = np.array([env.step(action)[0] for action in actions])
    reset_to(env, name, goal_of(name, 1))
    restore(env, TaskState(state.integration, state.model, {**state.attributes}))
    spoil(env)
    return float(np.abs(np.array([env.step(action)[0] for action in actions]) - expected).max())


def test_calling_forward_after_a_restore_changes_the_trajectory():
    assert continued("door-open-v3", lambda env: None) == 0.0
    assert continued("door-open-v3", lambda env: mujoco.mj_forward(env.model, env.data)) > 0.0


def test_model_edits_and_attributes_are_both_needed():
    def forget_model(env):
        env.model.body_pos[:] += 0.01

    def forget_attributes(env):
        env._prev_obs = np.zeros(18)

    assert continued("drawer-open-v3", forget_model) > 0.0
    assert continued("drawer-open-v3", forget_attributes) > 0.0


@pytest.mark.parametrize(
    ("name", "attribute"), [("door-lock-v3", "obj_init_pos"), ("bin-picking-v3", "_target_pos")]
)
def test_live_views_stay_live(name, attribute):
    """Their numbers change with the physics; a copy would freeze them."""
    env = built(name)
    reset_to(env, name, goal_of(name))
    state = capture(env)
    assert isinstance(state.attributes[attribute], View)
    setattr(env, attribute, np.zeros(3))
    restore(env, state)
    before = getattr(env, attribute).copy()
    env.data.xpos[:] += 1.0
    assert np.array_equal(getattr(env, attribute), before + 1.0)


def test_no_other_attribute_of_the_difficult_tasks_shares_mujocos_memory():
    for name in (*DIFFICULT, "door-lock-v3"):
        env = built(name)
        reset_to(env, name, goal_of(name))
        saved = capture(env).attributes
        fields = [getattr(env.data, field) for field in dir(env.data) if not field.startswith("_")]
        fields = [field for field in fields if isinstance(field, np.ndarray) and field.size]
        for attribute, value in vars(env).items():
            if isinstance(value, np.ndarray) and any(np.shares_memory(value, f) for f in fields):
                assert attribute in CONSTANT or isinstance(saved[attribute], View), attribute
            if not isinstance(value, Space):
                assert (attribute in saved) == (attribute not in CONSTANT)


def test_attributes_are_written_and_read_bit_by_bit():
    values = {
        "nothing": None,
        "flag": True,
        "count": 3,
        "ratio": 0.1,
        "undefined": float("nan"),
        "name": "reach",
        "vector": np.array([0.1, np.nan, -0.0]),
        "empty": np.zeros((0, 3), np.float32),
        "point": np.array(2.5),
        "scalar": np.float64(0.3),
        "flags": np.array([True, False]),
        "items": [1, (2.5, "x"), {"a": np.arange(3)}],
        "view": View("xpos", 6, (3,)),
    }
    again = decode_attributes(encode_attributes(values))
    assert list(again) == sorted(values)
    for name, value in values.items():
        assert type(again[name]) is type(value)
        if isinstance(value, np.ndarray):
            assert (again[name].dtype, again[name].shape) == (value.dtype, value.shape)
            assert again[name].tobytes() == value.tobytes()
    assert again["ratio"] == 0.1
    assert again["scalar"] == values["scalar"]
    assert again["view"] == values["view"]
    assert again["items"][1] == (2.5, "x")
    again["vector"][0] = 1.0  # writable, as it was


def test_attributes_of_unknown_kinds_are_refused_loudly():
    with pytest.raises(TypeError, match=r"attribute policy is a .*object"):
        encode_attributes({"policy": object()})
    for text in ('{"a": {"code": "x"}}', '{"a": {"array": ["O", [1], "00"]}}', "[]", "{"):
        with pytest.raises(ValueError, match="damaged"):
            decode_attributes(text)


def test_a_state_cannot_replace_methods_or_reach_outside():
    env = built("drawer-open-v3")
    reset_to(env, "drawer-open-v3", goal_of("drawer-open-v3"))
    state = capture(env)
    for attribute, value in (("step", 1), ("model", 1), ("view", View("xpos", 10**6, (3,)))):
        bad = TaskState(state.integration, state.model, {attribute: value})
        with pytest.raises(ValueError, match=r"no state of this task|does not have"):
            restore(env, bad)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(horizon=400), "horizon=400"),
        (lambda s: s.update(tasks="reach-v3"), "tasks=reach-v3"),
        (lambda s: s.update(goal_sha256="0"), "goal_sha256"),
        (lambda s: s.pop("row_0_attributes"), "attributes"),
        (lambda s: s.pop("env_steps"), "env_steps"),
        (lambda s: s.update(row_0_integration=np.zeros(3)), "integration"),
        (lambda s: s.update(row_0_goal_index=50), "goal 50"),
        (lambda s: s.pop("row_0_generator_0_state"), "generator_0_state"),
    ],
)
def test_a_snapshot_of_something_else_is_refused(change, message, env_with_snapshot):
    env, snapshot = env_with_snapshot
    changed = dict(snapshot)
    change(changed)
    with pytest.raises(ValueError, match=message):
        env.restore(changed)
    env.restore(snapshot)


@pytest.fixture(scope="module")
def env_with_snapshot():
    env = batch(["drawer-close-v3"])
    env.reset()
    yield env, env.snapshot()
    env.close()


def test_cycled_goals_go_on_too():
    settings = {"goal_order": "cycle", "horizon": 2, "num_goals": 5}
    env = batch(["drawer-close-v3"], **settings)
    env.reset()
    env.step(np.zeros((1, 4)))
    snapshot = through_a_file(env.snapshot())
    actions = random_actions(12, 1)
    expected = play(env, actions)
    env.restore(snapshot)
    assert_same(play(env, actions), expected)
    env.close()
