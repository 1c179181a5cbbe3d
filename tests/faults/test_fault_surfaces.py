"""Nobody gets in: command lines, configuration files, models, sockets, names and pickles."""

import os
import pickle
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from fault_tools import ANT, OFTEN, QUIET, composed, ending, kill_at, run, run_dir

import envs.robots
import evaluate
import train
from envs.robots import ROBOTS, load_model

WORDS = [*ANT, "method=[continual_backprop_smoke]", OFTEN]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    root = tmp_path_factory.mktemp("stopped")
    kill_at(root, WORDS, 600)
    return root


def copied(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "runs")
    return run_dir(tmp_path / "runs")


HOSTILE_YAML = {
    "object": "a: !!python/object/apply:os.system ['touch {mark}']\n",
    "new": "!!python/object/new:os.system ['touch {mark}']\n",
    "name": "a: !!python/name:os.system\n",
    "module": "a: !!python/module:os\n",
    "billion laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(
        f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "two megabytes": "a: '" + "x" * 2**21 + "'\n",
    "list": "- 1\n",
    "binary": "\x80\x05cos\nsystem\n",
    "deep": "a: " + "[" * 5_000,
}


@pytest.mark.parametrize("name", HOSTILE_YAML)
def test_f30_a_hostile_config_yaml_is_refused(name, stopped, tmp_path, capsys):
    directory, mark = copied(stopped, tmp_path), tmp_path / "mark"
    text = HOSTILE_YAML[name].replace("{mark}", str(mark))
    (directory / "config.yaml").write_bytes(text.encode("latin-1"))
    before = sorted(os.listdir(directory))
    assert run(tmp_path / "runs", WORDS) == train.EXIT_CONFIGURATION
    assert capsys.readouterr().err.startswith("configuration: ")
    assert evaluate.main(["run", str(directory)]) == 2
    assert not mark.exists()
    assert set(os.listdir(directory)) <= {*before, ".lock"}


@pytest.mark.parametrize(
    "word",
    [
        "group=../../x",
        "group=/tmp/x",
        "group=__import__('os')",
        "agent=../../../x",
        "env=__import__",
        "env.robot=../../x.xml",
        "env.robot=/etc/passwd",
        "network=os.system",
        "agent.kind=os",
        "+agent._target_=os.system",
        "agent.discount=${oc.env:HOME}",
        "seed=__import__('os').getpid()",
        "method=[../redo]",
        "network.hidden_sizes=[1e99]",
        "group=" + "x" * 2**20,
        "init_from=../../../../etc",
        "+x=!!python/object/apply:os.system",
    ],
)
def test_f30_f31_hostile_words_are_refused(word, tmp_path, capsys):
    before = set(os.listdir(Path.cwd()))
    code = train.main([*WORDS, *QUIET, f"runs_root={tmp_path}/runs", word])
    assert code == train.EXIT_CONFIGURATION
    error = capsys.readouterr().err
    assert error.startswith("configuration: ")
    assert "Traceback" not in error
    assert len(error) < 5_000
    assert not (tmp_path / "runs").exists()
    assert set(os.listdir(Path.cwd())) == before


def test_f30_a_run_directory_has_a_plain_name(tmp_path, capsys):
    words = [*WORDS, *QUIET, f"run_dir={tmp_path}/.hidden"]
    assert train.main(words) == train.EXIT_CONFIGURATION
    assert "is not a name for a run directory" in capsys.readouterr().err


def test_f31_a_model_file_that_changed_is_refused(tmp_path, monkeypatch):
    """Models come by name from Gymnasium, and only with the bytes that were tested."""
    robot = ROBOTS["ant", "published"]
    name, _ = robot.xml
    real = Path(envs.robots.__file__)
    assert real.exists()
    load_model(robot)
    read = Path.read_bytes

    def with_include(self):
        data = read(self)
        if self.name != Path(name).name:
            return data
        return data.replace(b"<worldbody>", b'<include file="/etc/passwd"/><worldbody>')

    monkeypatch.setattr(Path, "read_bytes", with_include)
    with pytest.raises(ValueError, match=r"ant|model"):
        load_model(robot)


# Sockets and foreign code ------------------------------------------------------------------------


def listening():
    """Inodes of every socket that listens, of any process, and what this process holds."""
    inodes = set()
    for name in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] in ("0A", "07"):  # LISTEN, and UDP, which always does
                inodes.add(fields[9])
    return inodes


def own_sockets():
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def test_f32_the_kernel_shows_a_listener_where_there_is_one():
    before = listening() & own_sockets()
    with socket.create_server(("127.0.0.1", 0)):
        assert len((listening() & own_sockets()) - before) == 1


@pytest.mark.parametrize("tensorboard", ["true", pytest.param("false", marks=pytest.mark.slow)])
def test_f32_a_run_opens_no_socket(tensorboard, tmp_path, monkeypatch):
    seen, before = [], own_sockets()
    step = train.Progress.step

    def looking(self, done):
        step(self, done)
        if done % 256 == 0:
            seen.append(own_sockets() - before)

    def never(*arguments, **options):
        raise AssertionError("a socket was made")

    monkeypatch.setattr(train.Progress, "step", looking)
    monkeypatch.setattr(socket.socket, "connect", never)
    monkeypatch.setattr(socket.socket, "bind", never)
    assert run(tmp_path, [*WORDS, f"log.tensorboard={tensorboard}"]) == train.EXIT_DONE
    assert len(seen) == 8
    assert not set().union(*seen)


def test_nothing_is_unpickled_in_a_whole_life(tmp_path, monkeypatch, capsys):
    """Train, save, resume, evaluate and inspect with every unpickler broken."""

    def never(*arguments, **options):
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(pickle, "load", never)
    monkeypatch.setattr(pickle, "loads", never)
    monkeypatch.setattr(pickle, "Unpickler", never)
    monkeypatch.setattr(torch, "load", never)
    monkeypatch.setattr(yaml, "load", lambda text, Loader: _only_safe(text, Loader))
    monkeypatch.setattr(np, "load", never)
    kill_at(tmp_path, WORDS, 600)
    assert run(tmp_path, WORDS) == train.EXIT_DONE
    newest = sorted((run_dir(tmp_path) / "checkpoints").glob("step-*"))[-1]
    assert evaluate.main(["inspect", str(newest)]) == 0
    assert "env_steps" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="unpickled"):
        pickle.loads(pickle.dumps(1))  # noqa: S301 (broken above)


def _only_safe(text, loader):
    assert issubclass(loader, yaml.SafeLoader | getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    one = loader(text)
    try:
        return one.get_single_data()
    finally:
        one.dispose()


# Seeds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", ["-1", "null", "1.5", "one", "true", ""])
def test_f33_a_seed_that_is_none_is_refused(seed, tmp_path, capsys):
    code = train.main([*WORDS, *QUIET, f"runs_root={tmp_path}/runs", f"seed={seed}"])
    assert code == train.EXIT_CONFIGURATION
    assert "seed" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_f33_a_seed_is_reused_only_by_another_method(stopped, tmp_path):
    """The same seed with the same settings is the same run, and continues it."""
    one, other = composed(*WORDS), composed(*ANT, "method=[redo]", OFTEN)
    assert one.config.seed == other.config.seed
    assert one.relative_directory != other.relative_directory
    shutil.copytree(stopped, tmp_path / "runs")
    assert run(tmp_path / "runs", WORDS) == train.EXIT_DONE
    assert run(tmp_path / "whole", WORDS) == train.EXIT_DONE
    assert ending(tmp_path / "runs") == ending(tmp_path / "whole")
