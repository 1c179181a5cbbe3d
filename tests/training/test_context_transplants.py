"""Runs that go on from a checkpoint whose contexts were learnt: `init_from`."""

import numpy as np
import pytest

import train
from analysis.adoption import begin_from
from analysis.checkpoint import CheckpointStore
from configs.build import build_agent, build_environment, rehearse
from configs.compose import compose_run
from configs.schema import ConfigurationError

TINY = [
    *("env=slippery_ant", "env.num_envs=2", "env.max_episode_steps=12", "num_threads=1"),
    *("env.switch_interval=64", "total_steps=128", "agent.rollout_length=16"),
    *("agent.minibatch_size=16", "agent.num_epochs=1", "network=dendrites"),
    *("network.hidden_sizes=[8]", "log.diagnostics=false", "log.figures=false"),
    *("log.tensorboard=false", "progress=false"),
]
QUICK = ["context.minibatch_size=8", "context.reservoir=30"]
FELT = [*QUICK, "context.warmup_steps=20", "context.fit_every=20", "context.hidden=8"]
INFERRED = ["context=inferred", "context.horizons=[5,20]", *FELT]  # of 9 numbers
WINDOW = ["context=window", "context.freeze_after=80", "context.train_every=8", *QUICK]  # of 9, too
BUMPS = ["context=friction_rbf"]  # of 9 as well
SAC = ["agent=sac", "agent.batch_size=8", "agent.replay_size=64", "agent.warmup_steps=8"]
NETWORKS = "fresh_parts=[policy,value]"


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)
    monkeypatch.setattr(train, "build_probe", lambda *_: None)


def words_of(context, agent=()):
    kept = [word for word in TINY if not (agent and word.startswith("agent."))]
    return [*kept, *agent, *context]


def lived(folder, words, steps=50):
    """A checkpoint of new networks in environments that have lived for some steps."""
    config = compose_run(words).config
    envs, info = build_environment(config)
    agent = build_agent(config, info)
    envs.reset()
    rng = np.random.default_rng(0)
    for _ in range(steps):
        envs.step(rng.normal(size=(2, 8)))
    state = {"agent": agent.state_dict(), "env": envs.snapshot()}
    agent.close()
    envs.close()
    return CheckpointStore(folder).save(2 * steps, state), state


def begun(donor, words, *more):
    """Environments of a new run that starts from a checkpoint."""
    config = compose_run([*words, f"init_from={donor}", "seed=3", *more]).config
    envs, info = build_environment(config)
    agent = build_agent(config, info)
    try:
        begin_from(agent, config, envs)
    finally:
        agent.close()
        envs.close()
    return envs.context_snapshot()


def same(state, other, part):
    keys = [key for key in state if key.startswith(f"context_{part}") and "generator" not in key]
    assert keys
    return all(np.array_equal(state[key], other[key]) for key in keys)


@pytest.mark.parametrize("fresh", [[], ["fresh_parts=[policy]"], [NETWORKS]])
@pytest.mark.parametrize(
    ("context", "parts"),
    [(INFERRED, ("residuals", "moments")), (WINDOW, ("encoder", "decoder", "moments", "steps"))],
    ids=["inferred", "window"],
)
def test_what_contexts_have_learnt_goes_on_whatever_is_fresh(context, parts, fresh, tmp_path):
    donor, state = lived(tmp_path, words_of(context))
    found = begun(donor, words_of(context), *fresh)
    for part in parts:
        assert same(found, state["env"], part), part


@pytest.mark.parametrize(
    ("there", "here", "message"),
    [
        (INFERRED, WINDOW, r"inferred/\(5, 20\)/False there and window/16/8 here"),
        (BUMPS, WINDOW, "friction/rbf there and window/16/8 here"),
        (WINDOW, BUMPS, r"they are learnt there \(window\) and not here"),
        (WINDOW, [*WINDOW, "context.decoder_hidden=4"], "decoder|shape"),
    ],
    ids=["another kind", "given there", "given here", "another size"],
)
def test_networks_that_know_other_contexts_are_refused(there, here, message, tmp_path):
    """All are nine numbers, so that every network would fit."""
    donor, _ = lived(tmp_path, words_of(there))
    for fresh, readers in (([], "policy, value"), (["fresh_parts=[policy,optimizer]"], "value")):
        with pytest.raises(ConfigurationError, match=message) as refusal:
            begun(donor, words_of(here), *fresh)
        assert f"its {readers} cannot go on with the contexts of this run" in str(refusal.value)
        assert "\n" not in str(refusal.value)
    if here is not BUMPS:  # nobody who reads them: they begin anew
        config = compose_run([*words_of(here), "seed=3"]).config
        envs = build_environment(config)[0]
        found = begun(donor, words_of(here), NETWORKS)
        assert same(found, envs.context_snapshot(), "")
        envs.close()


def test_a_replay_knows_contexts_too(tmp_path):
    donor, _ = lived(tmp_path, words_of(INFERRED, SAC))
    networks = "actor,critic_1,critic_2"
    with pytest.raises(ConfigurationError, match="its replay cannot go on with the contexts"):
        begun(donor, words_of(WINDOW, SAC), f"fresh_parts=[{networks}]")
    begun(donor, words_of(WINDOW, SAC), f"fresh_parts=[{networks},replay]")


def test_a_donor_without_environments_or_with_broken_numbers_is_refused(tmp_path):
    _, state = lived(tmp_path / "a", words_of(INFERRED))
    only = CheckpointStore(tmp_path / "b").save(1, {"agent": state["agent"]})
    with pytest.raises(ConfigurationError, match="not learnt there"):
        begun(only, words_of(INFERRED))
    weight = np.full_like(state["env"]["context_residuals_network_weight_0"], np.nan)
    broken = {**state["env"], "context_residuals_network_weight_0": weight}
    spoilt = CheckpointStore(tmp_path / "c").save(1, {**state, "env": broken})
    with pytest.raises(ConfigurationError, match="network_weight_0 is not finite"):
        begun(spoilt, words_of(INFERRED))


def test_a_donor_that_has_learnt_enough_is_heard_at_once(tmp_path):
    donor, _ = lived(tmp_path, words_of(WINDOW))
    short = [*words_of(WINDOW), "total_steps=64"]
    with pytest.raises(ConfigurationError, match="is silent for 80 environment steps"):
        rehearse(compose_run(short).config)
    rehearse(compose_run([*short, f"init_from={donor}"]).config, begin_from)


def test_a_whole_run_goes_on_with_the_model_of_its_donor(tmp_path):
    words = words_of(INFERRED)
    assert train.main([*words, f"run_dir={tmp_path / 'donor'}"]) == train.EXIT_DONE
    start = [*words, f"init_from={tmp_path}/donor/checkpoints/step-000000000128", "seed=3"]
    assert train.main([*start, f"run_dir={tmp_path / 'new'}"]) == train.EXIT_DONE
    fits = []
    for name in ("donor", "new"):
        loaded = CheckpointStore(tmp_path / name / "checkpoints").load_latest()
        assert loaded is not None
        fits.append(int(loaded.state["env"]["context_residuals_fits"][0]))
    assert fits == [6, 12]
