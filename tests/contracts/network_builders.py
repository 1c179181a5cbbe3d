"""Small networks of every kind, and data for them, that the contract tests share."""

from __future__ import annotations

import torch

from agents.parts import NETWORKS
from networks.heads import GaussianPolicy
from networks.initializers import Initializer
from networks.streams import Streams
from networks.torso import ContextSpec

# A linear network has no hidden units, which is what these tests are about; those for images
# have tests of their own (test_convolutional.py, test_resnet.py).
KINDS = [kind for kind in NETWORKS.names() if kind not in ("linear", "convolutional", "resnet")]
INPUTS, CONTEXTS, UNITS = 5, 3, 20
DISCRETE = ContextSpec(CONTEXTS, discrete=True)
# Settings that make a network small; a file that is not listed gets `hidden_sizes`.
SMALL = {"simba": {"width": 8, "num_blocks": 2, "expansion": 2}}
# Settings that leave out whatever lets one unit change another: competition, normalisation.
INDEPENDENT = {
    "k_winners": {"active_fraction": 1.0},
    "dendritic": {"active_fraction": 1.0},
    "continual_world": {"layer_norm": False},
}


def config_of(kind, **settings):
    small = SMALL.get(kind, {"hidden_sizes": [UNITS, UNITS]})
    return NETWORKS.get(kind).Config(**{**small, **settings})


def build(kind, seed=0, context=DISCRETE, inputs=INPUTS, **settings):
    config = config_of(kind, **settings)
    return NETWORKS.get(kind).build(config, inputs, context, Streams(seed, "policy/"))


def policy_of(kind, seed=0, **settings):
    torso = build(kind, seed, **settings)
    law = Initializer(config_of(kind, **settings).head_initializer)
    return GaussianPolicy(torso, 2, law, Streams(seed, "policy/"))


def data(batch=32, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.arange(batch) % CONTEXTS
    context = torch.nn.functional.one_hot(ids, CONTEXTS).to(dtype)
    return torch.randn(batch, INPUTS, generator=generator, dtype=dtype), context, ids
