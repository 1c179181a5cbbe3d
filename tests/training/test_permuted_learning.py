"""Permuted images learnt one after another: does every part of active dendrites pay?"""

from pathlib import Path

import numpy as np
import pytest

import train
from analysis import supervised_results
from analysis.checkpoint import CheckpointStore
from envs.datasets import MNIST_SHA256

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SILENT = ["progress=false", "num_threads=1", "log.diagnostics=false"]


@pytest.fixture(autouse=True)
def _no_reserve(monkeypatch):
    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)


def test_37_dendrites_above_k_winners_above_a_perceptron(tmp_path):
    """Acceptance 37: five permutations of 8 x 8 digits, three seeds.

    Source of the thresholds: five seeds gave .86, .78 and .64 with standard deviations of .02 to
    .04, so distances between means of three seeds have standard errors of about .025.
    """
    arms = ("permuted_dendrites", "permuted_k_winners", "permuted_mlp")
    for arm in arms:
        for seed in range(3):
            words = ["experiment=permuted_digits", "env.num_tasks=5", "total_steps=75520"]
            words += [f"arm={arm}", f"seed={seed}", f"runs_root={tmp_path}", *SILENT]
            assert train.main(words) == train.EXIT_DONE
    found = supervised_results.final_accuracies(tmp_path)
    means = [float(np.mean(list(found[arm, 5].values()))) for arm in arms]
    print(dict(zip(arms, means, strict=True)))
    dendrites, k_winners, perceptron = means
    assert dendrites > 0.80
    assert dendrites - k_winners > 0.04
    assert k_winners - perceptron > 0.06


@pytest.mark.parametrize(
    ("experiment", "accuracy"),
    [
        ("pmnist_prototype", 0.9455),
        ("pmnist_clustering", 0.9432),
        ("pmnist_sparse_only", 0.9133),
        ("pmnist_dendrites_only", 0.8285),
        ("pmnist_mlp3", 0.8203),
    ],
)
def test_39_published_accuracies_of_ten_tasks(experiment, accuracy, tmp_path):
    """Acceptance 39, ten tasks; hours on a CPU, and skipped where MNIST is not.

    Deviation: one seed within .01, where the mean of eight is known to .005.
    """
    folder = ROOT / "data" / "mnist"
    if not all((folder / name).is_file() for name in MNIST_SHA256):
        pytest.skip(f"needs the four published files in {folder}")
    words = [f"experiment={experiment}", f"env.data_dir={folder}", f"runs_root={tmp_path}"]
    assert train.main([*words, *SILENT]) == train.EXIT_DONE
    (scores,) = supervised_results.final_accuracies(tmp_path).values()
    assert scores[0] == pytest.approx(accuracy, abs=0.01)
