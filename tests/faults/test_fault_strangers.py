"""A stranger's checkpoint, its digests all right: only what fits is taken, and only numbers."""

import contextlib
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from fault_tools import ANT, OFTEN, composed, kill_at, newest, run, run_dir

import evaluate
import train
from analysis.adoption import NoFit, adopt
from analysis.checkpoint import CheckpointStore
from analysis.state_files import state_hash
from configs.build import build_agent, build_environment

METHOD = "method=[continual_backprop_smoke]"
SAC = (
    *(word for word in ANT if not word.startswith("agent")),
    "agent=sac",
    "agent.batch_size=32",
    "agent.replay_size=700",
    "agent.warmup_steps=128",
    "agent.steps_per_iteration=256",
)
AGENTS = {
    "ppo": (*ANT, "agent.normalize_observation=true", METHOD, OFTEN),
    "ppo_redo": (*ANT, "network=layer_norm", "method=[redo]", "method.redo.period=10", OFTEN),
    "sac": (*SAC, METHOD, OFTEN),
    "sac_snr": (
        *SAC,
        "optimizer=adamw",
        "method=[snr]",
        "method.snr.min_silence=5",
        "method.snr.min_records=2",
        "method.snr.refresh_period=20",
        OFTEN,
    ),
}
SLOW = ("ppo_redo", "sac", "sac_snr")
WEIGHT = ("updates", "policy", "network", "torso.layers.0.linear.weight")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Run directories by agent, killed in the middle."""
    found = {}

    def get(agent):
        if agent not in found:
            found[agent] = tmp_path_factory.mktemp(agent)
            kill_at(found[agent], AGENTS[agent], 700)
        return found[agent]

    return get


def places(state, *path):
    """Paths of all arrays of a nested state."""
    for key, value in state.items() if isinstance(state, dict) else enumerate(state):
        if isinstance(value, dict | list):
            yield from places(value, *path, key)
        elif isinstance(value, torch.Tensor | np.ndarray):
            yield (*path, key)


def found_at(state, path) -> Any:
    for key in path:
        state = state[key]
    return state


def changed(state, path, change) -> Any:
    """The same state with another array at a path; what does not lead there is not copied."""
    if not path:
        array = change(torch.as_tensor(state))
        return array.numpy() if isinstance(state, np.ndarray) else array
    copy = dict(state) if isinstance(state, dict) else list(state)
    copy[path[0]] = changed(state[path[0]], path[1:], change)
    return copy


FORMS = {
    # What repeats itself when it is copied into a larger array.
    "one entry": lambda array: array.flatten()[:1].reshape((1,) * array.ndim),
    "one row more": lambda array: torch.cat([array, array[:1]]) if array.ndim else array.repeat(2),
}


@pytest.mark.parametrize(
    "agent", [pytest.param(a, marks=[pytest.mark.slow] if a in SLOW else []) for a in AGENTS]
)
def test_f29_arrays_of_another_form_are_refused(agent, stopped):
    """Every array of the agent, one after another, in two wrong forms."""
    saved = newest(stopped(agent)).state["agent"]
    config = composed(*AGENTS[agent]).config
    envs, info = build_environment(config, 1)
    envs.close()
    whole = build_agent(config, info)
    adopt(whole, saved)
    assert state_hash(whole.state_dict()) == state_hash(saved)
    taken, tried = [], 0
    for path in places(saved):
        if path[0] == "generators":
            continue  # a stream saved on another kind of device begins anew
        for name, form in FORMS.items():
            state = changed(saved, path, form)
            if found_at(state, path).shape == found_at(saved, path).shape:
                continue  # it has one entry already
            tried += 1
            with contextlib.suppress(NoFit):
                adopt(build_agent(config, info), state)
                taken.append((path, name))
    assert taken == []
    assert tried > 80


NETWORKS = {"ppo": ("policy", "value"), "sac": ("actor", "critic_1", "critic_2")}


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("agent", ["ppo", pytest.param("sac", marks=pytest.mark.slow)])
def test_f29_a_weight_that_is_no_number_is_refused(agent, value, stopped):
    saved = newest(stopped(agent)).state["agent"]
    config = composed(*AGENTS[agent]).config
    envs, info = build_environment(config, 1)
    envs.close()

    def poison(array):
        spoilt = array.clone()
        spoilt.view(-1)[-1] = value
        return spoilt

    for network in NETWORKS[agent]:
        for key in saved["updates"][network]["network"]:
            state = changed(saved, ("updates", network, "network", key), poison)
            with pytest.raises(NoFit, match=f"{key} of the {network} network is not finite"):
                adopt(build_agent(config, info), state)


HARMS = {
    "NaN": (("agent", *WEIGHT), lambda array: torch.full_like(array, float("nan")), "not finite"),
    "shape": (("agent", *WEIGHT), lambda array: array[:, :5], "shape"),
    "world": (("env", "friction"), lambda array: array[:1], "friction"),
}


def picture(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}


@pytest.mark.parametrize("harm", HARMS)
def test_f29_a_foreign_checkpoint_is_refused_at_every_door(harm, stopped, tmp_path, capsys):
    """Continuing, evaluating and starting from it end with exit 2 and one sentence."""
    shutil.copytree(stopped("ppo"), tmp_path / "runs")
    directory = run_dir(tmp_path / "runs")
    shutil.rmtree(directory / "checkpoints")
    (directory / "checkpoints").mkdir()
    loaded = newest(stopped("ppo"))
    path, change, word = HARMS[harm]
    store = CheckpointStore(directory / "checkpoints", config_hash=loaded.manifest["config_hash"])
    metadata = loaded.manifest["metadata"]
    hostile = store.save(loaded.env_steps, changed(loaded.state, path, change), metadata=metadata)
    words = [word for word in AGENTS["ppo"] if word != OFTEN]

    def refused():
        error = capsys.readouterr().err
        assert word in error
        assert "Traceback" not in error
        assert len(error) < 2_000

    before = picture(directory / "checkpoints")
    assert run(tmp_path / "runs", AGENTS["ppo"]) == train.EXIT_CONFIGURATION
    refused()
    if harm != "world":  # of which they take nothing
        assert evaluate.main(["run", str(directory), "--episodes", "1"]) == 2
        refused()
        composed_from = [*words, f"init_from={hostile}", "seed=7"]
        assert run(tmp_path / "other", composed_from) == train.EXIT_CONFIGURATION
        refused()
    assert picture(directory / "checkpoints") == before
