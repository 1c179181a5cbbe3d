"""The 50 goals: drawn as Meta-World draws them, stored exactly, refused when they cannot work."""

import inspect
import json
import pickle
import re
import warnings
import zlib

import metaworld
import numpy as np
import pytest
from meta_world_tools import global_generators_untouched
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from envs import meta_world_goals
from envs.meta_world_goals import (
    MIN_DISTANCES,
    NUM_GOALS,
    Goals,
    check_goals,
    draw_goals,
    goal_hash,
    load_goals,
    parse_goals,
    task_seed,
)
from envs.meta_world_tasks import CW10, MT10

pytestmark = pytest.mark.metaworld

MT10_HASHES = {
    0: "c1603b2c045ae375c876be92b0935d7587e33805a919a01b5fb721627c850c57",
    1: "8a16987db17d391c680c391ce18875f9a12b36d2772fc875b936bef0fd4f2d2c",
    42: "131e28f2a2eb97d34a8d04e3f0a7e85bde1b120ac3b36988ea30f1939f5564fc",
}
CW10_HASHES = {
    0: "5e55a1855a262eb49893ff89332416d20084bd8ad465e607f43b04ee35833f66",
    1: "74907bd650de31d283a4545893e42d13ccf4e3384be6d854c522568e2c6dec6d",
}


def fake_goals(task="door-open-v3", seed=0):
    """Goals that look right, without the second that drawing takes."""
    vectors = (np.random.default_rng(seed).uniform(0, 1, (NUM_GOALS, 3)),)
    return Goals((task,), "MT1", seed, vectors, goal_hash(vectors))


def test_mt10_goals_are_the_published_ones_and_leave_global_generators_alone():
    with global_generators_untouched():
        goals = draw_goals(MT10, 0)
    assert (goals.generator, goals.sha256) == ("MT10", MT10_HASHES[0])
    first = [-0.012483, 0.689177, 0.02, -0.023312, 0.879173, 0.182224]
    np.testing.assert_allclose(goals.vectors[0][0], first, atol=1e-6)
    assert [len(np.unique(vectors, axis=0)) for vectors in goals.vectors] == [NUM_GOALS] * 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 42])
def test_mt10_goals_of_other_seeds(seed):
    assert draw_goals(MT10, seed).sha256 == MT10_HASHES[seed]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_cw10_goals(seed):
    assert load_goals(CW10, seed).sha256 == CW10_HASHES[seed]


def test_a_single_task_has_the_goals_of_metaworlds_own_mt1():
    assert zlib.crc32(b"hammer-v3") == 624712809
    assert task_seed("hammer-v3", 3) == 624712812
    upstream = metaworld.MT1("hammer-v3", seed=624712812).train_tasks
    expected = [pickle.loads(task.data)["rand_vec"] for task in upstream]  # noqa: S301
    assert np.array_equal(draw_goals(["hammer-v3"], 3).vectors[0], expected)


@pytest.mark.slow
def test_the_ten_tasks_have_the_goals_of_metaworlds_own_mt10():
    upstream = metaworld.MT10(seed=7).train_tasks
    expected = [pickle.loads(task.data)["rand_vec"] for task in upstream]  # noqa: S301
    drawn = [goal for vectors in draw_goals(MT10, 7).vectors for goal in vectors]
    assert all(np.array_equal(a, b) for a, b in zip(drawn, expected, strict=True))


def test_a_stored_manifest_is_read_back_exactly():
    goals = fake_goals()
    again = parse_goals(goals.to_json(), "text")
    assert again.tasks == goals.tasks
    assert again.sha256 == goals.sha256
    assert np.array_equal(again.vectors[0], goals.vectors[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plain: plain["goals"][0][3].__setitem__(0, 0.5), "damaged"),
        (lambda plain: plain.update(metaworld="3.0.0"), "metaworld 3.0.0"),
        (lambda plain: plain["goals"][0].pop(), "shape"),
        (lambda plain: plain.pop("sha256"), "no goal manifest"),
        (lambda plain: plain.update(tasks=["door-opne-v3"]), "did you mean 'door-open-v3'"),
        (lambda plain: plain["goals"][0].__setitem__(1, plain["goals"][0][0]), "different"),
    ],
)
def test_a_changed_manifest_is_refused(change, message):
    plain = json.loads(fake_goals().to_json())
    change(plain)
    with pytest.raises(ValueError, match=message):
        parse_goals(json.dumps(plain), "text")


def test_a_manifest_may_hold_more_tasks_than_needed_but_not_fewer(tmp_path):
    first, second = fake_goals("door-open-v3", 1), fake_goals("window-open-v3", 2)
    both = Goals(
        first.tasks + second.tasks,
        "MT1",
        0,
        first.vectors + second.vectors,
        goal_hash(first.vectors + second.vectors),
    )
    path = tmp_path / "goals.json"
    path.write_text(both.to_json())
    chosen = load_goals(["window-open-v3"], 9, path)
    assert np.array_equal(chosen.vectors[0], second.vectors[0])
    with pytest.raises(ValueError, match="no goals for reach-v3"):
        load_goals(["reach-v3"], 9, path)
    with pytest.raises(ValueError, match="cannot be read"):
        load_goals(["reach-v3"], 9, tmp_path / "nothing.json")


@pytest.mark.parametrize(("task", "distance"), [("push-v3", 0.149), ("peg-insert-side-v3", 0.099)])
def test_a_goal_on_which_a_reset_would_never_end_is_refused(task, distance):
    goals = np.random.default_rng(0).uniform(0, 0.01, (NUM_GOALS, 6))
    goals[:, 3:5] = goals[:, :2] + [0.2, 0.0]
    check_goals([task], [goals])
    goals[7, 3:5] = goals[7, :2] + [distance, 0.0]
    with pytest.raises(ValueError, match=f"goal 7 of {task} is {distance}"):
        check_goals([task], [goals])


def test_every_rejection_loop_of_metaworld_is_known():
    """A loop that this table lacks would hang on a bad goal instead of refusing it."""
    found = {}
    for name, task_class in ALL_V3_ENVIRONMENTS.items():
        source = inspect.getsource(task_class.reset_model)
        loops = re.findall(r"while np\.linalg\.norm\(.*\) < ([0-9.]+)", source)
        assert source.count("while ") == len(loops) <= 1
        if loops:
            found[name] = float(loops[0])
    assert found == MIN_DISTANCES


def test_drawn_goals_are_cached_and_a_damaged_cache_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    drawn = fake_goals().vectors[0]
    calls = []
    monkeypatch.setattr(
        meta_world_goals, "_draw_task", lambda name: calls.append(name) or drawn.copy()
    )
    first = load_goals(["door-open-v3"], 4)
    assert load_goals(["door-open-v3"], 4).sha256 == first.sha256
    assert calls == ["door-open-v3"]
    (path,) = (tmp_path / "neoteny" / "goals").iterdir()
    path.write_text(path.read_text().replace("0.", "0.1", 1))
    with pytest.warns(RuntimeWarning, match="drawn again"):
        assert load_goals(["door-open-v3"], 4).sha256 == first.sha256
    assert calls == ["door-open-v3"] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_goals(["door-open-v3"], 4)


def test_goals_of_a_task_do_not_depend_on_its_list(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def draw(name):
        return np.random.uniform(0, 1, (NUM_GOALS, 3))  # noqa: NPY002 (as upstream draws)

    monkeypatch.setattr(meta_world_goals, "_draw_task", draw)
    one = load_goals(["door-open-v3", "window-open-v3"], 4)
    other = load_goals(["window-open-v3", "drawer-open-v3", "window-open-v3"], 4)
    assert np.array_equal(one.vectors[1], other.vectors[0])
    assert np.array_equal(other.vectors[2], other.vectors[0])
    assert not np.array_equal(one.vectors[0], one.vectors[1])


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_cannot_take_is_refused(seed):
    with pytest.raises(ValueError, match="goal_seed"):
        draw_goals(["door-open-v3"], seed)
