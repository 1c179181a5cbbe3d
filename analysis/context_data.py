"""What hidden layers of a trained agent do in every context, measured on the fixed sample set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.base import Agent
from analysis import measure
from analysis.context_measures import SILENT, segment_contexts, wins_by_magnitude
from analysis.restored import (
    has_tasks,
    learns_from_answers,
    restore,
    restore_on_stream,
    restore_on_tasks,
)
from analysis.run_files import read_config
from configs.build import build_probe
from configs.run import RunConfig, load_run
from envs.contexts.layer import ContextLayer
from envs.permuted_tasks import PermutedLessons
from envs.probe import probe_values
from networks.dendritic_layer import DendriticLayer
from networks.heads import Network
from networks.torso import ContextSpec
from networks.units import UnitGroup
from networks.winners import Winners
from plasticity.diagnostics import contexts

# Samples of each context on which segments are looked at; their contexts repeat.
SEGMENT_SAMPLES = 10


@dataclass(frozen=True)
class Segments:
    """What the gates of one layer do.

    Attributes:
        gates: (T, units) mean factor (or what is added) per context.
        wins: (T, J) share of units of which segment j decides in a context.
        activation: (T, J) mean u_ij . c over units.
    """

    gates: np.ndarray
    wins: np.ndarray
    activation: np.ndarray


@dataclass(frozen=True)
class LayerData:
    """One hidden layer; T contexts, H units.

    Attributes:
        network: Name of the network.
        layer: Name of the layer.
        activation: Name of its nonlinearity.
        activity: (T, H) share of the samples of a context on which a unit is not 0.
        mean_value: (T, H) mean of what readers consume.
        overlap: (T, T) shared active units of pairs of samples, relative to chance.
        cosine_distance: (T, T) mean over pairs of samples.
        duty: (H,) duty cycles as counted in training; None where units do not compete.
        winners: Units that win in each sample; None likewise.
        segments: None where there are none.
    """

    network: str
    layer: str
    activation: str
    activity: np.ndarray
    mean_value: np.ndarray
    overlap: np.ndarray
    cosine_distance: np.ndarray
    duty: np.ndarray | None
    winners: int | None
    segments: Segments | None


@dataclass(frozen=True)
class ContextData:
    """All layers of all networks of one agent.

    Attributes:
        labels: Names of the T contexts.
        kind: What a context is: task or friction.
        env_steps: Environment steps that the agent has learned from.
        layers: Network by network, from input to output.
    """

    labels: tuple[str, ...]
    kind: str
    env_steps: int
    layers: tuple[LayerData, ...]


@dataclass(frozen=True)
class Examined:
    """Images of examinations, for providers of contexts.

    Attributes:
        observations: (N, inputs).
        contexts: (N, C) as they are without a control.
    """

    observations: np.ndarray
    contexts: np.ndarray


def context_data(run_dir: Path, checkpoint: Path | None = None) -> ContextData | None:
    """Measure a run at a checkpoint.

    Args:
        run_dir: Run directory.
        checkpoint: Directory of a checkpoint, None for the newest one that is intact.

    Returns:
        None where there are no several contexts: one task, walking robots of which nothing is
        told but the number of the world, or a stream that is no row of tasks with images of their
        own.

    Raises:
        NotARun: The path is not a run directory.
        CheckpointError: There is no intact checkpoint, or it does not fit.
    """
    is_multitask = has_tasks(run_dir)
    config = load_run(read_config(run_dir))
    if learns_from_answers(config):
        return _on_stream(run_dir, checkpoint)
    if not is_multitask and getattr(config.context, "source", "") in ("task", "none", "regime"):
        return None  # walking robots announce no task, and no sample is of a numbered world
    if is_multitask:
        if len(config.env.task_names) < 2:
            return None
        on_tasks = restore_on_tasks(run_dir, checkpoint, 1)
        try:
            labels = config.env.task_names
            envs, steps = on_tasks.evaluator.envs, on_tasks.env_steps
            layers = _layers(on_tasks.agent, config, envs, len(labels))
            return ContextData(tuple(labels), "task", steps, layers)
        finally:
            on_tasks.close()
    restored = restore(run_dir, checkpoint)
    try:
        quantity = config.env.modifiers[0]
        values = probe_values(quantity, restored.envs.info.action_dim)
        labels = tuple(f"{value:.2g}" for value in values)
        layers = _layers(restored.agent, config, restored.envs, len(labels))
        return ContextData(labels, quantity, restored.env_steps, layers)
    finally:
        restored.close()


def _on_stream(run_dir: Path, checkpoint: Path | None) -> ContextData | None:
    """All test images of every task so far, with contexts as examinations show them.

    A control of contexts included, but for a delay, which images in no order do not have.
    """
    restored = restore_on_stream(run_dir, checkpoint)
    try:
        problem, count = restored.envs.problem, restored.envs.answered_task + 1
        if not isinstance(problem, PermutedLessons) or count < 2:
            return None
        shown = [problem.examination(task, count) for task in range(count)]
        inputs, told = (np.concatenate(arrays) for arrays in zip(*shown, strict=True))
        if isinstance(restored.envs, ContextLayer):
            told = restored.envs.provider.probe_contexts(Examined(inputs, told))
        ids = torch.arange(count).repeat_interleave(len(shown[0][0]))
        agent = restored.agent
        actions = np.zeros((len(inputs), problem.num_outputs), dtype=np.float32)
        layers = tuple(
            data
            for name, network in agent.networks().items()
            for data in measure_layers(
                name, network, *agent.network_inputs(name, inputs, actions, told), ids, count
            )
        )
        labels = tuple(str(task) for task in range(count))
        return ContextData(labels, "task", restored.env_steps, layers)
    finally:
        restored.close()


def _layers(agent: Agent, config: RunConfig, envs: Any, num_contexts: int) -> tuple[LayerData, ...]:
    """Samples of the fixed set come context by context, equally many of each."""
    probe = build_probe(config, envs)
    count = len(probe.observations)
    shown = getattr(probe, "contexts", np.zeros((count, 0), dtype=np.float32))
    ids = torch.arange(num_contexts).repeat_interleave(count // num_contexts)
    return tuple(
        data
        for name, network in agent.networks().items()
        for data in measure_layers(
            name,
            network,
            *agent.network_inputs(name, probe.observations, probe.actions, shown),
            ids,
            num_contexts,
        )
    )


def measure_layers(
    name: str,
    network: Network,
    inputs: Tensor,
    context: Tensor | None,
    ids: Tensor,
    num_contexts: int,
) -> list[LayerData]:
    """Measure all layers of one network.

    Args:
        name: Name of the network.
        network: The network.
        inputs: (N, inputs) what it reads.
        context: (N, C) what it is shown, or None.
        ids: (N,) by which samples are sorted, in [0, num_contexts).
        num_contexts: T.
    """
    groups = network.unit_groups()
    features = measure.unit_features(network, inputs, context, groups)
    return [
        _layer(name, network, group, features[group.name].cpu(), context, ids, num_contexts)
        for group in groups
    ]


def _layer(
    name: str,
    network: Network,
    group: UnitGroup,
    features: Tensor,
    context: Tensor | None,
    ids: Tensor,
    num_contexts: int,
) -> LayerData:
    activity = contexts.activity_map(features, ids, num_contexts)
    overlap = contexts.representation_overlap(features, ids, num_contexts).chance_ratio
    if group.activation not in SILENT:  # never exactly 0, so all units are active always
        overlap = torch.full_like(overlap, torch.nan)
    winners = getattr(group.tap, "activation", None)
    competes = isinstance(winners, Winners)
    return LayerData(
        network=name,
        layer=group.name,
        activation=group.activation,
        activity=activity.numpy(),
        mean_value=contexts.context_means(features, ids, num_contexts).numpy(),
        overlap=overlap.numpy(),
        cosine_distance=contexts.context_cosine_distance(features, ids, num_contexts).numpy(),
        duty=winners.duty.cpu().double().numpy() if competes else None,
        winners=winners.k if competes else None,
        segments=_segments(network, group, context, ids, num_contexts),
    )


@torch.no_grad()
def _segments(
    network: Network, group: UnitGroup, context: Tensor | None, ids: Tensor, num_contexts: int
) -> Segments | None:
    layer = group.layer
    if not isinstance(layer, DendriticLayer) or context is None:
        return None
    spec: ContextSpec = network.torso.context
    rows = _some_rows(ids, num_contexts)
    shown = context if spec.gate is None else context[:, spec.dim :]
    shown = segment_contexts(network, shown[rows.to(shown.device)]).to(layer.segments.dtype)
    activations = layer.segment_activations(shown).cpu()
    signed = wins_by_magnitude(layer)
    wins = contexts.segment_wins_by_context(activations, ids[rows], num_contexts, signed)
    return Segments(
        gates=contexts.context_means(
            layer.modulation(shown).cpu(), ids[rows], num_contexts
        ).numpy(),
        wins=wins.mean(1).numpy(),
        activation=contexts.context_means(activations.mean(1), ids[rows], num_contexts).numpy(),
    )


def _some_rows(ids: Tensor, num_contexts: int) -> Tensor:
    """At most `SEGMENT_SAMPLES` rows of every context, evenly spaced."""
    chosen: Sequence[Tensor] = [
        rows[:: max(1, len(rows) // SEGMENT_SAMPLES)][:SEGMENT_SAMPLES]
        for rows in ((ids == context).nonzero().flatten() for context in range(num_contexts))
    ]
    return torch.cat(list(chosen))
