"""Gate mathematics of dendritic segments: from a context to one number per unit.

With segments u of shape [n, J, C], sample context c and a_ij = u_ij . c, the winning segment of
unit i decides d_i, and the gate scales the unit's pre-activation by scale * sigmoid(d_i).

Three paths compute d. `table_logits` serves a finite set of contexts: one row per context, looked
up by index. `dense_logits` serves arbitrary context vectors. `reference_logits` is the formula
written down plainly, for tests.

Source: Iyer et al. 2022, Frontiers in Neurorobotics 16:846219, equations 2 to 4.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

GATE_MODES = ("absmax", "max", "absmax_unsigned", "bias", "none")

# Above this many a_ij at once, the dense path works in slices of units and recomputes them in
# the backward pass instead of storing them (64 MiB in float32).
MAX_STORED = 1 << 24


class _Winning(torch.autograd.Function):
    """Largest or most extreme entry along dimension 1, with the gradient to that entry alone.

    Ties are harmless: every tied entry receives the gradient, but ties occur where the context
    is 0, and there the gradient is 0.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(activations: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
        winning = _winning(activations, signed)
        # A 0/1 tensor of the same dtype: on CPU comparing and multiplying are then vectorised.
        chosen = torch.empty_like(activations)
        return winning, torch.eq(activations, winning.unsqueeze(1), out=chosen)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[override]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx, grad: Tensor, _) -> tuple[Tensor, None]:  # type: ignore[override]
        (chosen,) = ctx.saved_tensors
        return grad.unsqueeze(1) * chosen, None


def _winning(activations: Tensor, signed: bool) -> Tensor:
    high = activations.amax(1)
    if not signed:
        return high
    low = activations.amin(1)
    # On CPU faster than selecting by an irregular mask, and as exact.
    keep = torch.ge(high, -low, out=torch.empty_like(high))
    return torch.addcmul(high * keep, low, 1.0 - keep)


def winning_activation(activations: Tensor, mode: str) -> Tensor:
    """Reduce segment activations (B, J, n) to d (B, n).

    `absmax` keeps the entry of largest magnitude with its sign, `absmax_unsigned` its magnitude,
    `max` and `bias` the largest entry.
    """
    signed = mode in ("absmax", "absmax_unsigned")
    if activations.shape[1] == 1:
        winning = activations.squeeze(1)
    elif activations.requires_grad:
        winning, _ = _Winning.apply(activations, signed)  # type: ignore[misc]
    else:
        winning = _winning(activations, signed)
    assert isinstance(winning, Tensor)
    return winning.abs() if mode == "absmax_unsigned" else winning


def identity(values: Tensor) -> Tensor:
    """Return the argument."""
    return values


def table_logits(segments: Tensor, mode: str, contexts: Tensor | None = None) -> Tensor:
    """d of every context of a finite set.

    Args:
        segments: (n, J, C).
        mode: One of `GATE_MODES` except `none`.
        contexts: (T, C) context vectors; None for the C one-hot vectors, which need no product.

    Returns:
        (T, n).
    """
    if contexts is not None:
        return dense_logits(segments, contexts, mode)
    return winning_activation(segments.permute(2, 1, 0).contiguous(), mode)


def look_up(
    segments: Tensor, mode: str, ids: Tensor, transform: Callable[[Tensor], Tensor] = identity
) -> Tensor:
    """transform(d) of a batch of context indices, computed once per context, not per sample.

    The table is built anew in every pass: it needs no product, and no version counter would see
    every way in which segments can be written to.

    Args:
        segments: (n, J, C).
        mode: One of `GATE_MODES` except `none`.
        ids: (B,) int64 in [0, C]; C stands for the context 0.
        transform: Elementwise function of d.

    Returns:
        (B, n).
    """
    num_contexts = segments.shape[2]
    if len(ids) < num_contexts:  # only the columns in use
        columns = segments.index_select(2, ids.clamp(max=num_contexts - 1))
        present = (ids < num_contexts).unsqueeze(1)
        return transform(table_logits(columns, mode) * present)
    table = table_logits(segments, mode)
    table = torch.cat((table, table.new_zeros(1, table.shape[1])))
    return transform(table).index_select(0, ids)


def dense_logits(segments: Tensor, context: Tensor, mode: str) -> Tensor:
    """d for arbitrary context vectors.

    Args:
        segments: (n, J, C).
        context: (B, C).
        mode: One of `GATE_MODES` except `none`.

    Returns:
        (B, n).
    """
    num_units, num_segments, _ = segments.shape
    stored = len(context) * num_units * num_segments
    if stored <= MAX_STORED:
        return _dense_slice(segments, context, mode)
    num_slices = min(num_units, -(-stored // MAX_STORED))
    parts = []
    for part in segments.tensor_split(num_slices):
        if torch.is_grad_enabled():
            value = checkpoint(_dense_slice, part, context, mode, use_reentrant=False)
            assert isinstance(value, Tensor)
            parts.append(value)
        else:
            parts.append(_dense_slice(part, context, mode))
    return torch.cat(parts, dim=1)


def _dense_slice(segments: Tensor, context: Tensor, mode: str) -> Tensor:
    num_units, num_segments, context_dim = segments.shape
    # (C, J n) makes the gradient of the segments c^T g, several times faster than g^T c.
    matrix = segments.permute(2, 1, 0).reshape(context_dim, num_segments * num_units)
    return winning_activation((context @ matrix).view(-1, num_segments, num_units), mode)


def reference_logits(segments: Tensor, context: Tensor, mode: str) -> Tensor:
    """d by the formula, for tests: every product, then an argmax over segments."""
    activations = torch.einsum("njc,bc->bnj", segments, context)
    score = activations.abs() if mode.startswith("absmax") else activations
    winning = activations.gather(2, score.argmax(2, keepdim=True)).squeeze(2)
    return winning.abs() if mode == "absmax_unsigned" else winning


def segment_activations(segments: Tensor, context: Tensor) -> Tensor:
    """All u_ij . c, (B, n, J)."""
    return torch.einsum("njc,bc->bnj", segments, context)
