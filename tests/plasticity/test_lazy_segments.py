"""Segments of absent contexts stand still, and each learns as with an Adam of its own."""

import math

import pytest
import torch
from recycling_nets import LECUN, equal_bits
from torch import nn

from agents.update import Update, clone
from networks import dendritic
from networks.heads import ValueFunction
from networks.streams import Streams
from networks.torso import ContextSpec
from plasticity.optimizers import adam, adam_rel
from plasticity.optimizers.direct_adam import DirectAdam
from plasticity.optimizers.lazy_segments import LazySegmentAdam

UNITS, SEGMENTS, CONTEXTS = 4, 2, 3
RATE = 1e-2


class Alone(nn.Module):
    """A segment tensor and a weight, without a network around them."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shape = (UNITS, SEGMENTS, CONTEXTS)
        self.segments = nn.Parameter(torch.randn(shape, generator=generator).double())
        self.weight = nn.Parameter(torch.randn(5, 3, generator=generator).double())

    def lazy(self, **settings):
        parameters = [self.weight, self.segments]
        return LazySegmentAdam(parameters, segments=[self.segments], lr=RATE, **settings)


def gradients(steps, presence):
    """Random gradients; columns without a context in the batch are exactly 0."""
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        weight = torch.randn(5, 3, generator=generator).double()
        segments = torch.randn(UNITS, SEGMENTS, CONTEXTS, generator=generator).double()
        yield weight, segments * torch.tensor(presence(step), dtype=torch.float64)


def some(step):
    return [float(step % 3 != 1), float(20 <= step < 30), 0.0]


def test_each_context_learns_as_with_an_adam_of_its_own():
    """Against torch's Adam, which sees only the steps in which the context is present."""
    module = Alone()
    columns = [nn.Parameter(module.segments.detach()[..., c].clone()) for c in range(CONTEXTS)]
    weight = nn.Parameter(module.weight.detach().clone())
    theirs = [torch.optim.Adam([column], lr=RATE) for column in columns]
    theirs.append(torch.optim.Adam([weight], lr=RATE))
    optimizer, start = module.lazy(), module.segments.detach().clone()
    for module.weight.grad, module.segments.grad in gradients(60, some):
        optimizer.step()
        weight.grad = module.weight.grad
        theirs[-1].step()
        for c, column in enumerate(columns):
            if module.segments.grad[..., c].any():
                column.grad = module.segments.grad[..., c].clone()
                theirs[c].step()
    for c, column in enumerate(columns):
        torch.testing.assert_close(module.segments.detach()[..., c], column.detach())
    torch.testing.assert_close(module.weight.detach(), weight.detach())
    assert torch.equal(module.segments[..., 2], start[..., 2])  # never there
    assert optimizer.state[module.segments]["step"].tolist() == [40.0, 10.0, 0.0]


@pytest.mark.parametrize("lazy", [True, False])
def test_after_a_switch_and_after_a_long_absence(lazy):
    """Dendrites, section 12: plain Adam moves on by 9.05 lr, and comes back with 3.16 lr."""
    module = Alone()
    optimizer = module.lazy() if lazy else DirectAdam([module.segments], lr=RATE)
    here, away = torch.zeros(UNITS, SEGMENTS, CONTEXTS), torch.zeros(UNITS, SEGMENTS, CONTEXTS)
    here[..., 0], away[..., 1] = 1.0, 1.0

    def moved(gradient, steps):
        before = module.segments.detach()[..., 0].clone()
        for _ in range(steps):
            module.segments.grad = gradient.double()
            optimizer.step()
        return ((before - module.segments.detach()[..., 0]) / RATE).mean().item()

    moved(here, 300 if lazy else 3_000)
    drifted, first = moved(away, 100 if lazy else 12_000), moved(here, 1)
    if lazy:
        assert drifted == 0.0
        assert first == pytest.approx(1.0, abs=1e-6)
    else:
        assert drifted == pytest.approx(9.05, abs=0.05)
        assert first == pytest.approx(0.1 / math.sqrt(0.001), abs=0.03)


def test_hooks_see_the_same_step():
    plain, hooked = Alone(), Alone()
    one, other = plain.lazy(), hooked.lazy()
    other.register_step_post_hook(lambda *_: None)
    for module, optimizer in ((plain, one), (hooked, other)):
        for module.weight.grad, module.segments.grad in gradients(5, some):
            optimizer.step()
    assert torch.equal(plain.segments, hooked.segments)


def network(seed=0):
    streams, context = Streams(seed), ContextSpec(CONTEXTS, discrete=True)
    config = dendritic.Config(hidden_sizes=[16], num_segments=2, active_fraction=0.5)
    torso = dendritic.build(config, 4, context, streams)
    return ValueFunction(torso, LECUN, streams)


def update_of(module, **settings):
    config = adam.Config(learning_rate=RATE, segment_optimizer="lazy", **settings)
    return Update("value", module, adam.build(config, module), {})


def advance(update, steps, stream, contexts):
    for step in range(steps):
        x = torch.randn(8, 4, generator=stream)
        context = torch.eye(CONTEXTS)[torch.full((8,), contexts[step % len(contexts)])]
        update.step((update.network(x, context) - 1.0).square().mean())


def test_a_network_moves_the_segments_of_its_contexts_alone_and_resumes():
    whole, other, stream = update_of(network()), update_of(network(3)), torch.Generator()
    segments = whole.network.torso.layers[0].segments
    start = segments.detach().clone()
    advance(whole, 10, stream, contexts=(1,))
    assert torch.equal(segments[..., [0, 2]], start[..., [0, 2]])
    assert not torch.equal(segments[..., 1], start[..., 1])
    before = segments.detach()[..., 1].clone()
    advance(whole, 10, stream, contexts=(0, 2))
    assert torch.equal(segments[..., 1], before)
    saved, position = clone(whole.state_dict()), stream.get_state()
    advance(whole, 10, stream, contexts=(0, 1, 2))
    other.load_state_dict(saved)
    stream.set_state(position)
    advance(other, 10, stream, contexts=(0, 1, 2))
    assert equal_bits(clone(whole.state_dict()), clone(other.state_dict()))


def test_what_cannot_be_lazy_is_refused():
    with pytest.raises(ValueError, match="segment_optimizer is 'lasy'"):
        adam.Config(segment_optimizer="lasy")
    with pytest.raises(ValueError, match="adam_rel does not have"):
        adam_rel.Config(segment_optimizer="lazy")
    with pytest.raises(ValueError, match=r"per_unit_step those of units; choose zero_moments"):
        adam.build(adam.Config(segment_optimizer="lazy"), network(), per_unit_step=True)
    assert type(adam.build(adam.Config(), network())) is DirectAdam
