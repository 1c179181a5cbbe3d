"""Presets of the controlled comparison: what each arm changes, and that all of them build."""

from dataclasses import replace

import pytest
import torch

from agents.parts import NETWORKS
from configs.compose import compose_run
from configs.schema import to_plain
from networks.heads import GaussianPolicy, ValueFunction
from networks.initializers import Initializer
from networks.masks import live_parameters
from networks.matching import matched_width
from networks.streams import Streams
from networks.torso import ContextSpec

PRESETS = {
    "dendrites": {},
    "dendrites_continuous": {"num_segments": 4},
    "dendrites_j1": {"num_segments": 1},
    "zero_context": {"segment_context": "zero"},
    "segments_only": {"context_to_input": False},
    "dendritic": {"num_segments": "auto", "context_to_input": False},
    "dendritic_published": {
        "hidden_sizes": [2800, 2800],
        "dendritic_layers": [1],
        "num_segments": 10,
        "weight_density": 0.9,
        "head_density": 0.9,
        "init": "published",
        "context_to_input": False,
    },
}
OTHERS = ("k_winners", "layer_norm", "film", "xdg", "simba", "multi_head", "mlp_matched_mt10")


def preset(name):
    return compose_run([f"network={name}"]).config.network


TASKS = ContextSpec(10, discrete=True)


def build(config, inputs=39, context=TASKS):
    return NETWORKS.get(config.kind).build(config, inputs, context, Streams(0))


@pytest.mark.parametrize("name", [*PRESETS, *OTHERS])
def test_every_arm_builds_and_differs_from_the_main_one_in_what_it_names(name):
    config = preset(name)
    if name in PRESETS:
        main, arm = to_plain(preset("dendrites")), to_plain(config)
        assert {key: arm[key] for key in arm if arm[key] != main[key]} == PRESETS[name]
    torso = build(config)
    ids = torch.arange(4)
    assert torso(torch.randn(4, 39), ids).shape == (4, torso.output_dim)


def test_layer_norm_is_the_perceptron_with_norms():
    config = preset("layer_norm")
    assert config.kind == "mlp"
    assert config.layer_norm
    assert config.hidden_sizes == [256, 256]


@pytest.mark.parametrize("head", [GaussianPolicy, ValueFunction])
def test_the_matched_perceptron_has_the_width_the_formula_gives(head):
    context, streams = ContextSpec(9), Streams(0)
    main = build(preset("dendrites_continuous"), 27, context)
    outputs = 8 if head is GaussianPolicy else 1
    arguments = (8,) if head is GaussianPolicy else ()
    network = head(main, *arguments, Initializer(), streams)
    live = live_parameters(network) - (8 if head is GaussianPolicy else 0)  # log_std
    width = matched_width(live, 27 + 9, 2, outputs)
    matched = replace(preset("mlp_matched"), num_outputs=outputs)
    torso = build(matched, 27, context)
    assert [layer.num_units for layer in torso.layers] == [width, width]
