"""The Python examples of the README run as they stand there, with fewer steps."""

import re
from pathlib import Path

import train
from analysis.checkpoint import CheckpointStore

README = Path(__file__).parents[1] / "README.md"
SHORTER = {
    "n_steps=256": "n_steps=16, batch_size=64",
    ".learn(50_000)": ".learn(256)",
    ".learn(20_000)": ".learn(256)",
    '"agent=sac"': '"agent=sac", "agent.replay_size=1000"',
}


def blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_the_world_without_our_agents():
    code = "".join(block for block in blocks() if "load_agent" not in block)
    for written, shorter in SHORTER.items():
        assert written in code
        code = code.replace(written, shorter)
    names: dict = {}
    exec(compile(code.replace("PPO(", "agent = PPO("), str(README), "exec"), names)
    assert names["env"].observation_space.shape == (27,)
    assert names["agent"].num_timesteps == 256
    assert names["model"].num_timesteps == 256


def test_features_of_a_trained_agent(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)
    words = ["experiment=slippery_ant_smoke", "total_steps=2048", "num_threads=1", "progress=false"]
    assert train.main([*words, "log.figures=false", f"run_dir={tmp_path / 'run'}"]) == 0
    (code,) = (block for block in blocks() if "load_agent" in block)
    written = "runs/default/slippery_ant/ppo-mlp-standard/seed_0"
    assert written in code
    capsys.readouterr()
    exec(compile(code.replace(written, str(tmp_path / "run")), str(README), "exec"), {})
    shown = capsys.readouterr().out
    assert "'layers.0': torch.Size([4, 32])" in shown, shown
