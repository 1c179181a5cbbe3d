"""Supervised problems: their laws, their examinations, exact continuation."""

import gzip
import hashlib
import io
import itertools
import tarfile

import numpy as np
import pytest

from envs import bit_flipping, datasets, online_permutations, permuted_tasks
from envs.curricula import Lessons
from envs.problems import ProblemEnv


def regression(**settings):
    return bit_flipping.BitFlipping(bit_flipping.Config(**settings))


def blocks(problem, count):
    return [problem.next_block() for _ in range(count)]


# Bit-flipping regression -------------------------------------------------------------------


def test_one_bit_inverts_exactly_one_slow_bit_per_task():
    """Acceptance 21, with the published 10,000 examples per task."""
    stream = regression(change="one_bit", num_envs=1_000)
    slow = [block.inputs[:, :15] for block in blocks(stream, 60)]
    assert all((rows == rows[0]).all() for rows in slow)
    changed = [int((a[0] != b[0]).sum()) for a, b in itertools.pairwise(slow)]
    assert changed == ([0] * 9 + [1]) * 5 + [0] * 9


def test_every_slow_bit_is_inverted_equally_often():
    """750 draws of 15 bits: 50 each, within five standard deviations of 6.8."""
    stream = regression(change="one_bit", num_envs=1, switch_interval=1)
    bits = np.array([block.inputs[0] for block in blocks(stream, 751)])
    inverted = bits[1:, :15] != bits[:-1, :15]
    assert (inverted.sum(1) == 1).all()
    assert np.abs(inverted.sum(0) - 50).max() < 34


def test_all_bits_draws_all_slow_bits_and_fast_bits_never_stop():
    stream = regression(num_envs=100, switch_interval=100)
    seen = blocks(stream, 300)
    slow = np.array([block.inputs[0, :15] for block in seen])
    assert abs((slow[1:] != slow[:-1]).mean() - 0.5) < 0.03
    fast = np.concatenate([block.inputs[:, 15:] for block in seen])
    assert abs(fast.mean() - 0.5) < 0.01
    assert set(np.unique(fast)) == {0.0, 1.0}
    assert [block.task for block in seen] == list(range(300))


@pytest.mark.parametrize("rule", bit_flipping.RULES)
def test_target_is_the_published_network_of_threshold_units(rule):
    """Acceptance 21: weights +-1, tau_i = 14.7 - S_i, whole numbers; by a slow loop."""
    stream = regression(threshold_rule=rule, seed=3)
    target = stream.target
    for array in (target.weights, target.biases, target.output_weights):
        assert set(np.unique(array)) <= {-1.0, 1.0}
    inputs = stream.next_block().inputs[:20].astype(int)
    for row, answer in zip(inputs, stream.target(inputs), strict=True):
        total = target.output_bias
        for unit in range(100):
            negative = sum(1 for weight in target.weights[unit] if weight < 0)
            shift = target.biases[unit] / 2 if rule == "code" else 0.0
            assert target.thresholds[unit] == pytest.approx(14.7 - (negative + shift))
            pre = sum(w * x for w, x in zip(target.weights[unit], row, strict=True))
            active = pre + target.biases[unit] > target.thresholds[unit]
            total += target.output_weights[unit] if active else 0.0
        assert answer == total
        assert answer == int(answer)


def test_streams_depend_on_the_seed_only():
    first, second, other = (regression(seed=seed) for seed in (1, 1, 2))
    a, b, c = (blocks(stream, 3)[-1] for stream in (first, second, other))
    assert np.array_equal(a.inputs, b.inputs)
    assert np.array_equal(a.answers, b.answers)
    assert not np.array_equal(a.inputs, c.inputs)


def test_tasks_must_be_whole_blocks():
    with pytest.raises(ValueError, match="must be a multiple of"):
        bit_flipping.Config(num_envs=64)


# The environment ---------------------------------------------------------------------------


def digits_env(total_steps=10, **settings):
    config = permuted_tasks.Config(**{"num_tasks": 2, "num_epochs": 1, **settings})
    return permuted_tasks.make(config, total_steps)[0]


def answer(envs, right=True):
    """Predictions of somebody who knows."""
    known = np.nan_to_num(envs.block.answers)
    return known if right else -known


def test_rewards_answers_and_events():
    envs, info = bit_flipping.make(bit_flipping.Config(num_envs=50, switch_interval=100), 1000)
    assert info.answers == "numbers"
    observation, _ = envs.reset()
    events = []
    for step in range(6):
        expected = envs.block
        assert np.array_equal(observation, expected.inputs)
        guess = np.full((50, 1), 2.0)
        observation, reward, terminated, truncated, facts = envs.step(guess)
        assert np.array_equal(facts["target"], expected.answers)
        assert np.allclose(reward, -((2.0 - expected.answers[:, 0]) ** 2))
        assert not (terminated | truncated).any()
        assert (facts["regime"] == step // 2).all()
        events += facts["events"]
    assert [(e["event"], e["env_steps"], e["regime"]) for e in events] == [
        ("switch", 100, 1),
        ("switch", 200, 2),
    ]
    with pytest.raises(ValueError, match="expected"):
        envs.step(np.zeros((50, 2)))


def test_examinations_tell_no_answers_and_count_what_was_right():
    envs = digits_env(num_envs=100)
    images = datasets.digits()
    total = envs.problem.num_rows
    envs.reset()
    results, told = [], {"train": 0, "test": 0}
    while envs.env_steps < total:
        block = envs.block
        on_second = block.split == "test" and block.on_task == 1
        _, _, _, _, info = envs.step(answer(envs, right=not on_second))
        told[info["split"]] += int((~np.isnan(info["target"])).any(1).sum())
        results += [e for e in info["events"] if e["event"] == "examination"]
    assert told == {"train": 2 * len(images.train), "test": 0}
    assert [(e["on_task"], e["regime"], e["num_examples"]) for e in results] == [
        (0, 1, len(images.test)),
        (1, 1, len(images.test)),
    ]
    assert results[0]["accuracy"] == 1.0
    assert results[1]["accuracy"] == 0.0


def test_a_run_may_not_be_longer_than_its_stream():
    length = digits_env().problem.num_rows
    with pytest.raises(ValueError, match=f"set total_steps={length}"):
        digits_env(total_steps=length + 1)


@pytest.mark.parametrize("at", [1, 16, 37])
@pytest.mark.parametrize("kind", ["regression", "online", "tasks"])
def test_restored_streams_go_on_in_the_same_bits(kind, at):
    def make(seed):
        if kind == "regression":
            config = bit_flipping.Config(num_envs=10, switch_interval=50, seed=seed)
            return bit_flipping.make(config, 100_000)[0]
        if kind == "online":
            config = online_permutations.Config(num_envs=100, num_tasks=9, seed=seed)
            return online_permutations.make(config, 1000)[0]
        return digits_env(num_envs=100, num_tasks=3, seed=seed)

    def go(envs, count):
        rows = []
        for index in range(count):
            guess = np.full(envs.action_space.shape, index, dtype=np.float32)
            guess[:, 0] += 1.0
            observation, reward, _, _, info = envs.step(guess)
            rows.append((observation, reward, info["target"], info["context"], info["events"]))
        return rows

    envs = make(5)
    envs.reset()
    go(envs, at)
    saved = envs.snapshot()
    expected = go(envs, 30)
    other = make(5)
    other.restore(saved)
    assert other.env_steps == at * other.num_envs
    for mine, theirs in zip(go(other, 30), expected, strict=True):
        for a, b in zip(mine[:-1], theirs[:-1], strict=True):
            assert np.array_equal(a, b, equal_nan=True)
        assert mine[-1] == theirs[-1]
    damaged = {key: value for key, value in saved.items() if key != "env_steps"}
    with pytest.raises(ValueError, match="env_steps"):
        make(5).restore(damaged)


# Permutations ------------------------------------------------------------------------------


def test_online_permutations_are_composed_and_every_image_comes_once_per_task(monkeypatch):
    """Acceptance 22: task k shows the images through k + 1 draws, one after the other."""
    draws, original = [], online_permutations.stream

    class Watched:
        """Notes what is drawn."""

        def __init__(self, generator):
            self._generator = generator

        def permutation(self, count):
            draws.append(self._generator.permutation(count))
            return draws[-1]

    def watched(seed, name, index):
        generator = original(seed, name, index)
        return Watched(generator) if name == "permutation" else generator

    monkeypatch.setattr(online_permutations, "stream", watched)
    config = online_permutations.Config(num_envs=103, num_tasks=4, seed=2)
    curriculum = online_permutations.OnlinePermutations(config, datasets.digits())
    images = curriculum.images
    shown = np.arange(64)  # every pixel told apart, followed through the draws one by one
    for task in range(4):
        found = curriculum.permutation(task)
        assert len(draws) == task + 1
        shown = shown[draws[task]]
        assert np.array_equal(shown, found)
    assert all(sorted(draw) == list(range(64)) for draw in draws)
    assert len({tuple(draw) for draw in draws}) == 4
    stream = Lessons(curriculum, 103)
    for task in range(4):
        seen = blocks(stream, 14)
        assert {block.task for block in seen} == {task}
        pixels = np.concatenate([block.inputs for block in seen]) * images.largest
        back = np.empty_like(pixels)
        back[:, curriculum.permutation(task)] = pixels
        order = np.lexsort(back.T)
        expected = images.train.astype(np.float32)
        assert np.array_equal(back[order], expected[np.lexsort(expected.T)])
    orders = {tuple(curriculum.order(task).tolist()) for task in range(4)}
    assert len(orders) == 4  # a new random order every time
    assert all(sorted(order) == list(range(len(images.train))) for order in orders)


def test_prototypes_are_means_and_the_nearest_is_inferred():
    config = permuted_tasks.Config(num_tasks=4)
    tasks = permuted_tasks.PermutedTasks(config, datasets.digits())
    assert np.array_equal(tasks.permutations[0], np.arange(64))
    phase = config.num_epochs  # the first of task 1
    inputs, _, context = tasks.examples(phase, tasks.order(phase), 0)
    assert tasks.phase(phase).task == 1
    assert np.allclose(context, inputs.mean(0), atol=1e-4)
    assert abs(inputs.mean()) < 1e-4
    assert inputs.std() == pytest.approx(1.0, abs=1e-3)
    brute = ((inputs[:, None] - tasks.prototypes[None]) ** 2).sum(-1).argmin(1)
    assert np.array_equal(tasks.nearest(inputs, 4), brute)
    assert (brute == 1).mean() > 0.9
    assert (tasks.nearest(inputs, 1) == 0).all()


def test_contexts_of_examinations_are_inferred_unless_given():
    images = datasets.digits()
    for context, width in (("prototype", 64), ("task", 3), ("none", 0)):
        tasks = permuted_tasks.PermutedTasks(
            permuted_tasks.Config(num_tasks=3, context=context), images
        )
        last = len(tasks.lengths) - 1
        assert tasks.phase(last).on_task == 2
        shown = tasks.examples(last, np.arange(50), 0)[2]
        assert shown.shape == (50, width)
        if context == "task":
            assert (shown.argmax(1) == 2).all()
        if context == "prototype":
            assert {tuple(row) for row in shown} <= {tuple(row) for row in tasks.prototypes}


def test_examinations_after_every_task_visit_all_tasks_so_far():
    tasks = permuted_tasks.PermutedTasks(
        permuted_tasks.Config(num_tasks=3, num_epochs=1, examinations="every_task"),
        datasets.digits(),
    )
    plan = [(p.task, p.split, p.on_task) for p in map(tasks.phase, range(len(tasks.lengths)))]
    assert [entry[2] for entry in plan if entry[1] == "test"] == [0, 0, 1, 0, 1, 2]


def test_padding_is_no_example():
    envs = digits_env(num_envs=100)
    envs.reset()
    for _ in range(14):
        envs.step(answer(envs))
    block = envs.block  # 1,442 images: 42 rows and 58 that only fill up
    assert block.ends_phase
    told = ~np.isnan(block.answers).all(1)
    assert told.tolist() == [True] * 42 + [False] * 58
    _, reward, _, _, _ = envs.step(answer(envs))
    assert reward.tolist() == [1.0] * 42 + [0.0] * 58


def test_problem_env_needs_a_reset_and_refuses_options():
    envs = digits_env()
    with pytest.raises(Exception, match="reset"):
        envs.step(np.zeros((32, 10)))
    with pytest.raises(ValueError, match="options"):
        envs.reset(options={"goal": 1})
    assert isinstance(envs, ProblemEnv)


# Data --------------------------------------------------------------------------------------


def test_embedded_digits_are_the_published_ones():
    images = datasets.digits()
    labels = np.concatenate((images.train_labels, images.test_labels))
    counts = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # published class counts
    assert np.bincount(labels).tolist() == counts
    assert len(images.train) + len(images.test) == 1797
    assert images.train.max() == images.largest == 16
    assert images.train.shape[1] == 64
    sklearn = pytest.importorskip("sklearn.datasets")
    theirs = sklearn.load_digits()
    ours = np.concatenate((images.train, images.test))
    assert np.array_equal(ours[np.lexsort(ours.T)], theirs.data[np.lexsort(theirs.data.T)])


@pytest.mark.parametrize("name", ["mnist", "cifar100", "folder"])
def test_missing_files_are_asked_for_and_never_downloaded(name, tmp_path):
    with pytest.raises(datasets.DataMissing, match="nothing is downloaded") as refusal:
        datasets.load_images(name, str(tmp_path))
    assert str(tmp_path) in str(refusal.value)
    assert "env.dataset=digits" in str(refusal.value)


def test_unknown_data_sets_are_refused():
    with pytest.raises(ValueError, match="choose one of digits, mnist"):
        datasets.load_images("mnits", "data")


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def test_idx_files_are_decoded_and_checked():
    array = np.arange(24).reshape(2, 3, 4)
    assert np.array_equal(datasets.read_idx(idx(array), "here"), array)
    for damaged in (idx(array)[:-1], idx(array) + b"0", b"", b"PK\x03\x04abc"):
        with pytest.raises(datasets.DataMissing, match="published file again"):
            datasets.read_idx(damaged, "here")


def test_mnist_with_another_checksum_is_refused(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    sizes = {"images": (6, 28, 28), "labels": (6,)}
    sums = {}
    for name in datasets.MNIST_SHA256:
        shape = sizes["images" if "images" in name else "labels"]
        data = gzip.compress(idx(rng.integers(0, 10, size=shape)))
        (tmp_path / name).write_bytes(data)
        sums[name] = hashlib.sha256(data).hexdigest()
    with pytest.raises(datasets.DataMissing, match="has the sha256"):
        datasets.load_images("mnist", str(tmp_path))
    monkeypatch.setattr(datasets, "MNIST_SHA256", sums)
    images = datasets.load_images("mnist", str(tmp_path))
    assert images.train.shape == (6, 784)
    assert images.shape == (1, 28, 28)


def test_cifar_records_are_decoded():
    rng = np.random.default_rng(0)
    pixels = {"train.bin": rng.integers(0, 256, (5, 3072)), "test.bin": np.zeros((2, 3072))}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, rows in pixels.items():
            fine = np.arange(len(rows))
            coarse = np.full(len(rows), 19)
            data = np.column_stack((coarse, fine, rows)).astype(np.uint8).tobytes()
            entry = tarfile.TarInfo(f"cifar-100-binary/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    images = datasets.read_cifar100(stream.getvalue(), "here")
    assert np.array_equal(images.train, pixels["train.bin"])
    assert images.train_labels.tolist() == [0, 1, 2, 3, 4]
    assert images.test_labels.tolist() == [0, 1]


def test_folders_of_arrays_and_of_pictures(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    arrays, pictures = tmp_path / "arrays", tmp_path / "pictures"
    arrays.mkdir()
    for label in ("ant", "bee"):
        images = rng.integers(0, 256, (7, 4, 5, 3)).astype(np.uint8)
        np.save(arrays / f"{label}.npy", images)
        (pictures / label).mkdir(parents=True)
        for index, image in enumerate(images):
            Image.fromarray(image).save(pictures / label / f"{index}.png")
    first, second = (datasets.load_images("folder", str(p)) for p in (arrays, pictures))
    assert first.shape == (3, 4, 5)
    assert np.bincount(first.train_labels).tolist() == [6, 6]
    assert np.bincount(first.test_labels).tolist() == [1, 1]
    assert np.array_equal(first.train, second.train)
    assert np.array_equal(first.test, second.test)
    original = np.load(arrays / "ant.npy")
    assert np.array_equal(first.train[0].reshape(3, 4, 5), original[0].transpose(2, 0, 1))
    digest = hashlib.sha256((arrays / "ant.npy").read_bytes()).hexdigest()
    (arrays / "SHA256SUMS").write_text(f"{digest}  ant.npy\n{'0' * 64}  bee.npy\n")
    with pytest.raises(datasets.DataMissing, match=r"bee\.npy has the sha256"):
        datasets.load_images("folder", str(arrays))
