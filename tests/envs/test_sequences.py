"""Tasks follow each other at exact steps; nothing of a border is lost or invented."""

import numpy as np
import pytest

from configs.compose import compose_run
from configs.schema import ConfigurationError
from envs.meta_world_goals import load_goals
from envs.meta_world_tasks import CW10, MT10
from envs.sequences import Config, make, make_evaluation, probe

pytestmark = pytest.mark.metaworld
TASKS = ("drawer-close-v3", "window-close-v3")
SMALL = {"benchmark": "custom", "tasks": TASKS, "steps_per_task": 100, "horizon": 30}


def actions(steps, rows, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (steps, rows, 4)).astype(np.float32)


# Plans ----------------------------------------------------------------------------------------


def test_presets_follow_the_published_orders():
    mt10 = compose_run(["env=mt10_sequence", "agent=ppo", "total_steps=2000000"]).config.env
    assert mt10 == Config()
    assert tuple(stage.name for stage in mt10.plan.stages) == mt10.task_names == MT10
    cw20 = compose_run(["env=cw20", "agent=ppo", "total_steps=4000000"]).config.env
    assert tuple(stage.name for stage in cw20.plan.stages) == CW10 * 2
    assert [stage.column for stage in cw20.plan.stages] == list(range(20))
    assert cw20.planned_steps == 4_000_000


def test_a_shuffled_order_moves_stages_and_no_context():
    shuffled = Config(order_seed=3, repeats=2).plan
    names = [stage.name for stage in shuffled.stages]
    assert names[:10] == names[10:]
    assert sorted(names[:10]) == sorted(MT10)
    assert names[:10] != list(MT10)
    assert [MT10[stage.column] for stage in shuffled.stages] == names
    assert [shuffled.evaluated[row] for row in shuffled.stage_rows] == names
    assert shuffled.contexts == MT10  # so that goals are those of MT10
    by_position = Config(order_seed=3, context_id="position").plan
    assert by_position.contexts == tuple(names[:10])


def test_one_task_by_itself_keeps_its_context_and_goals():
    whole, single = Config(order_seed=1), Config(order_seed=1, only_task="push-v3")
    assert single.task_names == ("push-v3",)
    assert single.planned_steps == single.steps_per_task
    assert single.plan.contexts == whole.plan.contexts
    (stage,) = single.plan.stages
    assert MT10[stage.column] == "push-v3"
    assert single.plan.stage_rows == (0,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["env.steps_per_task=1001"], "multiple of copies"),
        (["env.context_id=name"], "task, position"),
        (["env.benchmark=mt1"], "no sequence"),
        (["env.only_task=hammer-v3"], "not in the sequence"),
        (["env.benchmark=custom", "env.tasks=[push-v3,push-v3]"], "position"),
        (["log.quick_evaluation_steps=30000"], "must divide env.steps_per_task"),
        (["env=mt10", "log.stage_evaluation=true"], "one after another"),
    ],
)
def test_wrong_settings_are_refused_with_a_hint(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        compose_run(["env=mt10_sequence", "agent=ppo", *settings])


def test_a_run_longer_than_its_stages_is_refused():
    with pytest.raises(ValueError, match="set total_steps=200"):
        make(Config(**SMALL), 204)


# Borders --------------------------------------------------------------------------------------


def test_the_task_changes_after_exactly_its_steps_and_cuts_without_ending():
    """1,000 steps of 4 copies are 250 vector steps."""
    config = Config(**{**SMALL, "steps_per_task": 1_000, "horizon": 60})
    envs, info = make(config, 2_000)
    observation, _ = envs.reset()
    assert (info.num_envs, info.context_dim, info.num_tasks) == (4, 2, 1)
    for step, action in enumerate(actions(250, 4), start=1):
        assert envs.context.tolist() == [[1.0, 0.0]] * 4
        observation, _, terminated, truncated, seen = envs.step(action)
        assert envs.observation_space.contains(observation)
        assert not terminated.any()
        if step < 250:
            assert truncated.all() == (step % 60 == 0)
            assert not seen["events"]
            assert not seen["switch_truncated"].any()
    assert envs.env_steps == 1_000
    assert truncated.all()
    assert seen["switch_truncated"].all()  # step 250 is in the middle of an episode
    assert seen["episode_length"].tolist() == [10] * 4
    # The transition belongs to the old task, what follows to the new one.
    assert seen["next_context"].tolist() == [[1.0, 0.0]] * 4
    assert seen["context"].tolist() == envs.context.tolist() == [[0.0, 1.0]] * 4
    assert seen["regime"].tolist() == seen["episode_start_regime"].tolist() == [0] * 4
    assert envs.regime.tolist() == [1] * 4
    assert not np.array_equal(observation, seen["next_observation"])
    (event,) = seen["events"]
    assert (event["event"], event["env_steps"], event["regime"]) == ("switch", 1_000, 1)
    assert event["task"] == TASKS[1]
    vectors = load_goals(TASKS, 0).vectors[1]
    goals = {tuple(np.round(row[36:], 3).tolist()) for row in observation}
    assert len(vectors) == 50
    assert len(goals) > 1  # every copy has chosen for itself
    envs.close()


def test_an_episode_that_ends_at_the_border_is_no_cut_one():
    envs, _ = make(Config(**{**SMALL, "horizon": 25}), 200)
    envs.reset()
    for action in actions(25, 4):
        *_, truncated, seen = envs.step(action)
    assert truncated.all()
    assert seen["events"]
    assert not seen["switch_truncated"].any()
    envs.close()


def test_nobody_hears_of_a_border_of_an_agnostic_sequence():
    envs, info = make(Config(**SMALL, task_agnostic=True), 200)
    envs.reset()
    for action in actions(25, 4):
        *_, seen = envs.step(action)
    assert info.context_dim == 0
    assert seen["context"].shape == (4, 0)
    assert [event["event"] for event in seen["events"]] == ["hidden_switch"]
    assert envs.regime.tolist() == [1] * 4
    envs.close()


def test_the_last_stage_has_no_border():
    envs, _ = make(Config(**SMALL, only_task=TASKS[1]), 100)
    envs.reset()
    for action in actions(25, 4):
        *_, truncated, seen = envs.step(action)
    assert not truncated.any()
    assert not seen["events"]
    assert envs.context.tolist() == [[0.0, 1.0]] * 4
    envs.close()


def test_a_snapshot_goes_on_bit_for_bit_before_and_after_a_border():
    config = Config(**SMALL, copies=2)
    played = actions(70, 2)
    envs, _ = make(config, 200)
    envs.reset()
    saved = {}
    rows = []
    for step, action in enumerate(played):
        if step in (44, 50, 63):  # before, at and after the border after 50 vector steps
            saved[step] = envs.snapshot()
        rows.append(envs.step(action))
    envs.close()
    for step, snapshot in saved.items():
        again, _ = make(config, 200)
        again.reset()
        again.restore(snapshot)
        assert again.regime.tolist() == [int(step >= 50)] * 2
        for action, row in zip(played[step:], rows[step:], strict=True):
            other = again.step(action)
            for index in range(4):
                np.testing.assert_array_equal(row[index], other[index])
            for key in ("next_observation", "context", "goal_index", "episode_return"):
                np.testing.assert_array_equal(row[4][key], other[4][key])
        again.close()
    broken = {**saved[63], "stage": 0}
    again, _ = make(config, 200)
    with pytest.raises(ValueError, match="damaged"):
        again.restore(broken)
    with pytest.raises(ValueError, match="steps_per_task"):
        again.restore({**saved[63], "steps_per_task": 200})
    again.close()


def test_a_second_visit_chooses_goals_of_its_own():
    config = Config(**{**SMALL, "tasks": TASKS[:1], "steps_per_task": 40, "horizon": 5}, repeats=2)
    envs, _ = make(config, 80)
    envs.reset()
    chosen = [envs.step(action)[4]["goal_index"] for action in actions(20, 4)]
    first, second = np.array(chosen[:10]), np.array(chosen[10:])
    assert not np.array_equal(first, second)
    assert envs.context.tolist() == [[1.0]] * 4  # the same task, so the same context
    envs.close()


def test_a_seed_holds_for_the_stages_to_come():
    """A reset with a seed is a run with that seed, in every stage and after a resume."""
    short = {**SMALL, "copies": 2, "steps_per_task": 20, "horizon": 3, "goal_seed": 0}
    played = actions(20, 2)

    def chosen(envs, steps):
        return np.array([envs.step(action)[4]["goal_index"] for action in steps])

    of_the_run, _ = make(Config(**short, world_seed=9), 40)
    of_the_run.reset()
    expected = chosen(of_the_run, played)
    assert not np.array_equal(expected[:10], expected[10:])
    envs, _ = make(Config(**short), 40)
    envs.reset()
    assert "reseeded" not in envs.snapshot()  # whose hash is that of earlier versions
    envs.reset(seed=9)
    np.testing.assert_array_equal(chosen(envs, played[:5]), expected[:5])
    again, _ = make(Config(**short), 40)
    again.restore(envs.snapshot())
    np.testing.assert_array_equal(chosen(again, played[5:]), expected[5:])
    for each in (of_the_run, envs, again):
        each.close()


# Evaluations ----------------------------------------------------------------------------------


def test_evaluations_see_all_tasks_and_a_reference_only_its_own():
    worlds = make_evaluation(Config(**SMALL))
    assert worlds.num_envs == 2
    assert worlds.context.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert worlds.info.num_tasks == 1
    single = make_evaluation(Config(**SMALL, only_task=TASKS[1]))
    assert single.rows_of(0).tolist() == [0]
    assert single.context.tolist() == [[0.0, 1.0]]
    ours = single.start_episodes([0], [7])[0]
    assert np.array_equal(ours, worlds.start_episodes([0, 1], [7, 7])[1])
    worlds.close()
    single.close()


def test_the_probe_of_a_reference_shows_the_context_of_the_sequence():
    config = Config(**SMALL, only_task=TASKS[1])
    assert probe(config).contexts.tolist() == [[0.0, 1.0]] * 100
    hidden = Config(**SMALL, only_task=TASKS[1], hide_task_id=True)
    assert probe(hidden).contexts.shape == (100, 0)
