"""SAC with standardised observations: what networks see, what is stored, and what goes on."""

import numpy as np
import pytest
import torch
from sac_toys import NUM_ENVS, OBSERVATION, different, fill, learn, make, step, weights

from agents.normalization import RunningNormalizer
from configs.compose import compose_run

SCALES = np.array([1.0, 10.0, 100.0, 0.1, 3.0])


class Scaled:
    """Random numbers whose observations are far from standard."""

    def __init__(self, seed=0):
        self._rng = np.random.default_rng(seed)
        self.random = self._rng.random

    def normal(self, size):
        values = self._rng.normal(size=size)
        return values * SCALES + 7.0 if values.ndim == 2 else values


@pytest.fixture
def agent():
    made = make(normalize_observation=True)
    yield made
    made.close()


def test_networks_see_standardised_minibatches_and_the_replay_keeps_raw_ones(agent, monkeypatch):
    fill(agent, Scaled())
    seen, gradient_step, rows = [], agent._steps.step, agent.replay.rows
    raw = []
    monkeypatch.setattr(agent.replay, "rows", lambda index: raw.append(rows(index)) or raw[-1])

    def watched(batch, *noise):
        seen.append(batch)
        return gradient_step(batch, *noise)

    monkeypatch.setattr(agent._steps, "step", watched)
    agent.update()
    assert len(seen) > 3
    stored = agent.replay._rows[: agent.replay.size, :OBSERVATION].numpy().astype(np.float64)
    own = RunningNormalizer(OBSERVATION)
    own.update(stored)
    for batch, was in zip(seen, raw, strict=False):
        for name in ("observation", "next_observation"):
            expected = np.clip(
                (getattr(was, name).numpy() - stored.mean(0)) / stored.std(0), -10, 10
            )
            np.testing.assert_allclose(getattr(batch, name).numpy(), expected, atol=2e-5)
        for name in ("action", "reward", "terminated", "truncated", "regime"):
            assert torch.equal(getattr(batch, name), getattr(was, name))
    assert stored.std(0)[2] > 50.0
    for name in agent.networks():  # what methods and diagnostics are shown
        inputs = agent._sample_inputs(name, 200, torch.Generator().manual_seed(0))[0]
        assert inputs.abs().max() <= 10.0
        assert inputs[:, :OBSERVATION].std() == pytest.approx(1.0, abs=0.2)


def test_acting_and_measuring_see_the_same_numbers_as_learning(agent):
    fill(agent, Scaled())
    rows = agent.replay.last(8)
    context = np.zeros((8, 0), np.float32)
    probe = agent.network_inputs("actor", rows.observation.numpy(), None, context)[0]
    torch.testing.assert_close(probe, agent._seen(rows).observation)
    mean = agent.actor(probe)[0]
    acted = agent.act(rows.observation.numpy(), context, explore=False)
    np.testing.assert_allclose(acted, torch.tanh(mean).detach().numpy(), rtol=1e-5)


def test_moments_count_what_training_has_acted_on_and_nothing_else(agent):
    rng = Scaled()
    fill(agent, rng, 10)
    assert agent.normalizer.count == 10 * NUM_ENVS
    observation, context = np.full((3, OBSERVATION), 1e6), np.zeros((3, 0), np.float32)
    before = agent.normalizer.mean.copy()
    agent.act(observation, context, explore=False)
    agent.begin_sampling()
    agent.sample(observation, context)
    agent.network_inputs("actor", observation, None, context)
    assert agent.normalizer.count == 10 * NUM_ENVS
    np.testing.assert_array_equal(agent.normalizer.mean, before)


def test_a_restored_agent_goes_on_in_the_same_bits(agent):
    learn(agent, Scaled(), 2)
    twin = make(seed=9, normalize_observation=True)
    learn(twin, Scaled(5), 2)  # equally many observations, other moments
    twin.load_state_dict(agent.state_dict())
    for one in (agent, twin):
        learn(one, Scaled(1), 2)
    assert not different(weights(agent), weights(twin))
    twin.close()


def test_it_learns_another_thing_than_without():
    plain, scaled = make(), make(normalize_observation=True)
    for one in (plain, scaled):
        learn(one, Scaled(), 2)
    assert "actor" in different(weights(plain), weights(scaled))
    assert plain.normalizer is None
    assert "normalizer" not in plain.state_dict()
    plain.close()
    scaled.close()


@pytest.mark.parametrize("donor_normalizes", [True, False])
def test_networks_are_not_transplanted_to_inputs_of_another_scale(donor_normalizes):
    donor, agent = (
        make(normalize_observation=on) for on in (donor_normalizes, not donor_normalizes)
    )
    learn(donor, Scaled())
    state = donor.state_dict()
    with pytest.raises(ValueError, match=f"normalize_observation={str(donor_normalizes).lower()}"):
        agent.transplant(state, ["actor"])
    agent.transplant(state, ["actor", "critic_1", "critic_2"])
    same = make(normalize_observation=donor_normalizes, seed=3)
    same.transplant(state, [])
    if donor_normalizes:
        np.testing.assert_array_equal(same.normalizer.mean, donor.normalizer.mean)
    step(same, Scaled())
    for one in (donor, agent, same):
        one.close()


def test_the_arm_of_standardised_observations_fits_both_agents():
    for agent in ("ppo", "sac"):
        run = compose_run([f"agent={agent}", "arm=normalized_observations"]).config
        assert run.agent.normalize_observation
