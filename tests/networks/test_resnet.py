"""The residual network: shapes, its unit graph, batch statistics."""

import pytest
import torch

from agents.supervised import Predictor
from networks import resnet
from networks.initializers import Initializer
from networks.redraw import redraw
from networks.sequential import SequentialLayer
from networks.streams import Streams
from networks.torso import ContextSpec
from networks.units import Recording, parameter_roles


def predictor(side=32, image_channels=3, **settings):
    config = resnet.Config(image_channels=image_channels, **settings)
    inputs = image_channels * side * side
    torso = resnet.build(config, inputs, ContextSpec(), Streams(0))
    return Predictor(torso, 10, Initializer(config.head_initializer), Streams(0))


def small():
    return predictor(8, 1, channels=[4, 6], blocks_per_stage=2)


def images(count=5, pixels=64, dtype=torch.float32):
    return torch.randn(count, pixels, generator=torch.Generator().manual_seed(0), dtype=dtype)


def test_the_published_network_is_resnet_18():
    network = predictor().eval()
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    biases = [m.bias for m in convolutions if m.bias is not None]
    main = [m for m in convolutions if m.kernel_size == (3, 3)]
    # Seventeen convolutions and the head; three paths around need one of 1 x 1.
    assert (len(main), len(convolutions)) == (17, 20)
    counted = sum(p.numel() for p in network.torso.parameters())
    # 11,173,962 is the usual count for 32 x 32 pixels with ten outputs, without these biases.
    assert counted == 11_173_962 - 5_130 + sum(bias.numel() for bias in biases)
    for module in convolutions:
        fan_in = module.weight[0].numel()
        assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
    assert len(biases) == 20
    assert not torch.cat(biases).any()
    widths = [group.num_units for group in network.unit_groups()]
    assert widths == [64, 64, 128, 128, 256, 256, 512, 512, 512]
    with torch.no_grad(), Recording(network.unit_groups()) as activations:
        assert network(images(2, 3072)).shape == (2, 10)
    assert activations["blocks.7"].shape == (2, 512, 4, 4)
    assert activations["pooled"].shape == (2, 512)


def test_a_block_is_the_formula():
    block = resnet.Block(3, 5, 2).double().eval()
    for module in block.modules():
        if isinstance(module, resnet.Convolution):
            module.redraw(torch.Generator().manual_seed(1))
    x = images(2, 3 * 36, torch.float64).reshape(2, 3, 6, 6)
    convolve, scale = torch.nn.functional.conv2d, (1 + 1e-5) ** -0.5
    inner = torch.relu(convolve(x, block.first.weight, stride=2, padding=1) * scale)
    branch = convolve(inner, block.second.weight, padding=1) * scale
    (path,) = (m for m in block.around.modules() if isinstance(m, resnet.Convolution))
    around = convolve(x, path.weight, stride=2) * scale
    torch.testing.assert_close(block(x), torch.relu(branch + around))


def test_readers_are_complete():
    """Behind zero outgoing weights a channel may become anything, in evaluation and training."""
    network = small().double()
    x = images(dtype=torch.float64)
    for mode in (True, False):
        network.train(mode)
        for group in network.unit_groups():
            layer = group.layer
            assert isinstance(layer, SequentialLayer)
            units = torch.tensor([1])
            with torch.no_grad():
                group.forget_units(units)
                before = network(x)
                layer.reset_units(units, torch.Generator().manual_seed(1))
                assert layer.linear.bias is not None
                layer.linear.bias[units] = 3.0
                assert torch.equal(network(x), before), (mode, group.name)


def test_groups_and_roles():
    network = small()
    assert set(parameter_roles(network).values()) == {"weight", "bias", "norm_gain", "norm_offset"}
    groups = network.unit_groups()
    with Recording(groups) as activations:
        network(images()).square().sum().backward()
    for group in groups:
        assert activations[group.name].shape[1] == group.num_units
        assert (activations[group.name] >= 0).all()
        gradient = group.layer.incoming_gradient()
        assert gradient is not None
        assert gradient.any()
    assert all(p.grad is not None for p in network.parameters())


def test_equal_seeds_give_equal_bits_and_all_can_be_drawn_anew():
    first, second = small().state_dict(), small().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    network = small()
    network(images())  # moves the running statistics
    redraw(network, torch.Generator().manual_seed(5))
    weights = network.state_dict()
    assert all(not torch.equal(first[n], weights[n]) for n in first if n.endswith("first.weight"))
    assert all(not weights[n].any() for n in weights if n.endswith("running_mean"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"side": 8, "channels": []}, "at least 1"), ({"side": 8, "blocks_per_stage": 0}, "at least")],
)
def test_what_does_not_fit_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        predictor(**settings)
    with pytest.raises(ValueError, match="no square image"):
        resnet.build(resnet.Config(), 64, ContextSpec(), Streams(0))
