"""The trainability probe: targets, gaps of damaged networks, and isolation."""

import copy
import math

import pytest
import torch
from torch import nn

from networks import dendritic, mlp
from networks.heads import GaussianPolicy, SquashedGaussianPolicy, ValueFunction
from networks.initializers import Initializer
from networks.streams import Streams
from networks.torso import ContextSpec
from networks.units import Recording
from plasticity.probe import Settings, TrainabilityProbe, compare

LAW = Initializer("lecun_uniform")
QUICK = Settings(num_targets=2, num_steps=20, batch_size=50, num_fresh=2)


def inputs(num_samples=200, size=6, seed=0):
    return torch.randn(num_samples, size, generator=torch.Generator().manual_seed(seed))


def value(seed, size=6, hidden=(16, 16)):
    streams = Streams(seed, "network/")
    torso = mlp.build(mlp.Config(hidden_sizes=list(hidden)), size, ContextSpec(), streams)
    return ValueFunction(torso, LAW, streams)


def killed(network, share):
    """Silence the first units of every hidden layer."""
    with torch.no_grad():
        for group in network.unit_groups():
            group.layer.linear.bias[: int(share * group.num_units)] = -100.0
    return network


def test_the_initial_loss_is_one_for_every_network():
    probe = TrainabilityProbe(value(0), inputs(), settings=Settings(batch_size=200, num_steps=1))
    large = value(1)
    with torch.no_grad():
        for parameter in large.parameters():
            parameter.mul_(10.0)
    for network in (value(1), killed(value(2), 1.0), large):
        for function in probe._functions:
            losses, _ = probe.learn(copy.deepcopy(network), function)
            assert losses[0].item() == pytest.approx(1.0, abs=1e-4)


def test_targets_are_standardised_functions_of_the_input():
    probe = TrainabilityProbe(value(0), inputs(1000))
    assert len(probe._functions) == 3
    for function in probe._functions:
        assert function.mean(0).abs().max() < 1e-5
        assert (function.std(0, correction=0) - 1).abs().max() < 1e-5
    assert not torch.allclose(probe._functions[0], probe._functions[1])


def test_minibatches_are_pieces_of_permutations():
    order = TrainabilityProbe(value(0), inputs(1000), settings=Settings())._order
    assert order.shape == (200, 250)
    for start in range(0, 200, 4):
        assert order[start : start + 4].flatten().sort().values.tolist() == list(range(1000))


def test_a_network_with_no_living_unit_cannot_learn():
    probe = TrainabilityProbe(value(0), inputs(1000), settings=Settings(num_targets=1))
    _, final = probe.learn(killed(value(1), 1.0), probe._functions[0])
    assert final == pytest.approx(1.0, abs=1e-5)


def test_the_same_network_as_its_own_reference_has_no_gap():
    probe = TrainabilityProbe(value(0), inputs(), settings=QUICK)
    scores = probe.scores(value(1))
    probe.reference = [scores]
    found = probe.measure(value(1))
    assert (found.gap, found.gap_final) == (0.0, 0.0)


def test_gaps_by_hand():
    found = compare(
        [(-1.0, -3.0), (-2.0, -5.0)], [[(-2.0, -4.0), (-3.0, -6.0)], [(0.0, -2.0), (-1.0, -4.0)]]
    )
    assert found.gap == pytest.approx(((-1.0 + 1.0) + (-2.0 + 2.0)) / 2)
    assert found.gap_final == pytest.approx(((-3.0 + 3.0) + (-5.0 + 5.0)) / 2)
    assert compare([(0.5, 1.0)], [[(0.0, 0.0)]]).gap == 0.5


def test_learning_follows_a_loop_written_from_the_definition():
    settings = Settings(num_targets=1, num_steps=30, batch_size=50)
    probe = TrainabilityProbe(value(0), inputs(), settings=settings)
    network = value(3)
    losses, final = probe.learn(copy.deepcopy(network), probe._functions[0])
    x, target = inputs(), network(inputs()).detach()[:, None] + probe._functions[0]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in network.parameters()]
    for step, rows in enumerate(probe._order.tolist(), start=1):
        loss = ((network(x[rows])[:, None] - target[rows]) ** 2).mean()
        assert loss.item() == pytest.approx(losses[step - 1].item(), rel=1e-4)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for p, g, (m, v) in zip(network.parameters(), gradients, moments, strict=True):
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g * g)
                p -= 1e-3 * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    assert ((network(x)[:, None] - target) ** 2).mean().item() == pytest.approx(final, rel=1e-3)


def test_dead_units_open_a_gap_that_grows_with_their_number():
    settings = Settings(num_targets=1, num_fresh=2, num_steps=100)
    probe = TrainabilityProbe(value(0, hidden=(64, 64)), inputs(1000), settings=settings)
    gaps = [probe.measure(killed(value(1, hidden=(64, 64)), s)).gap for s in (0.0, 0.5, 0.9)]
    assert abs(gaps[0]) < 0.35
    assert gaps[0] + 0.3 < gaps[1] < gaps[2]


@pytest.mark.parametrize("kind", ["gaussian", "squashed", "dendritic"])
def test_policies_and_contexts_are_probed_at_their_means(kind):
    streams, context, contexts = Streams(0, "network/"), ContextSpec(), None
    if kind == "dendritic":
        context = ContextSpec(3, discrete=True)
        contexts = torch.eye(3)[torch.arange(200) % 3]
        config = dendritic.Config(hidden_sizes=[16, 16], active_fraction=0.5, weight_density=0.5)
        torso = dendritic.build(config, 6, context, streams)
    else:
        torso = mlp.build(mlp.Config(hidden_sizes=[16]), 6, context, streams)
    family = SquashedGaussianPolicy if kind == "squashed" else GaussianPolicy
    network = family(torso, 4, LAW, streams)
    probe = TrainabilityProbe(network, inputs(), contexts, QUICK)
    assert probe._functions[0].shape == (200, 4)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert math.isfinite(probe.measure(network).gap)
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


def test_probing_touches_nothing_but_its_own_copies():
    network = value(0)
    recording = Recording(network.unit_groups())
    network(inputs()).sum().backward()
    gradients = [p.grad.clone() for p in network.parameters()]
    state, before = torch.get_rng_state(), copy.deepcopy(network.state_dict())
    with recording:  # an active recording must not see the copies
        TrainabilityProbe(network, inputs(), settings=QUICK).measure(network)
    assert recording.activations == {}
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())
    assert all(torch.equal(g, p.grad) for g, p in zip(gradients, network.parameters(), strict=True))


def test_references_do_not_depend_on_the_network_that_is_probed():
    first = TrainabilityProbe(value(0), inputs(), settings=QUICK)
    second = TrainabilityProbe(killed(value(7), 0.5), inputs(), settings=QUICK)
    first.measure(value(1))
    second.measure(value(1))
    assert first.reference == second.reference


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_steps": 0}, "num_steps is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"batch_size": 300}, "200 samples for minibatches of 300"),
    ],
)
def test_bad_settings_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        TrainabilityProbe(value(0), inputs(), settings=Settings(**change))


def test_equal_samples_are_refused():
    with pytest.raises(ValueError, match="the samples must differ"):
        TrainabilityProbe(value(0), torch.ones(200, 6), settings=QUICK)


def test_a_diverged_network_has_no_gap():
    probe, broken = TrainabilityProbe(value(0), inputs(), settings=QUICK), value(1)
    with torch.no_grad():
        broken.value.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        probe.measure(broken)


# Numbers measured once with an independent script; 256-256 ReLU units, 27 inputs ------------------


@pytest.fixture(scope="module")
def reference_probe():
    return TrainabilityProbe(value(0, 27, (256, 256)), inputs(1000, 27))


@pytest.mark.slow
def test_newly_drawn_networks_have_no_gap(reference_probe):
    gaps = [reference_probe.measure(value(100 + seed, 27, (256, 256))).gap for seed in range(12)]
    assert max(map(abs, gaps)) < 0.35


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "low", "high"),
    [(0.1, 0.1, 0.7), (0.25, 0.7, 1.4), (0.5, 1.7, 2.4), (0.9, 3.2, 4.2), (1.0, 4.0, 5.0)],
)
def test_the_gap_of_dead_units(reference_probe, share, low, high):
    gap = reference_probe.measure(killed(value(3, 27, (256, 256)), share)).gap
    assert low < gap < high


@pytest.mark.slow
@pytest.mark.parametrize(("num_tasks", "low", "high"), [(1, -math.inf, -0.8), (40, 3.0, math.inf)])
def test_random_labels_first_help_and_then_ruin(reference_probe, num_tasks, low, high):
    """500 Adam steps per task of random labels for fixed inputs, learning rate 1e-3, batch 250."""
    network, generator = value(5, 27, (256, 256)), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, fused=True)
    x = inputs(1000, 27)
    for _ in range(num_tasks):
        labels = torch.randn(1000, generator=generator)
        for _ in range(125):
            for rows in torch.randperm(1000, generator=generator).split(250):
                loss = nn.functional.mse_loss(network(x[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    assert low < reference_probe.measure(network).gap < high
