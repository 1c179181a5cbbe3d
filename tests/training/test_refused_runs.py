"""What a refusal leaves behind: every file as it was, and no new one."""

import pytest

import train
from analysis.checkpoint import CheckpointStore

TINY = [
    *("env=slippery_ant", "env.num_envs=2", "env.max_episode_steps=12", "num_threads=1"),
    *("agent.rollout_length=16", "agent.minibatch_size=16", "agent.num_epochs=1"),
    *("log.diagnostics=false", "log.figures=false", "progress=false"),
]
NARROW = ["network=mlp", "network.hidden_sizes=[8]"]
WIDE = ["network=mlp", "network.hidden_sizes=[12]"]


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)
    monkeypatch.setattr(train, "build_probe", lambda *_: None)


def files(folder):
    """Everything below a folder but its locks, by path."""
    found = [path for path in folder.rglob("*") if path.is_file() and "lock" not in path.name]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_a_refused_change_leaves_a_finished_run_finished(tmp_path, capsys):
    worlds = ["env.schedule=list", "env.friction_values=[1.0,0.5]", "env.switch_interval=64"]
    words = [*TINY, *NARROW, *worlds, f"run_dir={tmp_path / 'run'}"]
    assert train.main([*words, "total_steps=128"]) == train.EXIT_DONE
    before = files(tmp_path)
    assert "run/done.json" in before
    longer = [*words, "total_steps=256", "accept_change=true"]
    assert train.main(longer) == train.EXIT_CONFIGURATION
    assert "needs 4 worlds, but schedule=list has only 2" in capsys.readouterr().err
    assert files(tmp_path) == before
    assert train.main([*words, "total_steps=128"]) == train.EXIT_DONE
    other = ["total_steps=128", "log.all_ranks_every_iterations=50", "accept_change=true"]
    assert train.main([*words, *other]) == train.EXIT_DONE
    assert "run/done-1.json" in files(tmp_path)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_donor_that_does_not_fit_leaves_no_directory_and_moves_none(tmp_path, capsys, fresh):
    words = [*TINY, "total_steps=64", "env.schedule=fixed"]
    donor = tmp_path / "donor"
    assert train.main([*words, *NARROW, f"run_dir={donor}"]) == train.EXIT_DONE
    start = [*words, f"init_from={donor}/checkpoints/step-000000000064"]
    start += [f"run_dir={tmp_path / 'new'}", *(["fresh=true"] if fresh else [])]
    if fresh:
        assert train.main([*words, *NARROW, f"run_dir={tmp_path / 'new'}"]) == train.EXIT_DONE
    before = files(tmp_path)
    capsys.readouterr()
    assert train.main([*start, *WIDE]) == train.EXIT_CONFIGURATION
    error = capsys.readouterr().err
    assert "size mismatch for torso.layers.0.linear.weight" in error
    assert "give both runs the same networks and the same inputs" in error
    assert error.count("\n") == 1
    assert files(tmp_path) == before
    if not fresh:  # the corrected command, in the same place
        assert train.main([*start, *NARROW]) == train.EXIT_DONE


def test_a_run_that_is_moved_aside_is_no_donor(tmp_path, capsys):
    words = [*TINY, *NARROW, "total_steps=64", "env.schedule=fixed", f"run_dir={tmp_path / 'own'}"]
    assert train.main(words) == train.EXIT_DONE
    before = files(tmp_path)
    own = f"init_from={tmp_path}/own/checkpoints/step-000000000064"
    assert train.main([*words, "fresh=true", own]) == train.EXIT_CONFIGURATION
    assert "lies in the run that fresh=true moves aside" in capsys.readouterr().err
    assert files(tmp_path) == before


def test_a_budget_that_is_used_up_is_refused(tmp_path, capsys):
    words = [*TINY, *NARROW, "env.schedule=fixed", f"run_dir={tmp_path / 'run'}"]
    assert train.main([*words, "total_steps=128"]) == train.EXIT_DONE
    before = files(tmp_path)
    shorter = [*words, "total_steps=64", "accept_change=true"]
    assert train.main(shorter) == train.EXIT_CONFIGURATION
    assert "total_steps=64, but the run in" in capsys.readouterr().err
    assert files(tmp_path) == before


@pytest.mark.parametrize("named", ["run", "run/checkpoints"])
def test_a_run_in_place_of_its_checkpoint_is_refused_with_the_newest(tmp_path, capsys, named):
    newest = tmp_path / "run" / "checkpoints" / "step-000000000128"
    for place in (newest, newest.with_name("step-000000000064")):
        place.mkdir(parents=True)
    words = [*TINY, *NARROW, f"init_from={tmp_path / named}", f"run_dir={tmp_path / 'new'}"]
    assert train.main(words) == train.EXIT_CONFIGURATION
    error = capsys.readouterr().err
    assert f"{named} holds 2 checkpoint(s) and is none itself; name one of them" in error
    assert f"such as init_from={newest}\n" in error
    assert not (tmp_path / "new").exists()
