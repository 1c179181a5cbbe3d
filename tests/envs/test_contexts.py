"""What is told about the world: true values, control arms, exact successors, exact resume."""

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from agents.base import Transition
from analysis.restored import fixed_worlds
from configs.build import build_agent, build_environment, build_probe, context_spec
from configs.compose import compose_run
from configs.schema import ConfigurationError
from envs.base import EnvInfo
from envs.contexts import controls, given
from envs.contexts.layer import ContextLayer
from envs.contexts.sources import Friction, Regime
from envs.schedules import ScheduleConfig, make_schedule, visited_range
from networks.torso import ContextSpec
from train import EXIT_CONFIGURATION, main

ANT = [
    "env=slippery_ant",
    "env.num_envs=3",
    "env.max_episode_steps=20",
    "env.switch_interval=90",
    "agent.rollout_length=10",
    "agent.minibatch_size=30",
    "total_steps=1000",
]


class Tasks(VectorEnv):
    """Rows of fixed tasks whose episodes end at random; counts what it was asked."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, num_tasks=4, copies=2, length=7, seed=0):
        self.num_envs = num_tasks * copies
        self.tasks = np.repeat(np.arange(num_tasks), copies)
        self.context = np.eye(num_tasks, dtype=np.float32)[self.tasks]
        self.rng, self.length = np.random.default_rng(seed), length
        self.last_observation = np.zeros((self.num_envs, 1))
        one = np.ones(1, dtype=np.float32)
        self.info = EnvInfo("toy", self.num_envs, 1, 1, -one, one, num_tasks, length, "task", 1.0)

    def reset(self, **options):
        return self.last_observation, {"context": self.context, "events": []}

    def step(self, actions):
        ended = self.rng.random(self.num_envs) < 1 / self.length
        info = {"context": self.context, "next_context": self.context, "events": []}
        return self.last_observation, np.zeros(self.num_envs), ended, ended & False, info


def layer_over(envs, seed=0, **settings):
    config = given.Config(**{"source": "auto", **settings})
    provider = given.provide(config, envs, envs.info, object(), 1000, seed)
    return ContextLayer(envs, envs.info, provider)


def ant(*words):
    return build_environment(compose_run([*ANT, *words]).config)


# True contexts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["env.modifier=mass", "env.schedule=cyclic", "env.values=[0.1,10]"],
        [
            "env.modifier=gravity",
            "env.schedule=list",
            "env.values=[1.62,0.5]",
            "env.on_exhausted=cycle",
        ],
        ["env.schedule=cyclic", "env.cyclic_values=[0.0005,100]"],
        ["env.source=list", "env.friction_values=[100,0.0005]", "env.on_exhausted=cycle"],
    ],
)
@pytest.mark.parametrize("features", ["rbf", "log"])
def test_listed_worlds_outside_of_the_law_are_told_apart(words, features):
    envs, _ = ant(*words, "context=oracle", f"context.features={features}")
    envs.reset()
    told = [envs.context[0]]
    while len(told) < 2:
        *_, info = envs.step(np.zeros((3, 8), dtype=np.float32))
        if info["events"]:
            told.append(envs.context[0])
    envs.close()
    assert np.abs(told[0] - told[1]).max() > 0.5
    for context in told:
        assert np.abs(context[:-1]).max() > 0.5
        assert np.abs(context).max() < 3.0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (0.02, 2.0)),
        ({"friction_low": 0.1}, (0.1, 2.0)),
        ({"schedule": "cyclic"}, (0.02, 2.0)),
        ({"schedule": "sinusoidal"}, (0.02, 2.0)),
        ({"schedule": "sinusoidal", "sinusoid_center": 1.0}, (0.02, 10.0)),
        ({"schedule": "fixed", "fixed_friction": 5.0}, (0.02, 5.0)),
        ({"schedule": "list", "friction_values": [0.5, 0.01]}, (0.01, 2.0)),
    ],
)
def test_the_range_that_contexts_cover_is_that_of_the_law_and_what_is_listed(settings, expected):
    assert visited_range(ScheduleConfig(**settings), "friction") == expected


def test_22_features_of_the_friction():
    rbf = Friction(0.02, 2.0, "rbf").encode(np.array([0.2]))[0]
    half = [0.002187, 0.043937, 0.324652, 0.882497]
    assert rbf.tolist() == pytest.approx([*half, *reversed(half), 1.0], abs=1e-6)
    log = Friction(0.02, 2.0, "log").encode(np.array([2.0, 0.2]))
    assert log[0].tolist() == pytest.approx([1.7321, 1.0], abs=5e-5)
    assert log[1].tolist() == pytest.approx([0.0, 1.0], abs=1e-7)


def test_the_logarithm_is_standardised_by_its_law():
    draws = np.exp(np.random.default_rng(0).uniform(np.log(0.05), np.log(3.0), 100_000))
    told = Friction(0.05, 3.0, "log").encode(draws)[:, 0]
    assert told.mean() == pytest.approx(0.0, abs=0.01)
    assert told.std() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("rule", ["exact", "episode_end"])
def test_contexts_of_returned_observations_and_of_successors(rule):
    """The world that held belongs to the final observation, the new one to the next episode."""
    envs, info = ant("context=friction", f"env.switch_rule={rule}")
    source = Friction(0.02, 2.0, "log")
    assert (info.context_dim, info.context_discrete) == (2, False)
    assert context_spec(info) == ContextSpec(2, False)
    _, first = envs.reset()
    np.testing.assert_array_equal(first["context"], source.encode(first["friction"]))
    rng, frictions, crossed = np.random.default_rng(0), set(), 0
    for _ in range(150):
        before = envs.context
        *_, terminated, truncated, step = envs.step(rng.uniform(-1, 1, (3, 8)))
        ended = terminated | truncated
        held = source.encode(step["friction"])
        np.testing.assert_array_equal(before, held)
        np.testing.assert_array_equal(step["next_context"], held)
        np.testing.assert_array_equal(step["context"], source.encode(envs.friction))
        np.testing.assert_array_equal(step["context"], envs.context)
        crossed += int((step["context"] != step["next_context"]).any(1)[ended].sum())
        frictions |= set(envs.friction.tolist())
    assert len(frictions) >= 4
    assert crossed >= 9
    envs.close()


def test_a_drifting_friction_is_told_as_it_is_for_the_next_action():
    envs, _ = ant("context=friction", "env.schedule=gradual", "env.update_every=6")
    envs.reset()
    rng, moved = np.random.default_rng(0), 0
    for _ in range(40):
        *_, terminated, truncated, step = envs.step(rng.uniform(-1, 1, (3, 8)))
        ended = terminated | truncated
        np.testing.assert_array_equal(step["context"][~ended], step["next_context"][~ended])
        moved += int((envs.friction != step["friction"]).any())
    assert moved >= 10
    envs.close()


def test_regimes_are_one_hot_and_cyclic_ones_return():
    assert Regime(3, cyclic=False).encode(np.array([0, 2])).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert Regime(2, cyclic=True).encode(np.array([0, 3])).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match="num_regimes"):
        Regime(2, cyclic=False).encode(np.array([2]))
    _, info = ant("context=regime")
    assert (info.context_dim, info.context_discrete) == (12, True)  # 1000 steps of 90
    _, info = ant("context=regime", "env.schedule=cyclic")
    assert info.context_dim == 2


def test_worlds_without_a_need_get_no_layer():
    for words in ([], ["context=none"]):
        envs, info = ant(*words)
        assert not isinstance(envs, ContextLayer)
        assert info.context_dim == 0
        envs.close()
    envs = Tasks()
    assert given.provide(given.Config(), envs, envs.info, object(), 1, 0) is None
    hidden = layer_over(envs, source="none")
    assert hidden.context.shape == (8, 0)


# Controls ----------------------------------------------------------------------------------


def run(layer, steps):
    """Contexts shown (T, N, C), successors, and which episodes ended."""
    layer.reset()
    shown, successors, ends = [], [], []
    for _ in range(steps):
        shown.append(layer.context)
        *_, terminated, truncated, info = layer.step(
            np.zeros((layer.env.num_envs, layer.info.action_dim))
        )
        successors.append(info["next_context"])
        ends.append(terminated | truncated)
        np.testing.assert_array_equal(info["context"], layer.context)
    return np.array(shown), np.array(successors), np.array(ends)


def test_21_shuffled_tasks_say_nothing_and_last_as_long():
    envs = Tasks(num_tasks=10, copies=10, length=3)
    shown, successors, ends = run(layer_over(envs, control="shuffled"), 310)
    ids = shown.argmax(-1)
    assert (shown.sum(-1) == 1).all()
    np.testing.assert_array_equal(successors, shown)  # a successor is of the same episode
    assert (ids[1:] == ids[:-1])[~ends[:-1]].all()
    starts = np.concatenate((np.ones((1, 100), bool), ends[:-1]))
    joint = np.zeros((10, 10))
    np.add.at(joint, (np.broadcast_to(envs.tasks, ids.shape)[starts], ids[starts]), 1)
    assert joint.sum() >= 10_000
    joint /= joint.sum()
    expected = np.outer(joint.sum(1), joint.sum(0))
    information = np.sum(joint * np.log(np.maximum(joint, 1e-300) / expected))
    assert information <= 0.01
    np.testing.assert_allclose(joint.sum(0), 0.1, atol=0.015)  # marginals are kept


def test_zero_and_constant():
    envs = Tasks()
    assert not layer_over(envs, control="zero").context.any()
    constant = layer_over(envs, control="constant")
    shown, _, _ = run(constant, 5)
    assert (shown == np.eye(4)[3]).all()
    ant_envs, info = ant("context=zero")
    assert (info.context_dim, info.context_discrete) == (9, False)
    ant_envs.reset()
    assert not ant_envs.context.any()


def test_the_truth_may_stay_at_the_input():
    envs = Tasks()
    for control in ("zero", "shuffled"):
        layer = layer_over(envs, control=control, input="source")
        assert (layer.provider.dim, layer.provider.gate_dim) == (4, 4)
        shown, successors, _ = run(layer, 30)
        assert (shown[..., :4] == envs.context).all()
        assert (successors[..., :4] == envs.context).all()
        assert (shown[..., 4:] == 0).all() == (control == "zero")
    _, info = ant("context=shuffled", "context.input=source")
    assert context_spec(info) == ContextSpec(9, False, ContextSpec(9, False))


def test_an_earlier_episode_is_played_back_and_held():
    generator = np.random.default_rng(0)
    control = controls.PlayedBack(1, 1, 5, generator)
    row, played = np.array([0]), []

    def episode(values):
        control.start(row, np.array([[values[0]]], np.float32))
        shown = [float(control.show(np.zeros((1, 1)))[0, 0])]
        for value in values[1:]:
            control.advance(np.array([[value]], np.float32))
            shown.append(float(control.show(np.zeros((1, 1)))[0, 0]))
        return shown

    assert episode([1, 2, 3]) == [1, 1, 1]  # nothing is known yet
    assert episode([4, 5, 6, 7, 8]) == [1, 2, 3, 3, 3]
    for _ in range(40):
        played.append(tuple(episode([9, 9])))
    assert set(played) == {(1, 2), (4, 5), (9, 9)}


def at_friction(layer, value, steps=25):
    """Contexts of the gates over some steps in a world that was chosen."""
    layer.set_value(value)
    layer.reset(seed=0)
    return run(layer, steps)[0][..., layer.provider.dim :]


@pytest.mark.parametrize(
    "words", [["context=shuffled"], ["context=inferred", "context.control=shuffled"]]
)
def test_shuffled_contexts_are_measured_with_those_of_training(words):
    words = [*ANT, *words, "context.input=source"]
    config = compose_run(words).config
    lived, _ = build_environment(config)
    run(lived, 100)
    prefix = "context_" if words[-2] == "context=shuffled" else "context_control_"
    kept = {k.removeprefix(prefix): v for k, v in lived.snapshot().items() if k.startswith(prefix)}
    lengths = kept["memory_length"][: kept["num_remembered"][0]]
    remembered = np.concatenate([m[:n] for m, n in zip(kept["memory"], lengths, strict=False)])

    def told(values):
        layer, _ = fixed_worlds(config, 2)
        layer.adopt(lived.snapshot())
        return {value: at_friction(layer, value) for value in values}

    forth, back = told([0.02, 2.0]), told([2.0, 0.02])
    for value, shown in forth.items():
        np.testing.assert_array_equal(shown, back[value])  # the order of worlds does not matter
        rows = {row.tobytes() for row in remembered.astype(np.float32)}
        assert all(row.tobytes() in rows for row in shown.reshape(-1, shown.shape[-1]))
    if words[-2] == "context=shuffled":
        np.testing.assert_array_equal(forth[0.02], forth[2.0])  # nothing about the world


def test_every_past_episode_is_equally_likely_to_be_in_memory():
    counts = np.zeros(100)
    for seed in range(100):
        control = controls.PlayedBack(1, 1, 1, np.random.default_rng(seed))
        for number in range(101):
            control.start(np.array([0]), np.array([[number]], np.float32))
            control.advance(np.array([[number]], np.float32))
        memory = control.snapshot()["memory"][:, 0, 0].astype(int)
        assert len(set(memory.tolist())) == controls.MEMORY
        counts[memory] += 1
    assert counts.sum() == 100 * controls.MEMORY
    assert counts[:32].mean() == pytest.approx(32, abs=5)  # not only the latest
    assert counts[-32:].mean() == pytest.approx(32, abs=5)


def test_a_delay_outlives_episodes_and_begins_with_the_first_context():
    control = controls.Delayed(2, 1, 2)
    control.start(np.array([0, 1]), np.array([[1.0], [10.0]], np.float32))
    shown = []
    for value in (2.0, 3.0, 4.0, 5.0):
        shown.append(control.show(np.zeros((2, 1)))[:, 0].tolist())
        control.advance(np.array([[value], [10 * value]], np.float32))
        if value == 3.0:
            control.start(np.array([1]), np.array([[77.0], [0.5]], np.float32))
    assert shown == [[1, 10], [1, 10], [1, 10], [2, 20]]
    assert control.show(np.zeros((2, 1)))[:, 0].tolist() == [3, 0.5]  # the start, not the end
    control.forget()
    control.start(np.array([1]), np.array([[6.0], [7.0]], np.float32))
    assert control.show(np.array([[8.0], [9.0]]))[:, 0].tolist() == [8, 7]


@pytest.mark.parametrize("rule", ["exact", "episode_end"])
def test_a_world_that_changes_where_episodes_end_is_told_late(rule):
    words = ["env.schedule=cyclic", "env.switch_interval=60", f"env.switch_rule={rule}"]
    told, late = (
        ant(f"context={name}", "context.source=friction", *words, *more)[0]
        for name, more in (("friction_rbf", []), ("delayed", ["context.delay=7"]))
    )
    rng, truth, shown = np.random.default_rng(0), [], []
    for envs, seen in ((told, truth), (late, shown)):
        envs.reset()
        seen.append(envs.context)
    for _ in range(60):
        action = rng.uniform(-1, 1, (3, 8))
        for envs, seen in ((told, truth), (late, shown)):
            envs.step(action)
            seen.append(envs.context)
    expected = [*[truth[0]] * 7, *truth[:-7]]
    np.testing.assert_array_equal(shown, expected)
    assert (np.array(shown) != np.array(truth)).any(axis=(1, 2)).sum() >= 7
    told.close()
    late.close()


def test_a_delay_does_not_reach_into_a_world_chosen_before():
    envs, _ = ant("context=delayed", "context.delay=3", "env.schedule=fixed")
    source = Friction(0.02, 2.0, "rbf")
    for value in (0.1, 1.5):
        envs.set_value(value)
        envs.reset()
        np.testing.assert_array_equal(envs.context, source.encode(np.full(3, value)))
    envs.close()


@pytest.mark.parametrize(
    ("num_regimes", "words", "width"),
    [
        ("null", ["env.schedule=sinusoidal", "env.sinusoid_period=90", "env.update_every=6"], 12),
        ("null", ["env.intervals=geometric", "env.update_every=6"], 9),
        ("null", ["env.schedule=fixed"], 1),
        ("12", [], 12),
        ("20", [], 20),
        ("11", [], "this run meets 12 worlds in 1,000 steps"),
        ("2", ["env.schedule=cyclic"], 2),
        ("3", ["env.schedule=cyclic"], "or to 2, which then return"),
        ("12", ["env.schedule=cyclic"], 12),
    ],
)
def test_there_is_a_column_for_every_world_of_a_run(num_regimes, words, width):
    words = ["context=regime", f"context.num_regimes={num_regimes}", *words]
    if isinstance(width, str):
        with pytest.raises(ConfigurationError, match=width):
            ant(*words)
        return
    envs, info = ant(*words)
    assert info.context_dim == width
    last = make_schedule(compose_run([*ANT, *words]).config.env).regime_at(999)
    assert width > last or "env.schedule=cyclic" in words
    envs.provider._source.encode(np.array([last]))
    envs.close()


@pytest.mark.parametrize("words", [[], ["context.input=source"]])
def test_a_stream_has_no_episodes_to_shuffle(words, tmp_path, capsys):
    words = ["experiment=permuted_digits", "arm=permuted_dendrites", "context=shuffled", *words]
    assert main([*words, f"runs_root={tmp_path}", "progress=false"]) == EXIT_CONFIGURATION
    assert "choose control=zero or constant" in capsys.readouterr().err


@pytest.mark.parametrize("control", ["shuffled", "zero"])
def test_33_controls_draw_from_a_stream_of_their_own(control):
    """Neither the world nor anybody's noise changes."""
    plain, _ = ant("context=none")
    layered, _ = ant("context=oracle", f"context.control={control}")
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(plain.reset()[0], layered.reset()[0])
    for _ in range(60):
        action = rng.uniform(-1, 1, (3, 8))
        one, two = plain.step(action), layered.step(action)
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])
    for envs in (plain, layered):
        envs.close()


def life(*words):
    """Actions of a PPO of two updates, and the state of the stream of its action noise."""
    config = compose_run([*ANT, "network.hidden_sizes=[16]", "optimizer=adam", *words]).config
    envs, info = build_environment(config)
    agent = build_agent(config, info)
    observation, context, actions = envs.reset()[0], envs.context, []
    for _ in range(25):
        action = agent.act(observation, context, explore=True)
        following, reward, *ends, seen = envs.step(action)
        told = (seen["next_observation"], *ends, context, seen["next_context"], seen["regime"])
        agent.observe(Transition(observation, action, reward, *told))
        agent.update()
        actions.append(action)
        observation, context = following, seen["context"]
    envs.close()
    agent.close()
    assert agent.iteration == 2
    return np.array(actions), agent.state_dict()["action_noise"]


def test_33_zeros_change_no_noise_and_no_action_of_who_does_not_look():
    blind = ["network=mlp", "network.context_to_input=false"]
    actions, noise = life("context=none", *blind)
    zeros, same = life("context=zero", *blind)
    np.testing.assert_array_equal(zeros, actions)
    assert torch.equal(torch.as_tensor(same), torch.as_tensor(noise))


# State -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["context=friction_rbf"],
        ["context=shuffled"],
        ["context=shuffled", "context.input=source"],
        ["context=delayed", "context.delay=4"],
        ["context=shuffled", "context.source=regime"],
    ],
)
def test_a_snapshot_continues_in_the_same_bits(words):
    envs, _ = ant(*words)
    envs.reset()
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (120, 3, 8))
    for action in actions[:60]:
        envs.step(action)
    saved, shown = envs.snapshot(), envs.context
    again, _ = ant(*words)
    again.restore(saved)
    np.testing.assert_array_equal(again.context, shown)
    for action in actions[60:]:
        one, two = envs.step(action)[4], again.step(action)[4]
        for key in ("context", "next_context"):
            np.testing.assert_array_equal(one[key], two[key])
    assert all(type(value) in (int, str, np.ndarray) for value in saved.values())
    other, _ = ant("context=constant")
    with pytest.raises(ValueError, match=r"context|label"):
        other.restore(saved)


def test_equal_seeds_shuffle_alike():
    def ids(seed):
        return run(layer_over(Tasks(), seed=seed, control="shuffled"), 50)[0].argmax(-1)

    np.testing.assert_array_equal(ids(1), ids(1))
    assert (ids(1) != ids(2)).any()


def test_19_contexts_are_causal():
    """What happens at step t or later leaves the context of step t as it was."""
    for words in (["context=shuffled"], ["context=delayed", "context.delay=3"]):
        first, second = ant(*words)[0], ant(*words)[0]
        rng, kept = np.random.default_rng(0), []
        common, one, two = (rng.uniform(-1, 1, (n, 3, 8)) for n in (30, 20, 20))
        for envs, rest in ((first, one), (second, two)):
            envs.reset()
            for action in common:
                envs.step(action)
            kept.append(envs.context)
            envs.step(rest[0])
        np.testing.assert_array_equal(*kept)


# Sample sets and refusals ------------------------------------------------------------------


def test_the_sample_set_shows_what_networks_would_be_shown():
    config = compose_run([*ANT, "context=friction"]).config
    envs, _ = build_environment(config)
    probe = build_probe(config, envs)
    assert probe.contexts.shape == (1000, 2)
    values, counts = np.unique(probe.contexts[:, 0], return_counts=True)
    assert counts.tolist() == [100] * 10
    # Log-quantiles 5 %, 15 %, ... of the law, standardised.
    np.testing.assert_allclose(values, (np.arange(10) - 4.5) * np.sqrt(12) / 10, atol=1e-6)
    envs.close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["context=shufled"], "did you mean 'shuffled'"),
        (["context.control=mixed"], "context.control"),
        (["context=none", "context.control=zero"], "nothing to act on"),
        (["context.control=zero"], "announces none"),
        (["context.input=source"], "context.control is none"),
        (["context.delay=3"], "context.delay"),
        (["network=dendritic"], "acts on a context"),
        (["network=xdg", "context=friction"], "finite number of contexts"),
        (["context=zero", "context.input=source"], "has no gates"),
        (["context=regime", "context.num_regimes=0"], "num_regimes"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(words, message, tmp_path, capsys):
    code = main([*ANT, *words, f"runs_root={tmp_path}", "progress=false"])
    error = capsys.readouterr().err
    assert code == EXIT_CONFIGURATION
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_tasks_have_no_friction():
    envs = Tasks()
    config = given.Config(source="friction")
    with pytest.raises(ValueError, match="walking robots"):
        given.provide(config, envs, envs.info, object(), 1, 0)
    with pytest.raises(ConfigurationError, match="source"):
        compose_run(["context.source=weather"])
