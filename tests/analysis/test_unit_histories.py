"""The log of every hidden unit: definitions by hand, a bounded file, and its figure."""

import numpy as np
import pytest
import torch

from agents import ppo
from agents.parts import Parts
from analysis import unit_histories
from analysis.run_files import NotARun
from analysis.unit_figures import unit_figure
from analysis.unit_histories import UnitHistories
from analysis.unit_log import FILE, read_unit_log
from networks import mlp
from plasticity.optimizers import adam


def make(activation="relu"):
    parts = Parts(
        observation_dim=3,
        action_dim=2,
        num_envs=2,
        network=mlp.Config(hidden_sizes=[4, 6], activation=activation),
        optimizer=adam.Config(),
    )
    return ppo.build(ppo.Config(rollout_length=8, minibatch_size=8), parts)


def reset(unit, step, group="layers.0"):
    return {
        "event": "unit_reset",
        "network": "policy",
        "group": group,
        "unit": unit,
        "gradient_step": step,
    }


def features(agent, x):
    hidden, values = x, {}
    for index, layer in enumerate(agent.policy.torso.layers):
        hidden = layer(hidden)
        values[f"layers.{index}"] = hidden.detach()
    return values


def test_utility_and_saturation_by_hand(tmp_path):
    agent = make()
    histories = UnitHistories(tmp_path, agent)
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    seen = features(agent, x)
    histories.see_window("policy", seen)
    histories.snapshot(100, {})
    log = read_unit_log(tmp_path)
    assert log.groups == ("policy/layers.0", "policy/layers.1", "value/layers.0", "value/layers.1")
    assert log.num_units == (4, 6, 4, 6)
    hidden = seen["layers.0"]
    outgoing = agent.policy.torso.layers[1].linear.weight.detach().abs().mean(0)
    expected = hidden.abs().mean(0) * outgoing
    assert np.allclose(log.of("utility", 0)[0], expected.numpy(), rtol=1e-5)
    silent = (hidden == 0).double().mean(0).numpy()
    assert np.allclose(log.of("saturation", 0)[0], silent, atol=1e-6)
    assert np.isnan(log.of("utility", 2)).all()  # nobody measured the value network
    assert np.isnan(log.of("gradient", 0)).all()
    assert log.env_steps.tolist() == [100]


@pytest.mark.parametrize(
    ("activation", "values", "expected"),
    [
        ("relu", [0.0, 0.0, 1.0, 2.0], 0.5),
        ("tanh", [0.95, -0.95, 0.5, 0.0], 0.5),
        ("sigmoid", [0.97, 0.01, 0.5, 0.9], 0.5),
        ("smooth_leaky", [0.0, 1.0, 2.0, 3.0], None),
    ],
)
def test_saturation_depends_on_the_activation(activation, values, expected):
    group = make(activation).policy.unit_groups()[0]
    found = unit_histories._saturation(group, torch.tensor(values)[:, None].expand(4, 4))
    if expected is None:
        assert found.isnan().all()
    else:
        assert found.tolist() == [expected] * 4


def test_a_fresh_unit_is_followed_until_it_is_read(tmp_path):
    agent = make()
    histories, update = UnitHistories(tmp_path, agent), agent.updates["policy"]
    reader = agent.policy.torso.layers[1].linear
    update.num_steps = 10
    with torch.no_grad():
        reader.weight.fill_(1.0)
        reader.weight[:, 2] = 0.0
    histories.see(reset(2, 10))
    histories.see({"event": "switch", "regime": 1})
    histories.after_iteration()
    histories.snapshot(1, {})
    update.num_steps = 30
    with torch.no_grad():
        reader.weight[:, 2] = 0.09  # less than a tenth of the others
    histories.after_iteration()
    histories.snapshot(2, {})
    update.num_steps = 42
    with torch.no_grad():
        reader.weight[:, 2] = 0.11
    histories.after_iteration()
    update.num_steps = 50
    histories.snapshot(3, {})
    log = read_unit_log(tmp_path)
    assert log.of("moved_after", 0)[:, 2].tolist() == [-1.0, -1.0, 32.0]
    assert np.isnan(log.of("moved_after", 0)[:, [0, 1, 3]]).all()
    assert log.of("age", 0)[:, 2].tolist() == [0.0, 20.0, 40.0]
    assert log.of("age", 0)[:, 0].tolist() == [10.0, 30.0, 50.0]
    assert log.moved_bins[0].tolist() == [0] * 5 + [1] + [0] * 18  # 32 = 2^5
    histories.see(reset(2, 50))
    histories.see(reset(2, 60))  # it had not moved
    histories.write()
    assert read_unit_log(tmp_path).ended_before.tolist() == [1, 0, 0, 0]


def test_the_file_is_bounded_and_keeps_the_whole_run(tmp_path, monkeypatch):
    monkeypatch.setattr(unit_histories, "MAX_SNAPSHOTS", 8)
    histories = UnitHistories(tmp_path, make())
    kept = []
    for step in range(1, 101):
        histories.snapshot(step, {})
        kept.append(len(histories._env_steps))
    assert max(kept) < 8
    steps = read_unit_log(tmp_path).env_steps.tolist()
    assert steps == list(range(1, 101, 16))


def test_thinning_does_not_depend_on_interruptions(tmp_path, monkeypatch):
    monkeypatch.setattr(unit_histories, "MAX_SNAPSHOTS", 8)
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = UnitHistories(tmp_path / "whole", make())
    cut = UnitHistories(tmp_path / "cut", make())
    for step in range(1, 61):
        whole.snapshot(step, {})
        cut.snapshot(step, {})
        if step in (9, 33):
            state = cut.state_dict()
            cut = UnitHistories(tmp_path / "cut", make())
            cut.load_state_dict(state)
    whole.write()
    cut.write()
    assert (tmp_path / "cut" / FILE).read_bytes() == (tmp_path / "whole" / FILE).read_bytes()


def test_an_oracle_begins_new_lives(tmp_path):
    agent = make()
    histories = UnitHistories(tmp_path, agent)
    agent.updates["policy"].num_steps = 5
    histories.see(reset(1, 5))
    histories.follow()
    assert histories._lives["policy/layers.0"].born.tolist() == [0] * 4


def test_the_figure_shows_every_group_and_says_what_is_missing(tmp_path):
    agent = make()
    histories = UnitHistories(tmp_path, agent)
    histories.write()
    assert unit_figure(read_unit_log(tmp_path)) is None  # no snapshot yet
    for update in agent.updates.values():
        update.num_steps = 7
    histories.see(reset(1, 5))
    histories.snapshot(10, {})
    histories.snapshot(20, {})
    figure = unit_figure(read_unit_log(tmp_path))
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts.count("not measured") == 3 * 4  # all but the ages
    assert texts.count("no unit was renewed") == 4
    labels = {axes.get_ylabel() for axes in figure.axes}
    assert {"policy/layers.0", "value/layers.1"} <= labels


def test_a_damaged_file_is_named(tmp_path):
    assert read_unit_log(tmp_path) is None
    (tmp_path / FILE).write_bytes(b"no archive")
    with pytest.raises(NotARun, match=FILE):
        read_unit_log(tmp_path)
