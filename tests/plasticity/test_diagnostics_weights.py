"""Weights, sample gradients, curvature and outputs against cases worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from plasticity import diagnostics as d

WEIGHT = torch.tensor([[1.0, -2.0], [3.0, 4.0]])


def test_sizes_and_distances() -> None:
    assert d.weight_magnitude(WEIGHT) == 2.5
    assert d.weight_rms(WEIGHT) == pytest.approx(math.sqrt(30 / 4))
    mask = torch.tensor([[1, 1], [0, 0]])
    assert d.weight_magnitude(WEIGHT, mask) == 1.5
    assert d.weight_rms(WEIGHT, mask) == pytest.approx(math.sqrt(2.5))
    bias = torch.tensor([1.0, 1.0])
    moved = [WEIGHT + torch.tensor([[3.0, 0.0], [0.0, -4.0]]), bias + 1.0]
    assert d.distance_from_init(moved, [WEIGHT, bias]) == pytest.approx(math.sqrt(27 / 6))
    assert d.weight_change([WEIGHT, bias], moved) == 9.0
    assert d.update_ratio([WEIGHT, bias], moved) == pytest.approx(math.sqrt(27 / 32))
    assert math.isnan(d.update_ratio(torch.zeros(2), torch.ones(2)))


def test_weights_given_wrongly_are_refused() -> None:
    with pytest.raises(ValueError, match="same parameters"):
        d.weight_change([WEIGHT], [WEIGHT, WEIGHT])
    with pytest.raises(ValueError, match="no weights given"):
        d.distance_from_init([], [])
    with pytest.raises(ValueError, match="hides every weight"):
        d.weight_magnitude(WEIGHT, torch.zeros(2, 2))
    with pytest.raises(ValueError, match="mask has shape"):
        d.weight_magnitude(WEIGHT, torch.ones(2))
    with pytest.raises(ValueError, match="non-empty matrix"):
        d.sigma_max(torch.ones(3))


def test_conditioning_of_a_known_matrix() -> None:
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    matrix = rotation @ torch.diag(torch.tensor([4.0, 2.0, 0.5], dtype=torch.float64))
    assert d.sigma_max(matrix) == pytest.approx(4.0)
    assert d.condition(matrix) == pytest.approx(8.0)
    assert d.orthogonality(rotation) == pytest.approx(0.0, abs=1e-20)
    # Eigenvalues of W^T W - I: 15, 3, -.75.
    assert d.orthogonality(matrix) == pytest.approx(225 + 9 + 0.5625)
    assert d.orthogonality(torch.eye(5)[:3]) == 2.0  # wide: in - out remains
    assert d.condition(torch.diag(torch.tensor([1.0, 0.0]))) == math.inf
    assert math.isnan(d.condition(torch.zeros(2, 2)))
    assert d.sigma_max(torch.full((2, 1, 2, 2), 1.0)) == pytest.approx(math.sqrt(8))


def test_gradient_norms_and_cosines() -> None:
    assert d.grad_norm([torch.tensor([3.0]), torch.tensor([[4.0], [12.0]])]) == pytest.approx(13.0)
    assert d.clip_share(torch.tensor([0.1, 0.5, 0.6, 2.0]), 0.5) == 0.5
    assert math.isnan(d.clip_share(torch.empty(0), 0.5))
    ones = [torch.ones(2), torch.ones(2)]
    assert d.update_cosine(ones, [torch.ones(2), torch.zeros(2)]) == pytest.approx(math.sqrt(0.5))
    assert d.update_cosine(ones, [-torch.ones(2), -torch.ones(2)]) == pytest.approx(-1.0)
    assert math.isnan(d.update_cosine(torch.ones(2), torch.zeros(2)))


def test_gradient_covariance_of_the_worked_example() -> None:
    gradients = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert d.grad_covariance(gradients) == (pytest.approx(1 / 3), 2)
    scaled = gradients * torch.tensor([[1e-3], [5.0], [40.0]])
    assert d.grad_covariance(scaled) == (pytest.approx(1 / 3), 2)
    with_zero = torch.cat([gradients, torch.zeros(2, 2)])
    assert d.grad_covariance(with_zero) == (pytest.approx(1 / 3), 2)
    assert all(math.isnan(value) for value in d.grad_covariance(with_zero[2:]))
    # Mean (2/3, 1/3); squared distances 2/9, 8/9, 2/9; squared mean 5/9.
    assert d.grad_noise(gradients) == pytest.approx((12 / 27) / (5 / 9))
    assert math.isnan(d.grad_noise(torch.tensor([[1.0], [-1.0]])))


def test_rank_of_noisy_float32_gradients_is_that_of_the_exact_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(64, 5, generator=generator), torch.randn(5, 3000, generator=generator)
    noise = 1e-5 * torch.randn(64, 3000, generator=generator)  # of a float32 backward pass
    assert d.grad_covariance(factors[0] @ factors[1] + noise).rank == 5


def test_per_sample_gradients_equal_separate_backward_passes() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 1))
    unused = nn.Parameter(torch.ones(2))
    inputs = torch.randn(5, 3)
    parameters = [*network.parameters(), unused]
    found = d.per_sample_gradients(network(inputs).squeeze(1).square(), parameters)
    for row, x in zip(found, inputs, strict=True):
        network.zero_grad()
        network(x).square().sum().backward()
        expected = torch.cat([p.grad.flatten() for p in network.parameters()])  # type: ignore[union-attr]
        torch.testing.assert_close(row, torch.cat([expected, torch.zeros(2)]))
    with pytest.raises(ValueError, match="one scalar per sample"):
        d.per_sample_gradients(network(inputs), parameters)
    with pytest.raises(ValueError, match="requires_grad=False"):
        d.per_sample_gradients(torch.ones(3), parameters)


def test_tangent_kernel_of_a_linear_model_is_x_x_transposed() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3, bias=False)
    direction = d.random_direction(3, torch.Generator().manual_seed(5))
    assert float(direction.norm()) == pytest.approx(1.0)
    inputs = torch.randn(6, 4)
    kernel = d.entk(d.per_sample_gradients(model(inputs) @ direction, [model.weight]))
    torch.testing.assert_close(kernel, (inputs @ inputs.T).double(), rtol=1e-5, atol=1e-6)


def test_ranks_of_a_kernel_use_its_eigenvalues() -> None:
    kernel = torch.diag(torch.tensor([10.0, 1.0, 0.05, 0.01]))
    assert d.entk_rank(kernel) == (pytest.approx(1.40374, abs=1e-5), 2)
    assert d.entk_rank(torch.eye(64)) == (pytest.approx(64), 64)
    assert d.entk_rank(torch.zeros(3, 3)) == (0, 0)


def quadratic() -> tuple[torch.Tensor, list[nn.Parameter]]:
    """Loss with Hessian diag(1, 2, 3), spread over two parameters."""
    a = nn.Parameter(torch.tensor([0.3, -0.7]))
    b = nn.Parameter(torch.tensor([2.0]))
    loss = 0.5 * (a**2 * torch.tensor([1.0, 2.0])).sum() + 1.5 * (b**2).sum()
    return loss, [a, b]


@pytest.mark.parametrize("seed", range(4))
def test_the_trace_of_a_diagonal_hessian_is_exact_for_every_draw(seed: int) -> None:
    loss, parameters = quadratic()
    generator = torch.Generator().manual_seed(seed)
    assert d.hessian_trace(loss, parameters, generator, num_vectors=1) == 6.0
    assert d.hessian_trace(loss, parameters, generator) == 6.0


def test_the_largest_curvature_after_ten_power_iterations() -> None:
    loss, parameters = quadratic()
    start = [torch.ones(2), torch.ones(1)]
    # Rayleigh quotient of (1, 2^10, 3^10).
    expected = (1 + 2 * 4**10 + 3 * 9**10) / (1 + 4**10 + 9**10)
    found = d.hessian_max(loss, parameters, start)
    assert found == pytest.approx(expected, abs=1e-6)
    assert found == pytest.approx(2.99970, abs=1e-5)
    drawn = d.hessian_max(loss, parameters, torch.Generator().manual_seed(0), num_iterations=60)
    assert drawn == pytest.approx(3.0, abs=1e-6)
    assert d.hessian_max(-loss, parameters, start, num_iterations=60) == pytest.approx(-3.0)
    with pytest.raises(ValueError, match="start vector is zero"):
        d.hessian_max(loss, parameters, [torch.zeros(2), torch.zeros(1)])


def test_curvature_of_a_network_against_the_dense_hessian() -> None:
    torch.manual_seed(1)
    inputs, targets = torch.randn(20, 2).double(), torch.randn(20, 1).double()
    shapes = [(4, 2), (1, 4)]
    flat = torch.randn(12, dtype=torch.float64)

    def loss_of(vector: torch.Tensor) -> torch.Tensor:
        first, second = (p.view(s) for p, s in zip(vector.split([8, 4]), shapes, strict=True))
        return ((torch.tanh(inputs @ first.T) @ second.T - targets) ** 2).mean()

    dense = torch.autograd.functional.hessian(loss_of, flat)
    assert isinstance(dense, torch.Tensor)
    vector = flat.clone().requires_grad_()
    eigenvalues = torch.linalg.eigvalsh(dense)
    dominant = float(eigenvalues[eigenvalues.abs().argmax()])
    generator = torch.Generator().manual_seed(0)
    found = d.hessian_max(loss_of(vector), [vector], generator, num_iterations=500)
    assert found == pytest.approx(dominant, rel=1e-4)
    trace = d.hessian_trace(loss_of(vector), [vector], generator, num_vectors=4000)
    assert trace == pytest.approx(float(dense.trace()), rel=0.1)


def test_a_linear_loss_has_no_curvature() -> None:
    weight = nn.Parameter(torch.ones(3))
    generator = torch.Generator().manual_seed(0)
    assert d.hessian_trace(weight.sum(), [weight], generator) == 0.0
    assert d.hessian_max(weight.sum(), [weight], generator) == 0.0
    with pytest.raises(ValueError, match="give a scalar"):
        d.hessian_trace(weight, [weight], generator)


def test_value_churn_and_fit() -> None:
    before, after = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.5, 1.0, 3.0])
    assert d.value_churn(before, after) == 0.5
    with pytest.raises(ValueError, match="shapes differ"):
        d.value_churn(before, after[:, None])  # broadcasting would compare every pair
    # Var(R) = 2/3; residuals -.5, 1, 0 with mean 1/6 and variance 7/18.
    assert d.explained_variance(before, after) == pytest.approx(1 - (7 / 18) / (2 / 3))
    assert d.explained_variance(before, before + 7.0) == 1.0
    assert math.isnan(d.explained_variance(torch.ones(3), before))
    assert d.q_bias(after, before) == pytest.approx(-0.5 / 3)


@pytest.mark.parametrize("per_state", [True, False])
def test_policy_churn_equals_torch_distributions(per_state: bool) -> None:
    torch.manual_seed(0)
    shape = (7, 3) if per_state else (3,)
    mean_0, mean_1 = torch.randn(7, 3), torch.randn(7, 3)
    log_std_0, log_std_1 = 0.5 * torch.randn(shape), 0.5 * torch.randn(shape)
    p = Independent(Normal(mean_0, log_std_0.exp().expand(7, 3)), 1)
    q = Independent(Normal(mean_1, log_std_1.exp().expand(7, 3)), 1)
    found = d.policy_churn(mean_0, log_std_0, mean_1, log_std_1)
    assert found.kl == pytest.approx(float(kl_divergence(p, q).mean()), rel=1e-5)
    assert found.mean_squared == pytest.approx(float(((mean_0 - mean_1) ** 2).mean()), rel=1e-6)
    assert d.policy_churn(mean_0, log_std_0, mean_0, log_std_0) == (0.0, 0.0)
    with pytest.raises(ValueError, match="log_std_after"):
        d.policy_churn(mean_0, log_std_0, mean_1, torch.ones(2))


def test_measuring_draws_nothing_from_the_global_generator() -> None:
    state = torch.get_rng_state()
    loss, parameters = quadratic()
    generator = torch.Generator().manual_seed(0)
    d.hessian_trace(loss, parameters, generator)
    d.hessian_max(loss, parameters, generator)
    d.random_direction(4, generator)
    d.ranks(torch.eye(8))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in parameters)
