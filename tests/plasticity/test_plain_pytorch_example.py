"""The example of docs/plain_pytorch.md runs and does what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from agents.parts import METHODS
from networks.sequential import unit_groups_of
from networks.units import Recording
from plasticity.method import InputSource, Target

PAGE = Path(__file__).parents[2] / "docs" / "plain_pytorch.md"


EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def executed(*codes):
    names: dict = {}
    for code in codes:
        exec(compile(code, str(PAGE), "exec"), names)
    return names


def test_the_example_runs(capsys):
    names = executed(EXAMPLES[0])
    printed = capsys.readouterr().out
    renewed, network = names["renewed"], names["network"]
    assert printed.startswith(f"renewed {len(renewed)} units")
    # 64 units, rate 1e-3: 0.064 due per step from step 101, so the 16th step after is the first.
    assert renewed[0]["gradient_step"] == 116
    assert {event["group"] for event in renewed} == {"0", "2"}
    assert len(renewed) > 100
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    assert names["loss"].item() < 0.3  # it learned: the variance of the target is about 0.5
    assert torch.is_tensor(names["method"].state_dict()["groups"]["0"]["utility"])


def test_the_example_with_every_call_runs():
    assert len(EXAMPLES) == 2
    names = executed(*EXAMPLES)
    assert names["method"].active
    assert len(names["penalties"]) == 500
    assert names["penalties"][-1] > 0.0


LISTED = [
    (kind, settings)
    for row in re.findall(r"^\| (`\w+`.*)\|$", PAGE.read_text(), re.MULTILINE)
    for kinds, _, settings in [row.split(" | ")]
    for kind in re.findall(r"`(\w+)`", kinds)
]


@pytest.mark.parametrize(("kind", "settings"), LISTED, ids=[kind for kind, _ in LISTED])
def test_every_method_of_the_table_attaches(kind, settings):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    x = torch.randn(32, 8)

    def draw(count, generator):
        return x[torch.randint(len(x), (count,), generator=generator)], None

    inputs = InputSource(draw, 8) if "`inputs`" in settings else None
    stream = torch.Generator().manual_seed(1)
    target = Target("net", network, unit_groups_of(network), stream, inputs=inputs)
    chosen = {"networks": "all"} if 'networks="all"' in settings else {}
    module = METHODS.get(kind)
    if chosen:
        with pytest.raises(ValueError, match=r"the network 'net'.*networks='all'"):
            module.build(module.Config(), target)
    method, recording = module.build(module.Config(**chosen), target), Recording(target.unit_groups)
    assert method.active
    for step in range(4):
        with recording:
            loss = network(x).square().mean()
        penalty = method.penalty(loss.detach())
        optimizer.zero_grad()
        (loss if penalty is None else loss + penalty).backward()
        method.after_backward()
        optimizer.step()
        method.after_step(recording.activations, optimizer)
        if step == 1:
            method.on_task_change(1, optimizer)


def test_the_table_names_every_method_or_says_why_not():
    left_out = {"nap", "injection", "reset", "shrink_perturb"}
    assert {kind for kind, _ in LISTED} == set(METHODS.names()) - left_out
