"""Supervised learning behind the agents' contract: losses, order, methods, whole runs."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from words import named_once

import train
from agents import supervised
from agents.base import Transition
from agents.parts import Parts
from configs.build import build_agent, build_environment
from configs.compose import compose_run
from configs.schema import ConfigurationError
from networks import linear, mlp
from networks.fused import FusedPerceptron
from plasticity.methods import c_chain, continual_backprop, ewc, injection, l2_init, si
from plasticity.optimizers import adam, sgd

INPUTS, ROWS = 6, 12


def make(outputs=1, answers="numbers", network=None, optimizer=None, methods=None, **settings):
    parts = Parts(
        observation_dim=INPUTS,
        action_dim=outputs,
        num_envs=ROWS,
        network=network or mlp.Config(hidden_sizes=[7], initializer="kaiming_uniform"),
        optimizer=optimizer or sgd.Config(learning_rate=0.02),
        methods=methods or {},
        answers=answers,
        total_steps=100_000,
    )
    return supervised.build(supervised.Config(**settings), parts)


def transition(inputs, target, split="train"):
    rows, nothing = len(inputs), np.zeros((len(inputs), 0), dtype=np.float32)
    no = np.zeros(rows, dtype=bool)
    return Transition(
        inputs, target, np.zeros(rows), inputs, no, no, nothing, nothing, no, target, split
    )


def learn(agent, inputs, target, split="train"):
    agent.observe(transition(inputs, target, split))
    return agent.update()


def data(outputs=1, seed=0, classes=False):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(ROWS, INPUTS)).astype(np.float32)
    if classes:
        return inputs, np.eye(outputs, dtype=np.float32)[rng.integers(0, outputs, ROWS)]
    return inputs, rng.normal(size=(ROWS, outputs)).astype(np.float32)


def twin_of(agent):
    """The same network in plain PyTorch."""
    hidden, head = agent.network.torso.layers[0].linear, agent.network.output
    twin = nn.Sequential(nn.Linear(INPUTS, 7), nn.ReLU(), nn.Linear(7, head.out_features))
    with torch.no_grad():
        for mine, theirs in ((twin[0], hidden), (twin[2], head)):
            mine.weight.copy_(theirs.weight)
            mine.bias.copy_(theirs.bias)
    return twin


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize(("answers", "outputs"), [("numbers", 1), ("numbers", 2), ("classes", 3)])
def test_learning_equals_a_plain_pytorch_loop(answers, outputs, size, fast):
    """One example after the other, each loss taken before the step that follows it."""
    agent = make(outputs, answers, batch_size=size, fast_path=fast)
    twin = twin_of(agent)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.02)
    for seed in range(3):
        inputs, target = data(outputs, seed, answers == "classes")
        losses, right = [], 0
        for start in range(0, ROWS, size):
            x, y = (torch.from_numpy(a[start : start + size]) for a in (inputs, target))
            output = twin(x)
            if answers == "classes":
                loss = nn.functional.cross_entropy(output, y.argmax(1))
                right += int((output.argmax(1) == y.argmax(1)).sum())
            else:
                loss = nn.functional.mse_loss(output, y)
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        row = learn(agent, inputs, target)
        assert float(row["loss"]) == pytest.approx(np.mean(losses), rel=1e-4)
        if answers == "classes":
            assert float(row["accuracy"]) == pytest.approx(right / ROWS)
    for mine, theirs in zip(agent.network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_the_fast_path_is_taken_where_it_may_be():
    assert type(make()._steps).__name__ == "FusedSteps"
    assert type(make(methods={"l2_init": l2_init.Config()})._steps).__name__ == "AutogradSteps"
    assert FusedPerceptron.supports(make(network=linear.Config()).network)


def test_a_linear_network_is_a_linear_map_and_has_no_units():
    agent = make(network=linear.Config())
    assert agent.network.unit_groups() == ()
    head = agent.network.output
    inputs, target = data()
    expected = inputs @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    nothing = np.zeros((ROWS, 0), dtype=np.float32)
    np.testing.assert_allclose(agent.act(inputs, nothing, explore=True), expected, rtol=1e-5)
    # Online least mean squares, by a slow loop.
    weight, bias = head.weight.detach().numpy()[0].astype(float), head.bias.item()
    for x, y in zip(inputs.astype(float), target[:, 0], strict=True):
        error = x @ weight + bias - y
        weight, bias = weight - 0.04 * error * x, bias - 0.04 * error
    learn(agent, inputs, target)
    np.testing.assert_allclose(head.weight.detach().numpy()[0], weight, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="no hidden units"):
        make(
            network=linear.Config(),
            methods={"cb": continual_backprop.Config(maturity_threshold=5)},
        )


def test_classes_that_do_not_exist_get_neither_probability_nor_gradient():
    agent = make(4, "classes", batch_size=ROWS)
    inputs, target = data(2, classes=True)
    target = np.concatenate((target, np.full((ROWS, 2), np.nan, dtype=np.float32)), axis=1)
    before = agent.network.output.weight.detach().clone()
    logits = agent.network(torch.from_numpy(inputs))[:, :2]
    expected = nn.functional.cross_entropy(logits, torch.from_numpy(target[:, :2]).argmax(1))
    assert float(learn(agent, inputs, target)["loss"]) == pytest.approx(expected.item(), rel=1e-5)
    after = agent.network.output.weight.detach()
    assert torch.equal(before[2:], after[2:])
    assert not torch.equal(before[:2], after[:2])


def test_examinations_and_padding_teach_nothing():
    agent = make()
    inputs, target = data()
    start = [p.detach().clone() for p in agent.network.parameters()]
    for split in ("test", "validation"):
        assert learn(agent, inputs, target, split) == {}
    assert all(map(torch.equal, start, agent.network.parameters()))
    whole, part = make(), make()
    target[5:] = np.nan
    learn(whole, inputs, target)
    learn(part, inputs[:5], target[:5])
    assert all(map(torch.equal, whole.network.parameters(), part.network.parameters()))
    with pytest.raises(ValueError, match="learns from right answers"):
        agent.observe(transition(inputs, None))


def test_zero_head_is_zero_at_the_start_and_after_every_announced_task():
    agent = make(2, "classes", zero_head=True, batch_size=4)
    head = agent.network.output
    assert not head.weight.any()
    learn(agent, *data(2, classes=True))
    assert head.weight.any()
    body = agent.network.torso.layers[0].linear.weight.detach().clone()
    agent.on_task_change(1)
    assert not head.weight.any()
    assert not head.bias.any()
    assert torch.equal(body, agent.network.torso.layers[0].linear.weight)
    assert agent.methods_that_need_boundaries() == ["agent.zero_head"]


def test_methods_hear_that_the_head_begins_anew():
    """No penalty pulls a head of zeros back to that of the task before."""
    guard = si.Config(strength=1.0)
    agent = make(2, "classes", zero_head=True, batch_size=4, methods={"si": guard})
    learn(agent, *data(2, classes=True))
    agent.on_task_change(1)
    assert agent.updates["predictor"].methods["si"].penalty(torch.zeros(())).item() == 0.0


def test_a_head_with_room_for_injection_cannot_begin_at_zero():
    planned = injection.Config(period=10, clock="gradient_step")
    with pytest.raises(ValueError, match=r"zero_head .* injection"):
        make(2, "classes", zero_head=True, batch_size=4, methods={"injection": planned})


def test_continual_backprop_renews_units_on_the_fast_path():
    config = continual_backprop.Config(
        replacement_rate=0.05, maturity_threshold=10, utility="adaptable_contribution"
    )
    agent = make(methods={"cb": config})
    for seed in range(10):
        learn(agent, *data(seed=seed))
    events = agent.pop_events()
    assert {event["group"] for event in events} == {"layers.0"}
    # 7 units, 0.05 each: one unit in about three steps once they are mature.
    assert 20 <= len(events) <= 60


def test_sgd_is_torchs_own():
    settings = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    mine, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(mine.state_dict())
    ours = sgd.build(sgd.Config(**settings), mine)
    reference = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        for net, optimizer in ((mine, ours), (theirs, reference)):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(mine.weight, theirs.weight, rtol=1e-6, atol=1e-7)
    for key in ("learning_rate", "momentum", "weight_decay"):
        with pytest.raises(ValueError, match=f"optimizer.{key} is -1"):
            sgd.Config(**{key: -1})


# Configuration and whole runs --------------------------------------------------------------

RUN = ["experiment=bit_flipping_smoke", "env.switch_interval=1000", "total_steps=4000"]


def build_run(words):
    config = compose_run(words).config
    envs, info = build_environment(config)
    envs.close()
    return build_agent(config, info)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["env=bit_flipping"], "choose agent=supervised instead of agent=ppo"),
        (["env=slippery_ant", "agent=supervised"], "such as env=bit_flipping"),
        ([*RUN, "agent.batch_size=7"], "must divide env.num_envs=100"),
        ([*RUN, "agent.zero_head=true"], "set boundary=oracle"),
    ],
)
def test_what_does_not_fit_is_refused(words, message):
    with pytest.raises(ConfigurationError, match=message):
        build_run(words)


@pytest.mark.parametrize("arm", ["backprop", "continual_backprop", "linear"])
def test_arms_of_the_bit_flipping_experiment(arm):
    config = compose_run(["experiment=bit_flipping", f"arm=regression_{arm}"]).config
    assert config.total_steps == 1_000_000
    assert isinstance(config.optimizer, sgd.Config)
    assert config.network.kind == ("linear" if arm == "linear" else "mlp")
    assert list(config.method) == (["continual_backprop"] if "continual" in arm else [])
    if config.method:
        method = config.method["continual_backprop"]
        assert (method.maturity_threshold, method.count_mode) == (10, "bernoulli")


def rows_of(folder):
    return (folder / "progress.csv").read_text(), (folder / "events.jsonl").read_text()


@pytest.mark.parametrize("method", [ewc.Config(networks="all"), c_chain.Config()])
def test_methods_that_look_at_stored_examples_are_refused(method):
    with pytest.raises(ValueError, match=r"agent=supervised drops .* method=\[si\]"):
        make(methods={method.kind: method})


def test_a_run_made_longer_equals_one_of_that_length(tmp_path):
    words = [*RUN, "method=continual_backprop_regression", "progress=false"]
    words += ["method.continual_backprop.replacement_rate=0.01"]
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert train.main([*words, f"run_dir={once}"]) == 0
    assert train.main(named_once([*words, f"run_dir={twice}", "total_steps=2000"])) == 0
    assert train.main([*words, f"run_dir={twice}", "accept_change=true"]) == 0
    progress, events = rows_of(once)
    longer_progress, longer_events = rows_of(twice)
    assert longer_progress == progress
    kept = [line for line in longer_events.splitlines() if "setting_changed" not in line]
    assert kept == events.splitlines()
    switches = [json.loads(line) for line in kept if '"switch"' in line]
    assert [event["env_steps"] for event in switches] == [1000, 2000, 3000]
    assert any('"unit_reset"' in line for line in kept)


def test_permuted_digits_are_learnt_and_examined(tmp_path):
    words = ["env=permuted_digits", "agent=supervised", "network=small", "progress=false"]
    words += ["env.num_tasks=2", "env.num_epochs=2", "agent.batch_size=32", "log.figures=false"]
    words += ["network.context_to_input=false", "optimizer.learning_rate=1e-3"]
    # Per task: two passes over 1,442 images in blocks of 32, and an examination of 355.
    length = 2 * (2 * 46 + 12) * 32
    config = compose_run([*words, f"total_steps={length}"]).config
    assert build_environment(config)[0].problem.num_rows == length
    assert train.main([*words, f"total_steps={length}", f"run_dir={tmp_path / 'run'}"]) == 0
    events = [json.loads(line) for line in rows_of(tmp_path / "run")[1].splitlines()]
    scores = [e["accuracy"] for e in events if e["event"] == "examination"]
    assert len(scores) == 2
    assert scores[1] > 0.5
    assert isinstance(config.optimizer, adam.Config)
