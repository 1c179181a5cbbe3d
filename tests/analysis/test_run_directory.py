"""One directory per run: created safely, used by one process, continued with one configuration."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from analysis import run_directory
from analysis.config_diff import compare, describe
from analysis.run_directory import (
    ConfigurationChanged,
    RunDirectory,
    RunLocked,
    StorageError,
    atomic_write_text,
    validate_run_name,
)

CONFIG: dict[str, Any] = {
    "seed": 0,
    "total_steps": 1000,
    "agent": {"kind": "ppo", "learning_rate": 1e-05, "hidden": [256, 256]},
    "note": None,
    "num_threads": 1,
}
NAME = "compare/slippery_ant/ppo-mlp/seed_0"


def changed(**fields: Any) -> dict[str, Any]:
    return {**CONFIG, **fields}


def start(root: Path, config: dict[str, Any] | None = None, **options: Any) -> RunDirectory:
    return RunDirectory.open(root, NAME, CONFIG if config is None else config, **options)


class TestNames:
    @pytest.mark.parametrize("name", ["a", "seed_0", "ppo-mlp.v2", "9", "x" * 100])
    def test_valid(self, name: str) -> None:
        validate_run_name(name)

    @pytest.mark.parametrize(
        "name",
        [
            "",
            ".",
            "..",
            ".hidden",
            "-rf",
            "_x",
            "a b",
            "a/b",
            "a\n",
            "ä",
            "x" * 101,
            "a\0",
            "$(ls)",
        ],
    )
    def test_invalid(self, name: str) -> None:
        with pytest.raises(ValueError, match="not a name for a run directory"):
            validate_run_name(name)

    @pytest.mark.parametrize(
        "relative", ["../../x", "a/../b", "/etc/x", "", ".", "a/.ssh", "a" * 101, "a/b\n"]
    )
    def test_nothing_outside_the_root(self, tmp_path: Path, relative: str) -> None:
        root = tmp_path / "runs"
        with pytest.raises(ValueError, match="name"):
            RunDirectory.open(root, relative, CONFIG)
        assert list(tmp_path.rglob("*")) == []

    @pytest.mark.parametrize("depth", [1, 4])
    @pytest.mark.parametrize("fresh", [False, True])
    def test_no_symbolic_link_is_followed(self, tmp_path: Path, depth: int, fresh: bool) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        link = tmp_path.joinpath("runs", *NAME.split("/")[:depth])
        link.parent.mkdir(parents=True)
        link.symlink_to(outside)
        with pytest.raises(ValueError, match="symbolic links"):
            start(tmp_path / "runs", fresh=fresh)
        assert list(outside.iterdir()) == []
        assert link.is_symlink()

    def test_a_link_as_root_is_the_users_choice(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "runs").symlink_to(tmp_path / "real")
        with start(tmp_path / "runs") as run:
            assert run.path == tmp_path / "real" / NAME


class TestLifeOfARun:
    def test_new_directory(self, tmp_path: Path) -> None:
        with start(tmp_path / "runs") as run:
            assert (run.path, run.is_new, run.is_finished) == (
                tmp_path / "runs" / NAME,
                True,
                False,
            )
            assert (run.done, run.restarts, run.changes) == (None, 0, ())
            assert run.path.stat().st_mode & 0o777 == 0o700
            assert yaml.safe_load((run.path / "config.yaml").read_text()) == CONFIG

    def test_same_configuration_continues_and_counts(self, tmp_path: Path) -> None:
        start(tmp_path).close()
        turned = {key: CONFIG[key] for key in reversed(CONFIG)}
        for number in (1, 2):
            with start(tmp_path, turned) as run:
                assert (run.is_new, run.restarts) == (False, number)

    def test_finished_runs_say_so_and_stay_as_they_are(self, tmp_path: Path) -> None:
        with start(tmp_path) as run:
            run.finish("finished", {"final_return": 3.5})
        path = run.path
        before = {file.name: file.read_bytes() for file in path.iterdir()}
        with start(tmp_path) as run:
            assert run.is_finished
            assert run.done == {
                "restarts": 0,
                "status": "finished",
                "summary": {"final_return": 3.5},
            }
        assert {file.name: file.read_bytes() for file in path.iterdir()} == before

    def test_finish_takes_numpy_and_not_finite_numbers(self, tmp_path: Path) -> None:
        with start(tmp_path) as run:
            with pytest.raises(ValueError, match="status is 'ok'"):
                run.finish("ok", {})
            with pytest.raises(ValueError, match=r"summary\.x is a ndarray"):
                run.finish("failed", {"x": np.ones(2)})
            assert not run.is_finished
            run.finish("failed", {"steps": np.int64(3), "loss": np.float32("nan"), "at": [np.inf]})
            assert run.done is not None
            assert run.done["summary"] == {"steps": 3, "loss": None, "at": [None]}
            with pytest.raises(ValueError, match="ends once"):
                run.finish("finished", {})

    def test_fresh_renames_and_never_deletes(self, tmp_path: Path) -> None:
        for number in range(3):
            with start(tmp_path, changed(seed=number), fresh=True) as run:
                assert run.is_new
                (run.path / "progress.csv").write_text(str(number))
        parent = run.path.parent
        assert sorted(p.name for p in parent.iterdir()) == [
            "seed_0",
            "seed_0.old-1",
            "seed_0.old-2",
        ]
        for name, number in (("seed_0.old-1", 0), ("seed_0.old-2", 1), ("seed_0", 2)):
            assert (parent / name / "progress.csv").read_text() == str(number)

    def test_a_kill_before_config_yaml_leaves_a_new_run(self, tmp_path: Path) -> None:
        path = tmp_path / NAME
        path.mkdir(parents=True)
        (path / ".lock").write_text("")
        (path / "launch.log").write_text("started")
        with start(tmp_path) as run:
            assert run.is_new

    def test_a_run_whose_configuration_is_lost_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / NAME / "checkpoints").mkdir(parents=True)
        with pytest.raises(ValueError, match=r"checkpoints but no config\.yaml"):
            start(tmp_path)
        start(tmp_path, fresh=True).close()

    @pytest.mark.parametrize(
        "text",
        ["", "- 1", "a: [", "!!python/object/apply:os.system ['true']", "\0", "a" * 2_000_000],
    )
    def test_damaged_configuration_is_refused(self, tmp_path: Path, text: str) -> None:
        start(tmp_path).close()
        (tmp_path / NAME / "config.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"config\.yaml is damaged"):
            start(tmp_path)
        start(tmp_path, fresh=True).close()

    def test_only_plain_values_are_a_configuration(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no plain value"):
            start(tmp_path, changed(extra=object()))
        with pytest.raises(ValueError, match="more than"):
            start(tmp_path, changed(extra="x" * 2_000_000))
        assert list(tmp_path.iterdir()) == []


class TestChanges:
    def test_a_change_is_refused_with_a_readable_diff(self, tmp_path: Path) -> None:
        start(tmp_path).close()
        new = changed(agent={"kind": "ppo", "learning_rate": 0.1, "hidden": [64]}, more={"x": 1})
        del new["note"]
        with pytest.raises(ConfigurationChanged) as caught:
            start(tmp_path, new)
        assert str(caught.value).splitlines()[1:-1] == [
            "  agent.hidden: [256, 256] -> [64]",
            "  agent.learning_rate: 1.0e-05 -> 0.1",
            "  more.x: (absent) -> 1",
            "  note: null -> (absent)",
        ]
        assert "accept_change=true" in str(caught.value)
        with start(tmp_path) as run:
            assert run.restarts == 1

    def test_an_accepted_change_keeps_the_old_configuration(self, tmp_path: Path) -> None:
        with start(tmp_path) as run:
            first_hash = run.config_hash
        for number, steps in ((1, 2000), (2, 3000)):
            with start(tmp_path, changed(total_steps=steps), accept_change=True) as run:
                assert [str(change) for change in run.changes] == [
                    f"total_steps: {steps - 1000} -> {steps}"
                ]
                assert run.config_hash != first_hash
            old = yaml.safe_load((run.path / f"config-{number}.yaml").read_text())
            assert old == changed(total_steps=steps - 1000)
        with start(tmp_path, changed(total_steps=3000)) as run:
            assert run.changes == ()

    def test_a_finished_run_goes_on_under_an_accepted_change(self, tmp_path: Path) -> None:
        with start(tmp_path) as run:
            run.finish("finished", {})
        with pytest.raises(ConfigurationChanged):
            start(tmp_path, changed(total_steps=2000))
        with start(tmp_path, changed(total_steps=2000), accept_change=True) as run:
            assert not run.is_finished
            assert run.restarts == 1
            assert (run.path / "done-1.json").exists()

    def test_a_change_that_its_rehearsal_refuses_is_not_written(self, tmp_path: Path) -> None:
        with start(tmp_path) as run:
            run.finish("finished", {})
        before = {path.name: path.read_bytes() for path in run.path.iterdir()}

        def refuse() -> None:
            raise ValueError("cannot be built")

        with start(tmp_path, accept_change=True, rehearsal=refuse):
            pass  # nothing changes, so there is nothing to rehearse
        with pytest.raises(ValueError, match="cannot be built"):
            start(tmp_path, changed(total_steps=2000), accept_change=True, rehearsal=refuse)
        assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before

    def test_a_failed_run_stays_failed(self, tmp_path: Path) -> None:
        with start(tmp_path) as run:
            run.finish("failed", {"reason": "NaN"})
        with pytest.raises(ConfigurationChanged, match="failure is final"):
            start(tmp_path, changed(seed=1), accept_change=True)
        with start(tmp_path) as run:
            assert run.is_finished
            assert not (run.path / "config-1.yaml").exists()

    def test_only_released_keys_may_change(self, tmp_path: Path) -> None:
        start(tmp_path).close()
        released = ("total_steps", "agent.hidden")
        with pytest.raises(ConfigurationChanged, match=r"seed: 0 -> 1\nOnly agent.hidden, total"):
            start(
                tmp_path,
                changed(seed=1, total_steps=5),
                accept_change=True,
                released_keys=released,
            )
        new = changed(agent={**CONFIG["agent"], "hidden": [1]})
        # What would be refused is not recommended.
        for config, advice in (
            (new, "accept_change=true to go on"),
            (changed(total_steps=5, seed=1), "Use the old settings, or fresh=true to start anew."),
        ):
            with pytest.raises(ConfigurationChanged) as caught:
                start(tmp_path, config, released_keys=released)
            assert advice in str(caught.value)
            assert ("accept_change" in str(caught.value)) == (config is new)
        with start(tmp_path, new, accept_change=True, released_keys=released) as run:
            assert len(run.changes) == 1

    def test_ignored_keys_are_not_compared(self, tmp_path: Path) -> None:
        with start(tmp_path, ignored_keys={"num_threads"}) as run:
            reference = run.config_hash
        with start(tmp_path, changed(num_threads=8), ignored_keys={"num_threads"}) as run:
            assert run.config_hash == reference
        with pytest.raises(ConfigurationChanged, match="num_threads: 1 -> 8"):
            start(tmp_path, changed(num_threads=8))

    def test_kinds_of_numbers_differ_and_nan_does_not(self) -> None:
        assert len(compare({"a": 1}, {"a": 1.0})) == len(compare({"a": 1}, {"a": True})) == 1
        assert compare({"a": float("nan")}, {"a": float("nan")}) == ()
        assert len(compare({"a": {}}, {"a": {"b": 1}})) == 2
        assert compare({"a": {"b": 1}}, {"a": {"b": 2}}, ["a"]) == ()
        assert len(compare({"ab": 1}, {"ab": 2}, ["a"])) == 1

    def test_long_diffs_are_cut(self) -> None:
        text = describe(compare({}, {f"k{i:02d}": "x" * 500 for i in range(30)}))
        lines = text.splitlines()
        assert len(lines) == 21
        assert lines[-1] == "  and 10 more"
        assert max(map(len, lines)) < 110


HOLDER = """
import sys, time
from analysis.run_directory import RunDirectory
run = RunDirectory.open(sys.argv[1], sys.argv[2], {"seed": 0})
print("held", flush=True)
sys.stdin.read()
"""


class TestLock:
    def test_second_process_is_refused_and_a_killed_one_lets_go(self, tmp_path: Path) -> None:
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path), NAME],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            begin = time.perf_counter()
            for fresh in (False, True):
                with pytest.raises(RunLocked, match=r"seed_0 is used by another process"):
                    start(tmp_path, {"seed": 0}, fresh=fresh)
            assert time.perf_counter() - begin < 1
        finally:
            holder.kill()
            holder.communicate()
        with start(tmp_path, {"seed": 0}) as run:
            assert run.restarts == 1

    def test_children_do_not_hold_the_lock(self, tmp_path: Path) -> None:
        run = start(tmp_path)
        reader, writer = os.pipe()
        forked = os.fork()
        if forked == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        spawned = subprocess.Popen(["sleep", "30"], close_fds=False)
        try:
            with pytest.raises(RunLocked):
                start(tmp_path)
            run.close()
            start(tmp_path).close()
        finally:
            os.close(writer)
            os.close(reader)
            os.waitpid(forked, 0)
            spawned.kill()
            spawned.wait()

    def test_a_child_that_has_not_begun_yet_does_not_hold_it(self, tmp_path: Path) -> None:
        run = start(tmp_path)
        copy = os.dup(run._lock._descriptor)  # what such a child has until it closes it
        try:
            run.close()
            start(tmp_path).close()
        finally:
            os.close(copy)

    def test_a_forked_child_does_not_release_it_either(self, tmp_path: Path) -> None:
        run = start(tmp_path)
        child = os.fork()
        if child == 0:
            run.close()
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(RunLocked):
            start(tmp_path)
        run.close()

    def test_closed_after_a_refusal(self, tmp_path: Path) -> None:
        start(tmp_path).close()
        with pytest.raises(ConfigurationChanged):
            start(tmp_path, changed(seed=3))
        start(tmp_path).close()

    @pytest.mark.parametrize("replaced", [False, True])
    def test_a_directory_moved_while_locking_is_noticed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool
    ) -> None:
        start(tmp_path).close()
        real = fcntl.flock

        def flock(descriptor: int, operation: int) -> None:
            if operation & fcntl.LOCK_EX:
                (tmp_path / NAME).rename(tmp_path / "moved")
                if replaced:
                    (tmp_path / NAME).mkdir()
                    (tmp_path / NAME / ".lock").touch()
            real(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", flock)
        with pytest.raises(RunLocked):
            start(tmp_path)


class TestStorage:
    def test_unwritable_places_are_storage_errors(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        start(tmp_path).close()

        def read_only(*arguments: Any, **options: Any) -> int:
            raise OSError(30, "Read-only file system")

        with monkeypatch.context() as patch:
            patch.setattr(os, "mkdir", read_only)
            with pytest.raises(StorageError, match=r"cannot create .*Read-only"):
                RunDirectory.open(tmp_path, "other", CONFIG)
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", read_only)
            with pytest.raises(StorageError, match=r"seed_0/\.lock: Read-only"):
                start(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", read_only)
            with pytest.raises(StorageError, match="cannot rename"):
                start(tmp_path, fresh=True)
        with start(tmp_path) as run:
            assert run.restarts == 1

    @pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
    def test_atomic_write_leaves_the_old_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        target = tmp_path / "done.json"
        atomic_write_text(target, "old ü")
        assert target.read_text(encoding="utf-8") == "old ü"

        def fail(*arguments: Any, **options: Any) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(StorageError, match=r"cannot write .*done\.json: No space"):
                atomic_write_text(target, "new")
        assert target.read_text(encoding="utf-8") == "old ü"
        assert os.listdir(tmp_path) == ["done.json"]
        atomic_write_text(target, "new")
        assert target.read_text() == "new"

    def test_damaged_done_is_named(self, tmp_path: Path) -> None:
        with start(tmp_path) as run:
            (run.path / "done.json").write_text("{")
            with pytest.raises(ValueError, match=r"done\.json is not JSON"):
                _ = run.done


class TestEnvironment:
    def test_versions_processor_and_threads(self, tmp_path: Path) -> None:
        with start(tmp_path) as run:
            assert run.write_environment({"device": "cpu"}) == ()
            stored = json.loads((run.path / "environment.json").read_text())
        assert stored["packages"]["mujoco"] == version("mujoco")
        assert stored["packages"]["torch"] == version("torch")
        assert stored["python"] == platform.python_version()
        assert stored["cpu"]["cores"] == os.cpu_count()
        assert stored["device"] == "cpu"
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
        assert stored["commit"] == (commit.stdout.strip() if commit.returncode == 0 else None)

    def test_a_difference_is_recorded_beside_the_first(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with start(tmp_path) as run:
            run.write_environment()
            first = (run.path / "environment.json").read_bytes()
            assert run.write_environment() == ()
            monkeypatch.setattr("analysis.provenance._cpu_model", lambda: "Other CPU")
            (change,) = run.write_environment()
            assert (change.key, change.new) == ("cpu.model", "Other CPU")
            assert (run.path / "environment.json").read_bytes() == first
            assert (run.path / "environment-1.json").exists()


class TestFreshOnce:
    def test_a_token_is_heeded_once(self, tmp_path: Path) -> None:
        start(tmp_path).close()
        for token, folders in (("a", 2), ("a", 2), ("b", 3), (None, 4), ("b", 5)):
            start(tmp_path, fresh=True, fresh_token=token).close()
            assert len(list((tmp_path / NAME).parent.iterdir())) == folders, token

    def test_without_fresh_a_token_moves_nothing(self, tmp_path: Path) -> None:
        start(tmp_path).close()
        start(tmp_path, fresh_token="a").close()
        assert len(list((tmp_path / NAME).parent.iterdir())) == 1

    def test_a_death_before_the_configuration_is_written_moves_nothing_twice(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        start(tmp_path).close()
        write = run_directory.atomic_write_text

        def dying(path: Path, text: str) -> None:
            if path.name == "config.yaml":
                raise KeyboardInterrupt
            write(path, text)

        with monkeypatch.context() as patch:
            patch.setattr(run_directory, "atomic_write_text", dying)
            with pytest.raises(KeyboardInterrupt):
                start(tmp_path, fresh=True, fresh_token="a")
        start(tmp_path, fresh=True, fresh_token="a").close()
        assert len(list((tmp_path / NAME).parent.iterdir())) == 2
