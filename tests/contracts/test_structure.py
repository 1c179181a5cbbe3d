"""The shape of the code: imports point one way, nothing unsafe is called, files stay small."""

import ast
from pathlib import Path

import pytest

import train

ROOT = Path(train.__file__).parent
ROOMS = ("agents", "analysis", "configs", "envs", "networks", "plasticity")
FILES = [p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))]
FILES += [ROOT / "train.py", ROOT / "evaluate.py"]

# What a room may import of the others.
ALLOWED = {
    "networks": set(),
    "plasticity": {"networks"},
    "envs": set(),
    "agents": {"networks", "plasticity", "envs", "analysis", "configs"},
    "configs": {"networks", "plasticity", "envs", "agents"},
    "analysis": {"networks", "plasticity", "envs", "agents", "configs"},
}
# Agents themselves stay independent of files and configuration; only the adapter to
# stable-baselines3's conventions saves and loads.
ADAPTERS = {"agents/sb3.py"}
# Start whole runs: the members of a sweep, a run that goes on, and the benchmark.
STARTS_RUNS = {
    "analysis/resuming.py",
    "configs/sweep.py",
    "analysis/throughput/agents_at_work.py",
    "analysis/throughput/rehearsal.py",
}
BANNED_CALLS = {
    "pickle.load",
    "pickle.loads",
    "pickle.dump",
    "torch.load",
    "torch.save",
    "torch.jit.load",
    "yaml.load",
    "yaml.unsafe_load",
    "os.system",
    "eval",
    "exec",
    "joblib.load",
    "joblib.dump",
}
BANNED_IMPORTS = {"pickle", "cloudpickle", "dill", "shelve", "marshal"}
PICKLE_ALLOWED = {"envs/meta_world_tasks.py", "envs/meta_world.py"}  # set_task unpickles its Task


def relative(path):
    return path.relative_to(ROOT).as_posix()


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def dotted(node):
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_point_one_way(path):
    room = relative(path).split("/")[0]
    used = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))}
    if room not in ROOMS:
        return
    allowed = ALLOWED[room]
    if room == "agents" and relative(path) not in ADAPTERS:
        allowed = allowed - {"analysis", "configs", "envs"}
    assert used & set(ROOMS) - {room} <= allowed, relative(path)
    assert not used & {"train", "evaluate"} or relative(path) in STARTS_RUNS
    if room in ("agents", "envs", "networks", "plasticity"):
        assert not used & {"matplotlib", "hydra", "omegaconf"}, relative(path)
    if room == "envs" and path.name != "sb3.py":
        assert not used & {"torch", "stable_baselines3"}, relative(path)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_nothing_unsafe_is_called(path):
    tree = ast.parse(path.read_text())
    calls = {dotted(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not calls & BANNED_CALLS, relative(path)
    if relative(path) not in PICKLE_ALLOWED:
        assert not set(imports(tree)) & BANNED_IMPORTS, relative(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            keywords = {k.arg: k.value for k in node.keywords}
            for name in ("shell", "allow_pickle"):
                value = keywords.get(name)
                assert not (isinstance(value, ast.Constant) and value.value is True)
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{relative(path)}:{node.lineno} catches everything"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 400, f"{relative(path)}: one idea per file"
