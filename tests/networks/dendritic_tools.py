"""What the tests of the dendritic torso share."""

from networks import dendritic
from networks.streams import Streams
from networks.torso import ContextSpec

TASKS = ContextSpec(10, discrete=True)
MT10 = {
    "hidden_sizes": [2800, 2800],
    "num_segments": 10,
    "weight_density": 0.9,
    "head_density": 0.9,
    "init": "published",
}


def build(input_dim=5, context=TASKS, seed=0, **settings):
    config = dendritic.Config(**{"hidden_sizes": [24, 16], **settings})
    return dendritic.build(config, input_dim, context, Streams(seed))
