"""Epochs of a supervised stream: step sizes that fall, the best weights of a task."""

import json

import numpy as np
import pytest
import torch

import train
from agents import supervised
from agents.base import Transition
from agents.parts import Parts
from configs.build import build_agent, build_environment
from configs.compose import compose_run
from configs.schema import ConfigurationError
from networks import mlp
from plasticity.optimizers import sgd

INPUTS, ROWS, CLASSES = 4, 6, 3


def make(**settings):
    parts = Parts(
        observation_dim=INPUTS,
        action_dim=CLASSES,
        num_envs=ROWS,
        network=mlp.Config(hidden_sizes=[5]),
        optimizer=sgd.Config(learning_rate=0.1, momentum=0.9),
        answers="classes",
        total_steps=100_000,
    )
    return supervised.build(supervised.Config(batch_size=ROWS, **settings), parts)


def show(agent, split="train", right=0):
    """One step of the loop; in validations, so many answers are right."""
    inputs = np.random.default_rng(0).normal(size=(ROWS, INPUTS)).astype(np.float32)
    target = np.tile(np.array([[0.0, 1.0, np.nan]], dtype=np.float32), (ROWS, 1))
    target[-1] = np.nan  # only fills up
    scores = np.tile([1.0, 0.0, 9.0], (ROWS, 1))  # the class that does not exist does not count
    scores[:right, 1] = 2.0
    if split == "test":
        target[:] = np.nan
    no, nothing = np.zeros(ROWS, dtype=bool), np.zeros((ROWS, 0), dtype=np.float32)
    agent.observe(
        Transition(inputs, scores, no, inputs, no, no, nothing, nothing, no, target, split)
    )


def epoch(agent, right=0, announce=None):
    """Two training steps, a validation, an examination; returns step size and weights."""
    for step in range(2):
        show(agent)
        if announce is not None and not step:
            agent.on_task_change(announce)
        agent.update()
    rate = agent.updates["predictor"].optimizer.param_groups[0]["lr"]
    learnt = {k: v.clone() for k, v in agent.network.state_dict().items()}
    for split in ("validation", "validation", "test"):
        show(agent, split, right)
        assert not agent.update()
    return rate, learnt


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_the_step_size_falls_within_a_task_and_begins_anew_with_the_next():
    agent = make(step_size_epochs=[1, 3])
    rates = [epoch(agent)[0] for _ in range(4)]
    rates += [epoch(agent, announce=1)[0], epoch(agent)[0]]
    assert rates == pytest.approx([0.1, 0.02, 0.02, 0.004, 0.1, 0.02])


def test_a_task_ends_with_the_weights_of_its_best_validation():
    agent = make(keep_best=True)
    learnt = [epoch(agent, right)[1] for right in (1, 4, 2)]
    assert not equal(learnt[1], learnt[2])
    momentum = [
        state["momentum_buffer"].clone()
        for state in agent.updates["predictor"].optimizer.state.values()
    ]
    show(agent)
    agent.on_task_change(1)
    assert equal(agent.network.state_dict(), learnt[1])
    kept = [s["momentum_buffer"] for s in agent.updates["predictor"].optimizer.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(momentum, kept, strict=True))
    # A worse validation of the new task is the best one of that task.
    agent.update()
    second = epoch(agent, 0)[1]
    show(agent)
    agent.on_task_change(2)
    assert equal(agent.network.state_dict(), second)


def test_the_last_validation_of_a_task_counts_and_ties_go_to_the_first():
    agent = make(keep_best=True)
    learnt = [epoch(agent, right)[1] for right in (1, 3, 3)]
    show(agent)
    agent.on_task_change(1)
    assert equal(agent.network.state_dict(), learnt[1])
    agent = make(keep_best=True)
    learnt = [epoch(agent, right)[1] for right in (1, 3, 5)]
    show(agent)
    agent.on_task_change(1)
    assert equal(agent.network.state_dict(), learnt[2])


def test_a_saved_agent_goes_on_in_the_same_bits():
    settings = {"keep_best": True, "step_size_epochs": [1]}
    first, second = make(**settings), make(**settings)
    epoch(first, 3)
    show(first)
    first.update()
    show(first, "validation", 5)
    second.load_state_dict(first.state_dict())
    for agent in (first, second):
        show(agent, "validation", 5)
        show(agent, "test")
    a, b = (epoch(agent, 1) for agent in (first, second))
    assert a[0] == b[0] == pytest.approx(0.02)
    assert equal(a[1], b[1])
    for agent in (first, second):
        show(agent)
        agent.on_task_change(1)
    assert equal(first.network.state_dict(), second.network.state_dict())
    assert not equal(first.network.state_dict(), a[1])


def test_plain_agents_save_what_they_always_saved():
    assert "epochs" not in make().state_dict()
    assert "keep_best" not in str(compose_run(["experiment=bit_flipping_smoke"]).plain)


@pytest.mark.parametrize("epochs", [[2, 1], [0], [1, 1]])
def test_step_size_epochs_increase(epochs):
    with pytest.raises(ValueError, match="increasing epochs of at least 1"):
        supervised.Config(step_size_epochs=epochs)


SMOKE = ["experiment=class_increments_smoke", "progress=false"]


def test_best_weights_need_announced_tasks():
    config = compose_run([*SMOKE, "boundary=none"]).config
    envs, info = build_environment(config)
    envs.close()
    with pytest.raises(ConfigurationError, match=r"agent.keep_best.*set boundary=oracle"):
        build_agent(config, info)


@pytest.mark.parametrize("world", ["image_pairs_smoke", "permuted_digits", "bit_flipping_smoke"])
@pytest.mark.parametrize("word", ["agent.keep_best=true", "agent.step_size_epochs=[1,2]"])
def test_worlds_without_validation_refuse_what_reads_it(world, word):
    with pytest.raises(ConfigurationError, match=r"env.kind=\w+ has no validation split; leave it"):
        compose_run([f"experiment={world}", "boundary=oracle", word])


def test_a_run_of_three_increments(tmp_path):
    assert train.main([*SMOKE, f"run_dir={tmp_path / 'run'}"]) == 0
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    scores = [e for e in events if e["event"] == "examination"]
    assert [e["split"] for e in scores] == ["validation", "test"] * 9
    tests = [e for e in scores if e["split"] == "test"]
    best = [max(e["accuracy"] for e in tests if e["regime"] == task) for task in range(3)]
    assert all(found > 1.5 / (2 * k) for k, found in enumerate(best, start=1)), best
    assert [e["regime"] for e in events if e["event"] == "switch"] == [1, 2]
    groups = {e["group"] for e in events if e["event"] == "unit_reset"}
    assert {"blocks.0", "blocks.1", "pooled"} <= groups


def test_a_run_made_longer_equals_one_of_that_length(tmp_path):
    """It stops in the last examination of a task, with best weights that are yet to come back."""
    words = [*SMOKE, "env.num_epochs=2", "env.upscale=1", "network.channels=[4,4]"]
    words += ["method.continual_backprop.maturity_threshold=5"]
    words += [f"log.{name}_every_iterations=6" for name in ("log", "ranks", "all_ranks")]
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert train.main([*words, f"run_dir={once}", "total_steps=1242"]) == 0
    assert train.main([*words, f"run_dir={twice}", "total_steps=782"]) == 0
    assert train.main([*words, f"run_dir={twice}", "total_steps=1242", "accept_change=true"]) == 0
    rows = [(folder / "progress.csv").read_text() for folder in (once, twice)]
    assert rows[0] == rows[1]
    events = [(folder / "events.jsonl").read_text().splitlines() for folder in (once, twice)]
    assert [line for line in events[1] if "setting_changed" not in line] == events[0]
    assert any('"switch"' in line for line in events[0])
