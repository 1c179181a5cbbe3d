"""What the tests of snapshots share."""

import json

import numpy as np


def through_a_file(snapshot):
    """What a checkpoint does: arrays as bytes, everything else as JSON."""
    plain = {key: value for key, value in snapshot.items() if not isinstance(value, np.ndarray)}
    arrays = {
        key: np.frombuffer(value.tobytes(), value.dtype).reshape(value.shape)
        for key, value in snapshot.items()
        if isinstance(value, np.ndarray)
    }
    return {**json.loads(json.dumps(plain)), **arrays}
