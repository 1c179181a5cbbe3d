"""The pieces of PPO's fast path: shuffled minibatches, and products in bfloat16."""

import numpy as np
import pytest
import torch

from agents import ppo
from agents.distributions import gaussian_log_probability
from agents.minibatches import Minibatch, Shuffler
from agents.parts import Parts
from networks import mlp
from networks.fused import FusedPerceptron
from networks.fused_bfloat16 import BFloat16Perceptron
from networks.heads import GaussianPolicy, ValueFunction
from networks.initializers import Initializer
from networks.streams import Streams
from networks.torso import ContextSpec
from plasticity.optimizers import adam

ROWS, NUM_ENVS, LENGTH = 64, 4, 32


def rollout(context=False, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape):
        return torch.randn(ROWS, *shape, generator=generator)

    return Minibatch(
        numbers(5), numbers(3) if context else None, numbers(2), numbers(), numbers(), numbers()
    )


def tensors(batch):
    return [value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("context", [False, True])
def test_shuffled_minibatches_hold_the_rows_in_order(context):
    shuffler = Shuffler(16)
    for seed in (0, 1):  # the second time into the memory of the first
        batch = rollout(context, seed)
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(seed))
        minibatches = shuffler.shuffle(batch, order)
        assert len(minibatches) == 4
        for number, minibatch in enumerate(minibatches):
            rows = order[16 * number : 16 * (number + 1)]
            expected = [value[rows] for value in tensors(batch)]
            assert len(expected) == (6 if context else 5)
            for value, other in zip(tensors(minibatch), expected, strict=True):
                assert torch.equal(value, other)


def test_arrays_follow_the_next_shuffle():
    shuffler, order = Shuffler(16), torch.arange(ROWS)
    minibatch = shuffler.shuffle(rollout(), order)[1]
    arrays = minibatch.arrays
    batch = rollout(seed=1)
    shuffler.shuffle(batch, order.flip(0))
    np.testing.assert_array_equal(arrays.target, batch.target.flip(0)[16:32].numpy())
    np.testing.assert_array_equal(arrays.action, batch.action.flip(0)[16:32].numpy())
    assert minibatch.arrays is arrays


def make(sizes=(16, 16), threads=1, seed=0, methods=None, network=None, **settings):
    parts = Parts(
        observation_dim=5,
        action_dim=2,
        num_envs=NUM_ENVS,
        network=network or mlp.Config(hidden_sizes=list(sizes)),
        optimizer=adam.Config(learning_rate=1e-3),
        methods=methods or {},
        seed=seed,
        total_steps=1_000_000,
        num_threads=threads,
    )
    config = ppo.Config(rollout_length=LENGTH, minibatch_size=32, num_epochs=3, **settings)
    return ppo.build(config, parts)


@pytest.mark.parametrize("inputs", [5, 16, 33])
@pytest.mark.parametrize("rows", [8, 64])  # fewer and more than the head's layout changes at
def test_passes_of_all_shapes_equal_autograd(inputs, rows):
    streams = Streams(0, "test/")
    torso = mlp.build(mlp.Config(hidden_sizes=[12, 20]), inputs, ContextSpec(), streams)
    network = ValueFunction(torso, Initializer(), streams)
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(0))
    grad = torch.randn(rows, 1, generator=torch.Generator().manual_seed(1))
    fused = FusedPerceptron(network, rows)
    (network(x) * grad[:, 0]).sum().backward()
    expected = [p.grad.clone() for p in network.parameters()]
    with torch.no_grad():
        torch.testing.assert_close(fused.forward(x)[:, 0], network(x))
        fused.backward(x, grad)
    for parameter, plain in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, plain, rtol=1e-4, atol=1e-5)


def relative(difference, of):
    return float(torch.linalg.vector_norm(difference) / torch.linalg.vector_norm(of))


def test_bfloat16_equals_products_of_rounded_operands():
    agent = make(sizes=(64, 48, 32))
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    grad = torch.randn(64, 2, generator=torch.Generator().manual_seed(1))
    fused = BFloat16Perceptron(agent.policy, 64)

    def rounded(tensor):
        return tensor.bfloat16().double()

    with torch.no_grad():
        output = fused.forward(x).clone()
        fused.backward(x, grad)
        h = list(fused.activations.values())
        linears = [layer.linear for layer in agent.policy.torso.layers]
        below = rounded(h[0]) @ rounded(linears[1].weight).t()
        # One rounding of the sum to 8 bits, then the bias.
        expected = torch.relu(below + linears[1].bias.double())
        limit = 2.0**-8 * below.abs() + 1e-6
        assert bool(((h[1].double() - expected).abs() <= limit).all())
        delta = (grad @ agent.policy.heads()[0].weight) * (h[2] > 0)
        expected = rounded(delta).t() @ rounded(h[1])
        assert relative(linears[2].weight.grad.double() - expected, expected) < 2.0**-8
        # The head and the first layer are not rounded themselves.
        torch.testing.assert_close(output, h[2] @ agent.policy.heads()[0].weight.t())
        torch.testing.assert_close(h[0], torch.relu(linears[0](x)))


def test_bfloat16_passes_stay_near_float32_and_differ():
    agent = make(sizes=(256, 256))
    x = torch.randn(128, 5, generator=torch.Generator().manual_seed(0))
    grad = torch.randn(128, 2, generator=torch.Generator().manual_seed(1))
    results = []
    with torch.no_grad():
        for kind in (FusedPerceptron, BFloat16Perceptron):
            fused = kind(agent.policy, 128)
            results.append([fused.forward(x).clone()])
            fused.backward(x, grad)
            results[-1] += [p.grad for p in agent.policy.torso.parameters()]
    for exact, rough in zip(*results, strict=True):
        # Most of it comes from units near 0 that are silent in one pass and not in the other.
        assert 1e-4 < relative(rough - exact, exact) < 0.08
        similarity = torch.nn.functional.cosine_similarity(exact.flatten(), rough.flatten(), dim=0)
        assert similarity > 0.995


def fill(agent, rng):
    row = agent.rollout
    for array in (row.observation, row.next_observation, row.noise, row.reward):
        array[:] = rng.normal(size=array.shape)
    with torch.no_grad():
        mean = agent.policy(torch.from_numpy(row.observation.reshape(-1, 5))).numpy()
    row.action[:] = mean.reshape(row.noise.shape) + row.noise
    row.position = row.length


@pytest.mark.parametrize(("std", "spread"), [(1.0, 0.004), (0.1, 0.04), (0.05, 0.08)])
def test_bfloat16_ratios_of_sharper_policies_are_further_from_one(std, spread):
    """Numbers of docs/performance.md: actions scored in float32, learnt from in bfloat16."""
    streams = Streams(0, "policy/")
    torso = mlp.build(mlp.Config(hidden_sizes=[256, 256]), 27, ContextSpec(), streams)
    policy = GaussianPolicy(torso, 8, Initializer("lecun_uniform"), streams)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4096, 27, generator=generator)
    ratios = {}
    with torch.no_grad():
        scored, log_std = policy(x), torch.full((8,), std).log()
        action = scored + std * torch.randn(4096, 8, generator=generator)
        before = gaussian_log_probability(action, scored, log_std)
        for kind in (FusedPerceptron, BFloat16Perceptron):
            learnt = kind(policy, 4096).forward(x)
            ratios[kind] = (gaussian_log_probability(action, learnt, log_std) - before).exp()
    assert float(ratios[FusedPerceptron].std()) < 1e-4
    assert float(ratios[BFloat16Perceptron].std()) == pytest.approx(spread, rel=0.15)
    if std == 0.05:
        cut = (ratios[BFloat16Perceptron] - 1.0).abs() > 0.2
        assert float(cut.float().mean()) == pytest.approx(0.02, abs=0.005)


def test_bfloat16_learns_with_equal_bits_on_one_and_two_threads():
    agents = [make(threads=t, matmul_precision="bfloat16") for t in (1, 2)]
    for agent in agents:
        rng = np.random.default_rng(0)
        for _ in range(2):
            fill(agent, rng)
            assert np.isfinite(float(agent.update()["policy_loss"]))
        agent.close()
    plain = make()
    rng = np.random.default_rng(0)
    for _ in range(2):
        fill(plain, rng)
        plain.update()
    one, two, other = (
        torch.cat([p.detach().flatten() for n in agent.networks().values() for p in n.parameters()])
        for agent in (*agents, plain)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert relative(one - other, other) < 0.01


def test_bfloat16_is_refused_where_it_would_do_nothing():
    with pytest.raises(ValueError, match="plain perceptrons"):
        make(network=mlp.Config(hidden_sizes=[8], layer_norm=True), matmul_precision="bfloat16")
    with pytest.raises(ValueError, match="plain perceptrons"):
        make(fast_path=False, matmul_precision="bfloat16")
    with pytest.raises(ValueError, match="float32, bfloat16"):
        ppo.Config(matmul_precision="float16")
