"""The example of docs/plain_pytorch.md runs and does what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import torch

PAGE = Path(__file__).parents[2] / "docs" / "plain_pytorch.md"


def test_the_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    names: dict = {}
    exec(compile(code, str(PAGE), "exec"), names)
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
