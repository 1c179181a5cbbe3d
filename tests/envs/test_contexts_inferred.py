"""Contexts that nobody announces: arithmetic, blindness to the truth, separation, exact resume."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorWrapper

from configs.build import build_environment
from configs.compose import compose_run
from configs.schema import ConfigurationError
from envs.contexts import inferred, window
from envs.contexts.layer import ContextLayer, Step
from envs.contexts.residuals import velocity_places
from envs.contexts.running import Averages, Moments
from envs.contexts.small_network import Reservoir, SmallNetwork
from envs.contexts.transition_model import Settings, TransitionModel
from train import main

ANT = ["env=slippery_ant", "env.num_envs=3", "env.max_episode_steps=20", "env.switch_interval=90"]
ANT += ["total_steps=100_000", "agent.rollout_length=10", "agent.minibatch_size=30"]
QUICK = ["context.warmup_steps=60", "context.fit_every=60", "context.minibatch_size=32"]
KINDS = {
    "inferred": QUICK,
    "detected": [*QUICK, "context.block_steps=6", "context.settling_blocks=5"],
    "window": ["context.freeze_after=120", "context.minibatch_size=16", "context.reservoir=50"],
}


def ant(kind, *words):
    return build_environment(compose_run([*ANT, f"context={kind}", *KINDS[kind], *words]).config)[0]


# Arithmetic --------------------------------------------------------------------------------


def test_averages_are_free_of_the_bias_of_their_start():
    averages = Averages(2, 1, (1, 4))
    values = np.array([[1.0, 5.0], [3.0, 5.0], [8.0, 5.0]])
    for row in values:
        averages.update(row[:, None])
    rates = 0.75 ** np.arange(3)[::-1]
    expected = (rates * values[:, 0]).sum() / rates.sum()
    np.testing.assert_allclose(averages.read(), [[8.0, expected], [5.0, 5.0]], rtol=1e-12)


def test_averages_say_which_have_begun():
    averages = Averages(1, 2, (5,))
    assert not averages.has_begun.any()
    assert not averages.read().any()
    averages.update(np.ones((1, 2)))
    assert averages.has_begun.all()
    averages.forget()
    assert not averages.has_begun.any()


def test_moments_equal_those_of_all_rows_together():
    rng = np.random.default_rng(0)
    rows = rng.normal(100.0, 3.0, (57, 4))
    moments = Moments(4)
    for part in np.split(rows, [1, 2, 30]):
        moments.update(part)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, rows.var(0), rtol=1e-10)
    assert moments.count == 57
    assert (Moments(2).scale() == 1.0).all()


def test_the_small_network_learns_as_torch_does():
    rng = np.random.default_rng(0)
    mine = SmallNetwork((5, 7, 6, 3), 1e-2, rng)
    layers = [torch.nn.Linear(a, b) for a, b in ((5, 7), (7, 6), (6, 3))]
    for index, layer in enumerate(layers):
        layer.weight.data = torch.from_numpy(mine.snapshot()[f"weight_{index}"].T.copy())
        layer.bias.data = torch.from_numpy(mine.snapshot()[f"bias_{index}"].copy())
    relu = torch.nn.ReLU()
    theirs = torch.nn.Sequential(layers[0], relu, layers[1], relu, layers[2])
    optimizer = torch.optim.Adam(theirs.parameters(), 1e-2)
    for _ in range(20):
        inputs = rng.normal(size=(11, 5)).astype(np.float32)
        target = np.tanh(inputs[:, :3])
        values = mine.forward(inputs)
        slope = (2.0 / target.size) * (values[-1] - target)
        gradients, of_inputs = mine.gradients(values, slope)
        mine.step(gradients)
        given = torch.from_numpy(inputs).requires_grad_()
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(theirs(given), torch.from_numpy(target)).backward()
        np.testing.assert_allclose(of_inputs, given.grad.numpy(), atol=1e-6)
        optimizer.step()
    after = mine.snapshot()
    for index, layer in enumerate(layers):
        np.testing.assert_allclose(after[f"weight_{index}"].T, layer.weight.detach(), atol=2e-5)
        np.testing.assert_allclose(after[f"bias_{index}"], layer.bias.detach(), atol=2e-5)


def test_the_whole_past_is_equally_likely_to_be_in_memory():
    counts = np.zeros(60)
    for seed in range(300):
        reservoir = Reservoir(10, 1, np.random.default_rng(seed))
        for start in range(0, 60, 4):
            reservoir.add(np.arange(start, start + 4)[:, None])
        kept = reservoir.snapshot()["rows"][:, 0].astype(int)
        assert len(set(kept.tolist())) == 10
        counts[kept] += 1
    assert counts[:12].sum() / 12 == pytest.approx(50, abs=6)
    assert counts[-12:].sum() / 12 == pytest.approx(50, abs=6)


def test_a_model_of_a_predictable_world_has_residuals_of_unit_size_that_point_at_change():
    """x' = x + a in one world; in the other everything moves by 0.5 more."""
    rng = np.random.default_rng(0)
    low = -np.ones(1)
    model = TransitionModel(2, low, -low, Settings(32, 3e-3, 4000, 500, 30, 64), rng)

    def rows(count, shift):
        state, action = rng.normal(size=(count, 2)), rng.uniform(-3, 3, (count, 1))
        moved = np.clip(action, -1, 1) + shift + 0.1 * rng.normal(size=(count, 1))
        return model.rows(state, action, np.concatenate((state[:, :1] + moved, state[:, 1:]), 1))

    for _ in range(80):
        model.learn(rows(250, 0.0))
    usual, other = model.residuals(rows(2000, 0.0)), model.residuals(rows(2000, 0.5))
    assert model.num_fits == 40
    assert model.varies.tolist() == [True, False]
    assert not usual[:, 1].any()
    assert np.sqrt((usual[:, 0] ** 2).mean()) == pytest.approx(1.0, abs=0.35)
    assert other[:, 0].mean() > usual[:, 0].mean() + 2.0
    assert np.abs(model.residuals(rows(100, 50.0))).max() == 5.0


# What a provider may know ------------------------------------------------------------------


class Blind(VectorWrapper):
    """Environments that keep their world to themselves."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __getattr__(self, name):
        if name in ("regime", "regime_value", "friction", "env_steps", "schedule_hash"):
            raise AssertionError(f"a provider asked for {name}")
        return getattr(self.env, name)

    def step(self, actions):
        *result, info = self.env.step(actions)
        kept = {"next_observation", "episode_return", "episode_length", "unstable"}
        return *result, {key: info[key] for key in kept}


def provider_of(kind, info):
    config = compose_run([*ANT, f"context={kind}", *KINDS[kind]]).config.context
    module = {"inferred": inferred, "window": window}.get(kind)
    if module is None:
        from envs.contexts import detected as module
    return module.provide(config, None, info, SimpleNamespace(robot="ant"), 1000, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_provider_never_sees_the_truth(kind):
    envs = ant(kind)
    blind = Blind(envs.env)
    layer = ContextLayer(blind, envs.env.info, provider_of(kind, envs.env.info))
    layer.reset()
    rng = np.random.default_rng(0)
    first = layer.context
    for _ in range(80):
        info = layer.step(rng.normal(size=(3, 8)))[4]
    assert (info["context"] != first).any()
    envs.close()


def test_what_is_inferred_is_said_to_be_no_oracle():
    for name in KINDS:
        module = __import__(f"envs.contexts.{name}", fromlist=["x"])
        assert (module.is_oracle, module.uses_boundaries) == (False, False)


@pytest.mark.parametrize("kind", KINDS)
def test_19_contexts_are_causal_and_no_transition_crosses_a_reset(kind):
    """What happens at step t leaves the context of step t; final observations are the true ones."""
    envs = ant(kind)
    seen = []
    observe = envs.provider.observe

    def watched(step: Step):
        seen.append(step)
        observe(step)

    envs.provider.observe = watched
    observation, _ = envs.reset()
    rng, ended = np.random.default_rng(0), 0
    for _ in range(50):
        before = envs.context
        last = observation
        observation, _, terminated, truncated, info = envs.step(rng.normal(size=(3, 8)))
        done = terminated | truncated
        np.testing.assert_array_equal(seen[-1].observation, last)
        np.testing.assert_array_equal(seen[-1].context, before)
        np.testing.assert_array_equal(seen[-1].info["next_observation"][~done], observation[~done])
        ended += int((seen[-1].info["next_observation"][done] != observation[done]).any(1).sum())
        np.testing.assert_array_equal(info["context"], info["next_context"])  # outlives episodes
    assert ended >= 6
    envs.close()


@pytest.mark.parametrize("kind", KINDS)
def test_19_the_future_changes_no_context_and_the_present_changes_the_next(kind):
    """Two lives that part at step t: equal contexts up to t, and from then on other ones."""
    rng = np.random.default_rng(0)
    actions, other = rng.normal(size=(2, 90, 3, 8))
    other[:60] = actions[:60]
    lives = []
    for played in (actions, other):
        envs = ant(kind)
        envs.reset()
        told = [envs.context]
        for action in played:
            told.append(envs.step(action)[4]["context"])
        lives.append(np.array(told))
        envs.close()
    first, second = lives
    np.testing.assert_array_equal(first[:61], second[:61])
    assert (first[61:] != second[61:]).any() or kind == "detected"


def test_environments_are_averaged_apart_or_together():
    apart, together = ant("inferred"), ant("inferred", "context.pool=true")
    for envs, same in ((apart, False), (together, True)):
        envs.reset()
        rng = np.random.default_rng(0)
        for _ in range(60):
            envs.step(rng.normal(size=(3, 8)))
        assert (envs.context == envs.context[:1]).all() == same
        assert (envs.context[:, -1] == 1).all()
        assert np.abs(envs.context).max() <= 5.0
        envs.close()


def test_two_frictions_are_told_apart_in_another_way_of_moving():
    """Nearest of two prototypes, made while moving one way and asked while moving another."""
    line = ["env=slippery_ant", "env.num_envs=8", "env.schedule=cyclic", "context=inferred"]
    line += ["env.switch_interval=1600", "context.warmup_steps=3200", "context.fit_every=512"]
    line += ["context.pool=true", "context.horizons=[50]", "context.reservoir=20000"]
    envs, _ = build_environment(compose_run([*line, "total_steps=16_000"]).config)
    envs.reset()
    rng, phase = np.random.default_rng(0), np.random.default_rng(1).uniform(0, 6.28, 8)
    rows = {"noise": [], "gait": []}
    for step in range(2000):
        way = "noise" if step % 800 < 400 else "gait"
        noise = rng.normal(size=(8, 8))
        action = noise if way == "noise" else np.sin(0.6 * step + phase) + 0.3 * noise
        regime = int(envs.env.regime[0]) % 2
        context = envs.step(action)[4]["context"][0, :-1]
        if step > 800 and step % 200 >= 100:
            rows[way].append((regime, *context))
    envs.close()

    def prototypes(way):
        found = np.array(rows[way])
        return [found[found[:, 0] == world, 1:].mean(0) for world in (0, 1)]

    shares = []
    for asked, told in (("gait", "noise"), ("noise", "gait")):
        found, (first, second) = np.array(rows[asked]), prototypes(told)
        nearer = ((found[:, 1:] - second) ** 2).sum(1) < ((found[:, 1:] - first) ** 2).sum(1)
        shares.append((nearer == found[:, 0]).mean())
    assert np.mean(shares) > 0.75, shares  # chance is 0.5


def felt_and_seen(steps=2000):
    """Two frozen ways of moving under two frictions: what 8 Ants feel, and what they see.

    Returns:
        Ways of moving -> (world (T,), contexts (T, 8, 4), mean observations (T, 8, obs)).
    """
    line = ["env=slippery_ant", "env.num_envs=8", "env.schedule=cyclic", "context=inferred"]
    line += ["env.switch_interval=1600", "context.warmup_steps=3200", "context.fit_every=512"]
    line += ["context.horizons=[50]", "context.reservoir=20000", f"total_steps={8 * steps}"]
    envs, _ = build_environment(compose_run(line).config)
    mean = np.zeros_like(envs.reset()[0], dtype=np.float64)
    rng, phase = np.random.default_rng(0), np.random.default_rng(1).uniform(0, 6.28, 8)
    rows = {"noise": [], "gait": []}
    for step in range(steps):
        way = "noise" if step % 800 < 400 else "gait"
        noise = rng.normal(size=(8, 8))
        action = noise if way == "noise" else np.sin(0.6 * step + phase) + 0.3 * noise
        regime = int(envs.env.regime[0]) % 2
        observation, *_, info = envs.step(action)
        mean += (observation - mean) / 50
        if step > 800 and step % 200 >= 100 and step % 5 == 0:
            rows[way].append((regime, info["context"][:, :-1].copy(), mean.copy()))
    envs.close()
    return {way: [np.array(column) for column in zip(*r, strict=True)] for way, r in rows.items()}


def probe(told, asked):
    """Share right of a linear probe of the world (ridge regression on standardised features)."""
    (world, features), (truth, questions) = told, asked
    flat = features.reshape(-1, features.shape[-1])
    centre, spread = flat.mean(0), flat.std(0) + 1e-6

    def inputs(values):
        values = (values.reshape(-1, values.shape[-1]) - centre) / spread
        return np.concatenate((values, np.ones((len(values), 1))), axis=1)

    rows, answers = inputs(features), np.repeat(2.0 * world - 1.0, features.shape[1])
    system = rows.T @ rows + 0.01 * len(rows) * np.eye(rows.shape[1])
    weight = np.linalg.solve(system, rows.T @ answers)
    found = inputs(questions) @ weight > 0
    return float((found == np.repeat(truth, questions.shape[1])).mean())


@pytest.mark.slow
def test_38_surprise_tells_frictions_apart_where_the_mean_observation_does_not():
    """Acceptance 38: within one frozen policy, on other robots, and from one policy to another."""
    found = felt_and_seen()
    scores = {}
    for name, column in (("surprise", 1), ("mean observation", 2)):
        data = {way: (rows[0], rows[column]) for way, rows in found.items()}
        scores[name] = [
            *(probe((world, x[:, :4]), (world, x[:, 4:])) for world, x in data.values()),
            probe(data["noise"], data["gait"]),
            probe(data["gait"], data["noise"]),
        ]
    print(scores)
    assert all(set(rows[0].tolist()) == {0, 1} for rows in found.values())
    surprise, seen = (np.array(values) for values in scores.values())
    assert (surprise > seen).all(), scores
    assert surprise.mean() > 0.8
    assert surprise.min() > 0.7


# State -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("inferred", []),
        ("inferred", ["context.control=shuffled", "context.input=source"]),
        ("detected", []),
        ("detected", ["context.pool=false", "context.signals=features"]),
        ("detected", ["context.control=shuffled", "context.input=source"]),
        ("window", []),
        ("window", ["context.freeze_after=300"]),
    ],
)
def test_a_snapshot_continues_in_the_same_bits(kind, words):
    envs = ant(kind, *words)
    envs.reset()
    actions = np.random.default_rng(0).normal(size=(130, 3, 8))
    for action in actions[:70]:
        envs.step(action)
    saved, shown = envs.snapshot(), envs.context
    assert all(type(value) in (int, str, np.ndarray) for value in saved.values())
    again = ant(kind, *words)
    again.restore(saved)
    np.testing.assert_array_equal(again.context, shown)
    moved = False
    for action in actions[70:]:
        one, two = envs.step(action)[4], again.step(action)[4]
        for key in ("context", "next_context"):
            np.testing.assert_array_equal(one[key], two[key])
        moved |= bool((one["context"] != shown).any())
    assert moved or kind == "detected"
    for key, value in envs.snapshot().items():
        np.testing.assert_array_equal(value, again.snapshot()[key], err_msg=key)
    other = ant(kind, "context.control=constant")
    with pytest.raises(ValueError, match="label"):
        other.restore(saved)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_learnt_can_be_measured_elsewhere_and_learns_no_more(kind):
    envs, other = ant(kind), ant(kind)
    for each in (envs, other):
        each.reset()
    rng = np.random.default_rng(0)
    for _ in range(80):
        envs.step(rng.normal(size=(3, 8)))
    other.adopt(envs.snapshot())
    neutral = other.context
    assert (neutral == neutral[:1]).all()
    learnt = ("residuals_network", "moments", "worlds", "encoder")

    def state():
        found = other.snapshot().items()
        names = tuple(f"context_{name}" for name in learnt)
        return {key: value for key, value in found if key.startswith(names)}

    before = state()
    for _ in range(40):
        other.step(rng.normal(size=(3, 8)))
    for key, value in state().items():
        np.testing.assert_array_equal(value, before[key], err_msg=key)
    assert (other.context != neutral).any()


LEARNT = ("residuals_network", "residuals_fits", "moments", "worlds", "encoder", "decoder")


def learnt_of(envs):
    found = envs.context_snapshot().items()
    return {k: v for k, v in found if k.startswith(tuple(f"context_{name}" for name in LEARNT))}


def streams_of(envs):
    return {k: v for k, v in envs.context_snapshot().items() if "generator_0" in k}


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for key, value in one.items():
        np.testing.assert_array_equal(value, two[key], err_msg=key)


def lived(envs, steps, seed=0):
    envs.reset()
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        envs.step(rng.normal(size=(3, 8)))
    return envs


@pytest.mark.parametrize(
    ("kind", "words", "learns"),
    [
        ("inferred", [], True),
        ("inferred", ["context.control=zero"], True),  # what is made of it is another question
        ("detected", [], True),
        ("window", ["context.freeze_after=1000"], True),
        ("window", [], False),
        ("window", ["context.freeze_after=1000"], None),  # of an encoder that was frozen before
    ],
)
def test_another_run_goes_on_with_what_was_learnt(kind, words, learns):
    donor = lived(ant(kind, *([] if learns is None else words)), 80)
    other = ant(kind, *words, "seed=5")
    streams = streams_of(other)
    other.take_over(donor.snapshot())
    assert_equal(learnt_of(other), learnt_of(donor))
    assert streams_of(other) == streams != streams_of(donor)
    neutral = other.context
    assert (neutral == neutral[:1]).all()  # what was felt begins anew
    before = learnt_of(other)
    lived(other, 60)
    moved = any((value != before[key]).any() for key, value in learnt_of(other).items())
    assert moved == bool(learns)
    if not learns:
        assert (other.context != neutral).any()
    again = ant(kind, *words, "seed=5")
    again.restore(other.snapshot())
    assert_equal(again.snapshot(), other.snapshot())


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        ("inferred", ["context.horizons=[5]"], r"inferred/\(50, 500\)/False there and inferred/"),
        ("inferred", ["context.hidden=8"], "shape"),
        ("detected", ["context.signals=energy"], "detected/slip/True there"),
        ("detected", ["context.max_worlds=3"], "shape"),
        ("window", ["context.code=2"], "window/16/8 there and window/16/2 here"),
        ("window", ["context.decoder_hidden=8"], "shape"),
    ],
)
def test_what_was_learnt_in_another_form_is_refused_and_leaves_no_trace(kind, words, message):
    donor, other = lived(ant(kind), 60), ant(kind, *words)
    before = other.context_snapshot()
    with pytest.raises(ValueError, match=message):
        other.take_over(donor.snapshot())
    assert_equal(other.context_snapshot(), before)
    with pytest.raises(ValueError, match="not learnt there"):
        other.take_over({})
    with pytest.raises(ValueError, match="not learnt"):
        build_environment(compose_run([*ANT, "context=friction"]).config)[0].take_over({})


SILENT = [
    ("inferred", []),
    ("inferred", ["context.pool=true"]),
    ("inferred", ["context.warmup_steps=0", "context.fit_every=50"]),
    ("inferred", ["context.warmup_steps=100", "context.control=delayed", "context.delay=3"]),
    ("detected", []),
    ("detected", ["context.pool=false"]),
    ("window", []),
    ("window", ["context.freeze_after=0"]),
    ("window", ["context.freeze_after=100", "context.control=delayed", "context.delay=3"]),
]


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize(("kind", "words"), SILENT)
def test_it_is_silent_as_long_as_it_says(kind, words, goes_on):
    envs = ant(kind, *words)
    if goes_on:
        envs.take_over(lived(ant(kind, *words), 35).snapshot())
    silent = envs.provider.silent_steps()
    envs.reset()
    rng, first = np.random.default_rng(0), envs.context
    while envs.env.env_steps < silent:
        assert (envs.context == first).all(), envs.env.env_steps
        envs.step(rng.normal(size=(3, 8)))
    assert (envs.context != first).any()


def test_a_window_that_is_measured_before_it_is_frozen_stays_neutral():
    envs, other = ant("window"), ant("window")
    for each in (envs, other):
        each.reset()
    rng = np.random.default_rng(0)
    for _ in range(30):  # 90 of 120 transitions
        envs.step(rng.normal(size=(3, 8)))
    other.adopt(envs.snapshot())
    before, neutral = other.snapshot(), other.context
    again = ant("window")
    again.restore(before)
    for each in (other, again):
        for _ in range(30):
            assert (each.step(rng.normal(size=(3, 8)))[4]["context"] == neutral).all()
        after = each.snapshot()
        for key in ("steps", "since", "moments_count", "encoder_steps", "decoder_steps"):
            np.testing.assert_array_equal(after[f"context_{key}"], before[f"context_{key}"])
            assert before[f"context_{key}"] == envs.snapshot()[f"context_{key}"]


def test_a_window_is_neutral_until_frozen_and_then_a_fixed_function_of_it():
    envs = ant("window")
    envs.reset()
    rng = np.random.default_rng(0)
    for step in range(60):
        context = envs.step(rng.normal(size=(3, 8)))[4]["context"]
        assert ((context[:, :-1] == 0).all()) == (3 * (step + 1) < 120), step
        if step == 45:
            kept, shown = envs.snapshot(), context
    later = ant("window")
    later.restore(envs.snapshot())
    later.provider._arrays["window"] = kept["context_felt_window"]
    np.testing.assert_array_equal(later.provider._told(), shown)  # as it was stored in a replay
    # The encoder alone decides what a window says.
    encoder = later.provider._encoder
    state = encoder.snapshot()
    encoder.restore({**state, "bias_2": state["bias_2"] + 0.5})
    assert (np.abs(later.provider._told() - shown)[:, :-1] > 1e-3).any(1).all()


# Refusals, and whole runs --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["context.pool=true", "env.switch_rule=episode_end"], "different worlds"),
        (["context.velocities=[13,14,99]"], "context.velocities"),
        (["context.horizons=[]"], "context.horizons"),
        (["context.learning_rate=0"], "context.learning_rate"),
        (["context.input=source"], "context.control is none"),
        (["context.delay=3"], "context.delay"),
    ],
)
def test_what_cannot_be_is_refused(words, message):
    with pytest.raises(ConfigurationError, match=message):
        ant("inferred", *words)


@pytest.mark.parametrize("words", [["detected"], ["inferred", "context.pool=true"]])
def test_tasks_of_a_sequence_are_not_pooled(words):
    """Training has one task at a time, but evaluations have all of them side by side."""
    kind, *more = words
    line = ["env=mt10_sequence", f"context={kind}", "context.velocities=[0,1,2]", *more]
    config = compose_run([*line, "total_steps=2_000_000"]).config
    with pytest.raises(ConfigurationError, match=r"all its tasks .* set context.pool=false"):
        build_environment(config)


def test_worlds_that_never_change_may_be_pooled_whatever_their_rule():
    envs = ant(
        "detected", "env.schedule=fixed", "env.fixed_friction=0.3", "env.switch_rule=episode_end"
    )
    envs.close()


@pytest.mark.parametrize("kind", ["inferred", "detected"])
@pytest.mark.parametrize("modifier", ["observation_permutation", "[mass,observation_permutation]"])
@pytest.mark.parametrize("given", [[], ["context.velocities=[13,14,18]"]])
def test_velocities_that_change_their_places_are_not_read(kind, modifier, given):
    with pytest.raises(ConfigurationError, match="observation_permutation moves them"):
        ant(kind, f"env.modifier={modifier}", *given)


def test_a_window_reads_the_whole_observation_in_any_order():
    envs = ant("window", "env.modifier=observation_permutation")
    assert (lived(envs, 45).context[:, :-1] != 0).any()


def test_other_robots_must_say_where_velocities_are():
    info = SimpleNamespace(name="thing", observation_dim=5)
    with pytest.raises(ValueError, match="velocities"):
        velocity_places(None, info, SimpleNamespace())
    assert velocity_places((0, 1, 2), info, SimpleNamespace()) == (0, 1, 2)


@pytest.mark.parametrize("arm", ["inferred_shuffled", "detected_dendritic"])
def test_the_smoke_experiment_runs_and_is_measured_with_what_was_learnt(arm, tmp_path):
    from analysis.restored import restore

    words = ["experiment=inferred_context_smoke", f"arm={arm}", f"runs_root={tmp_path}"]
    words += ["total_steps=2048", "env.switch_interval=1024", "progress=false", "seed=1"]
    words += ["context.warmup_steps=512", "context.fit_every=512", "num_threads=1"]
    words += ["context.block_steps=40"] if arm == "detected_dendritic" else []  # to be heard at all
    assert main(words) == 0
    (run,) = tmp_path.glob("inferred_context_smoke/slippery_ant/*/seed_1")
    restored = restore(run)
    saved = restored.envs.provider.snapshot()
    assert int(saved["steps"]) == 2048
    assert int(np.asarray(saved["residuals_fits"])[0]) == 4
    restored.envs.set_value(0.1)
    assert (restored.envs.context == restored.envs.context[:1]).all()
    restored.close()
