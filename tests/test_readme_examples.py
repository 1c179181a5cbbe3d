"""The Python examples of the README run as they stand there, with fewer steps."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
SHORTER = {
    "n_steps=256": "n_steps=16, batch_size=64",
    ".learn(50_000)": ".learn(256)",
    ".learn(20_000)": ".learn(256)",
    '"agent=sac"': '"agent=sac", "agent.replay_size=1000"',
}


def test_the_world_without_our_agents():
    code = "".join(re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL))
    for written, shorter in SHORTER.items():
        assert written in code
        code = code.replace(written, shorter)
    names: dict = {}
    exec(compile(code.replace("PPO(", "agent = PPO("), str(README), "exec"), names)
    assert names["env"].observation_space.shape == (27,)
    assert names["agent"].num_timesteps == 256
    assert names["model"].num_timesteps == 256
