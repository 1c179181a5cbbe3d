"""What a run leaves whose loss is no number: enough to compute that loss again."""

import json

import numpy as np
import pytest

import agents.ppo
import train
from agents.minibatches import Minibatch
from agents.update import NumericalFailure
from analysis.checkpoint import CheckpointStore
from configs.build import build_agent, build_environment
from configs.compose import compose_run

WORDS = [
    *("experiment=slippery_ant_smoke", "total_steps=2048", "env.switch_interval=1024"),
    *("log.diagnostics=false", "log.figures=false", "log.tensorboard=false", "progress=false"),
]


# By hand and by autograd; statistics of such numbers warn.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("method", ["method=[]", "method=[l2_init]"])
def test_the_dump_reproduces_a_loss_that_is_no_number(method, tmp_path, monkeypatch):
    compute, calls = agents.ppo.generalized_advantages, []

    def poison(*arguments):
        advantages = compute(*arguments)
        calls.append(len(calls))
        if len(calls) == 2:
            advantages[5, 1] = np.inf
        return advantages

    words = [*WORDS, method, f"runs_root={tmp_path}"]
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "reserved_bytes", 0)
        patch.setattr(agents.ppo, "generalized_advantages", poison)
        assert train.main(words) == train.EXIT_NUMERICAL
    (done,) = tmp_path.glob("*/*/*/seed_*/done.json")
    reason = json.loads(done.read_text())["summary"]["reason"]
    loaded = CheckpointStore(done.parent / "crash").load_latest()
    assert loaded is not None
    dump = loaded.state["dump"]

    config = compose_run(words).config
    envs, info = build_environment(config)
    agent = build_agent(config, info)
    agent.load_state_dict(loaded.state["agent"])
    batch = Minibatch(**dump["batch"])
    assert len(batch.advantage) == config.agent.minibatch_size
    with pytest.raises(NumericalFailure, match="the loss of the") as again:
        getattr(agent._steps, dump["network"])(batch)
    assert str(again.value) == reason
    agent.close()
    envs.close()
