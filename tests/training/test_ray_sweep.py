"""Sweeps on Ray: nothing listens to the network, and a killed worker changes no result."""

import ipaddress
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

import train
from configs.ray_sweep import Cluster, _address, _new_token, descendants, listening_addresses
from configs.schema import ConfigurationError

REPOSITORY = Path(train.__file__).parent
WORDS = [
    *("-m", "experiment=compare_smoke", "arm=standard,l2", "seed=0", "total_steps=3072"),
    *("env.switch_interval=1024", "agent.num_epochs=1", "log.all_ranks_every_iterations=2"),
    *("log.checkpoint_minutes=0", "progress=false"),
]
FILES = ("progress.csv", "events.jsonl", "episodes.csv")
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="pip install -e '.[ray]'")


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_the_command_that_installs_it_is_named(capsys):
    assert train.main([*WORDS, "hydra/launcher=ray"]) == train.EXIT_CONFIGURATION
    assert "pip install -e '.[ray]'" in capsys.readouterr().err


def test_an_unknown_launcher_is_refused_with_a_suggestion(capsys):
    assert train.main([*WORDS, "hydra/launcher=rya"]) == train.EXIT_CONFIGURATION
    assert "no hydra/launcher 'rya' (did you mean 'ray'?)" in capsys.readouterr().err


def test_a_cluster_needs_a_private_token(tmp_path):
    with pytest.raises(ConfigurationError, match="needs the token"):
        Cluster(address="head:6379")
    with pytest.raises(ConfigurationError, match="num_workers is 0"):
        Cluster(num_workers=0)
    token = _new_token(tmp_path)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) == 64
    Cluster(address="head:6379", token_path=str(token))
    token.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        Cluster(address="head:6379", token_path=str(token))


@pytest.mark.parametrize("where", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_a_listening_socket_is_seen(where):
    family = socket.AF_INET6 if ":" in where else socket.AF_INET
    try:
        server = socket.socket(family)
        server.bind((where, 0))
    except OSError:
        pytest.skip("no such address here")
    with server:
        before = listening_addresses({os.getpid()})
        server.listen()
        after = listening_addresses({os.getpid()})
    assert ipaddress.ip_address(where) in after
    assert len(after) == len(before) + 1


def test_addresses_of_the_kernel_are_read_backwards():
    assert str(_address("0100007F")) == "127.0.0.1"
    assert str(_address("0000000000000000FFFF00000100007F")) == "127.0.0.1"
    assert not _address("0A00000A").is_loopback


def test_children_of_children_are_descendants():
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as child:
        wait_for(lambda: len(descendants(child.pid)) == 2, child)
        assert descendants(child.pid) < descendants(os.getpid())
        child.communicate(b"\n")


def wait_for(condition, process, seconds=400):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def busy_workers(process):
    return [pid for pid in descendants(process.pid) if command_line(pid).startswith(b"ray::_tr")]


def directories(folder):
    return sorted(folder.glob("runs/*/*/*/seed_*"))


def in_training(folder):
    """Whether some member has saved a checkpoint and is not done."""
    return any(
        not (d / "done.json").exists() and list((d / "checkpoints").glob("step-*"))
        for d in directories(folder)
        if (d / "checkpoints").is_dir()
    )


@needs_ray
@pytest.mark.slow
def test_a_killed_worker_changes_no_result(tmp_path, monkeypatch):
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    calm.mkdir()
    rough.mkdir()
    process = subprocess.Popen(
        [
            *(sys.executable, str(REPOSITORY / "train.py"), *WORDS),
            *("hydra/launcher=ray", "hydra.launcher.num_workers=2"),
        ],
        cwd=rough,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for(lambda: in_training(rough) and busy_workers(process), process)
        # While it works: Ray has sockets, all of them on loopback, and no dashboard.
        family = descendants(process.pid)
        addresses = listening_addresses(family)
        assert addresses
        assert all(address.is_loopback for address in addresses)
        # Ray keeps the process of that name, without its web server.
        dashboards = [
            line for line in map(command_line, family) if b"dashboard/dashboard.py" in line
        ]
        assert all(b"--disable-frontend" in line for line in dashboards)
        os.kill(busy_workers(process)[0], signal.SIGKILL)
        out, _ = process.communicate(timeout=400)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == train.EXIT_DONE, out
    assert "2 runs: 2 done, 0 failed, 0 neither" in out
    monkeypatch.chdir(calm)
    assert train.main([*WORDS, "hydra/launcher=basic"]) == train.EXIT_DONE
    assert len(directories(calm)) == 2
    restarts = 0
    for expected, found in zip(directories(calm), directories(rough), strict=True):
        assert found.relative_to(rough) == expected.relative_to(calm)
        for name in FILES:
            assert (found / name).read_bytes() == (expected / name).read_bytes(), name
        restarts += json.loads((found / "done.json").read_text())["restarts"]
    assert restarts >= 1
