"""Presets named after published configurations on permuted MNIST have exactly their settings."""

import pytest

from configs.compose import compose_run

# Epochs, step size and methods for ten tasks; hidden layers; kind of network and activation.
PUBLISHED = {
    "pmnist_prototype": (3, 5e-4, "reset", [2048, 2048], "dendritic", "k_winners"),
    "pmnist_prototype_si": (20, 5e-4, "si", [2000, 2000], "dendritic", "k_winners"),
    "pmnist_clustering": (3, 1e-3, "reset", [2048, 2048], "dendritic", "k_winners"),
    "pmnist_dendrites_only": (5, 5e-6, "reset", [2048, 2048], "dendritic", "relu"),
    "pmnist_sparse_only": (5, 1e-4, "reset", [2048, 2048], "dendritic", "k_winners"),
    "pmnist_mlp3": (5, 3e-6, "reset", [2048, 2048], "mlp", "relu"),
    "pmnist_mlp10": (3, 3e-6, "reset", [2048] * 9, "mlp", "relu"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_the_published_ones(name):
    epochs, step_size, method, sizes, kind, activation = PUBLISHED[name]
    config = compose_run([f"experiment={name}"]).config
    env, network = config.env, config.network
    assert (env.dataset, env.num_tasks, env.num_epochs) == ("mnist", 10, epochs)
    assert (env.permutation_seed, env.examinations) == (42, "end")
    assert config.agent.batch_size == env.num_envs == 256
    # 60,000 images in blocks of 256 make 60,160 rows; ten examinations of 10,000 make 10,240 each.
    assert config.total_steps == 10 * (epochs * 60_160 + 10_240)
    assert (config.optimizer.kind, config.optimizer.learning_rate) == ("adam", step_size)
    assert config.optimizer.weight_decay == 0.0
    assert list(config.method) == [method]
    assert (network.kind, list(network.hidden_sizes)) == (kind, sizes)
    assert getattr(network, "activation", "k_winners") == activation
    if activation == "k_winners":
        assert network.active_fraction == 0.05
    if kind != "mlp":
        assert network.weight_density == 0.5
    if kind == "dendritic":
        gate = "none" if name == "pmnist_sparse_only" else "absmax"  # without gates, no dendrites
        assert (network.gate_mode, network.gate_scale) == (gate, 1.0)
        if gate == "absmax":
            assert list(network.dendritic_layers) == [0, 1]
            assert network.num_segments == 10
    assert not network.context_to_input
    if method == "reset":  # of Adam, at every announced task
        assert (config.method["reset"].scope, config.boundary) == ("optimizer", "oracle")
    if method == "si":
        assert config.method["si"].strength == 0.1


@pytest.mark.parametrize(
    ("name", "density"), [("pmnist_prototype", 0.05), ("pmnist_clustering", 0.1)]
)
def test_segments_start_in_the_published_range(name, density):
    """Bounds 1/sqrt(density C): .1597 for ten segments of prototypes, .1976 for 256 pixels."""
    config = compose_run([f"experiment={name}"]).config
    assert config.network.init == "published"
    assert config.network.context_density == density


def test_published_shrink_and_perturb():
    pairs = compose_run(["experiment=image_pairs", "arm=pairs_shrink_perturb"]).config
    method = pairs.method["shrink_perturb"]
    assert (method.shrink, method.noise, method.law, method.period) == (1.0, 1e-5, "normal", 1)
    assert not method.at_task_change
    assert (pairs.optimizer.learning_rate, pairs.optimizer.weight_decay) == (1e-2, 1e-5)
    bits = compose_run(["experiment=bit_flipping", "arm=regression_shrink_perturb"]).config
    assert (bits.optimizer.learning_rate, bits.optimizer.weight_decay) == (1e-2, 1e-2)
    assert bits.method["shrink_perturb"].noise == 1e-3
