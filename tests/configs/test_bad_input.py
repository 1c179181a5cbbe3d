"""Settings that nobody can run get one clear sentence, exit code 2, and leave nothing behind."""

import pytest

import train

TASKS = ["env=mt10", "agent=sac"]
DENDRITES = [*TASKS, "network=dendritic"]
SHARE = "give the share of winning units, in (0, 1]"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["env=mt1", "env.task=reach", "agent=sac"], "no Meta-World task 'reach'; did you mean"),
        ([*TASKS, "env.benchmark=mt-25"], "no benchmark 'mt-25' (did you mean 'mt25'?)"),
        (["env=mt11", "agent=sac"], "there is no env 'mt11' (did you mean"),
        (
            ["env=meta_world"],
            "envs/meta_world.py has no preset of its name; write configs/env/meta",
        ),
        (
            ["method=[injection]", "hydra.searchpath=[file:///x]"],
            "presets are those of configs/ only",
        ),
        ([*DENDRITES, "network.num_segments=0"], "network.num_segments is 0; give at least 1"),
        ([*DENDRITES, "network.active_fraction=0"], f"network.active_fraction is 0.0; {SHARE}"),
        ([*DENDRITES, "network.active_fraction=1.5"], f"network.active_fraction is 1.5; {SHARE}"),
        (
            [*TASKS, "network=k_winners", "network.active_fraction=-0.1"],
            f"network.active_fraction is -0.1; {SHARE}",
        ),
        (
            ["env=slippery_ant", "env.num_envs=2", "agent=sac", "network=dendritic"],
            "network.kind=dendritic acts on a context, but this environment announces none",
        ),
        (
            [*TASKS, "agent.replay_size=100", "agent.batch_size=320"],
            "agent.replay_size is 100; give at least agent.batch_size=320",
        ),
        (["env=slippery_ant", "agent.device=cuda"], "ppo trains on the CPU, so leave it out"),
        (
            ["env=bit_flipping", "agent=supervised", "log.trainability_steps=1000"],
            "needs a fixed set of samples, and env.kind=bit_flipping has none",
        ),
        (
            ["env=slippery_ant", "log.diagnostics=false", "log.extended=true"],
            "log.extended needs log.diagnostics=true",
        ),
        (
            ["arm=fresh_continual_backprop", "env.switch_interval=100000", "total_steps=1000000"],
            "could never fire on 'policy': the run plans 7,812 gradient steps",
        ),
        (["accept_change=true", "total_steps=40960"], "but there is none of these settings"),
    ],
)
def test_what_cannot_be_run_gets_one_sentence(words, message, tmp_path, capsys):
    arguments = [*words, f"runs_root={tmp_path}", "progress=false", "num_threads=1"]
    assert train.main(arguments) == train.EXIT_CONFIGURATION
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("configuration: ")
    assert message in line
    assert not list(tmp_path.iterdir())
