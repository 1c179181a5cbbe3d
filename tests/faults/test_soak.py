"""The soak in small: kills, stops of the program itself, comparison, and the slope of memory."""

import csv
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from fault_tools import REPOSITORY

from analysis.soak import __main__ as command
from analysis.soak.equality import MISSING, Comparison
from analysis.soak.lives import LIFE_COLUMNS, Chain, SoakFailed, Task, last_logged_step, newest_step
from analysis.soak.memory import slope, usage
from analysis.soak.report import SAMPLE_COLUMNS, Findings, checks

SLEEPER = (sys.executable, "-c", "import time; time.sleep(60)")


def rows(path):
    return list(csv.DictReader(path.open()))


def task(tmp_path, words, kill_seconds=None, name="killed"):
    return Task(name, tuple(words), tmp_path / "runs" / name, kill_seconds, 0, 0.05)


def test_slope_of_a_leak_is_found_and_of_noise_is_not():
    rng = np.random.default_rng(0)
    hours = np.tile(np.arange(0, 1, 1 / 240), 2)
    lives = np.repeat([1, 2], 240)
    level = np.where(lives == 1, 300.0, 450.0)  # every process has a level of its own
    warming = np.where(hours < 0.05, -200.0, 0.0)
    noise = rng.normal(0, 3, 480)
    flat = slope(lives.tolist(), hours.tolist(), (level + warming + noise).tolist(), 0.05)
    assert flat.shows_none
    assert flat.low < 0 < flat.high < 3
    leak = slope(lives.tolist(), hours.tolist(), (level + 8 * hours + noise).tolist(), 0.05)
    assert not leak.shows_none
    assert leak.low < 8 < leak.high
    assert not slope(
        lives.tolist(), hours.tolist(), (level + warming + noise).tolist(), 0.0
    ).shows_none
    constant = slope([1] * 200, hours[:200].tolist(), [7.0] * 200, 0.05)
    assert (constant.per_hour, constant.low, constant.high) == (0.0, 0.0, 0.0)
    alone = slope([1] * 5, [0.1, 0.11, 0.12, 0.13, 0.14], [1.0, 2, 3, 4, 5], 0.05)
    assert np.isnan(alone.low)
    assert not alone.shows_none  # no interval, no claim


def test_dependent_samples_widen_the_interval():
    """Ten-minute waves look like a trend to ordinary least squares."""
    rng, inside, naive = np.random.default_rng(1), 0, 0
    hours = np.arange(0, 2, 1 / 240)
    for _ in range(200):
        wave = np.repeat(rng.normal(0, 3, 12), 40)
        found = slope([1] * 480, hours.tolist(), wave.tolist(), 0.0)
        inside += found.low <= 0 <= found.high
        each = slope([1] * 480, hours.tolist(), wave.tolist(), 0.0, block_hours=1 / 240)
        naive += each.low <= 0 <= each.high
    assert inside >= 170
    assert naive < 130


def test_this_process_is_seen():
    seen = usage(os.getpid())
    assert seen is not None
    assert seen.resident_mib > seen.anonymous_mib > 10
    with open(os.devnull):
        more = usage(os.getpid())
    assert more is not None
    assert more.descriptors == seen.descriptors + 1
    assert usage(2**22 + 1) is None


def test_processes_are_killed_and_started_again(tmp_path):
    chain = Chain(task(tmp_path, SLEEPER, kill_seconds=0.2), tmp_path)
    deadline = time.monotonic() + 30
    while len(rows(chain.lives_path)) < 3:
        assert time.monotonic() < deadline
        chain.tend()
        time.sleep(0.01)
    chain.stop()
    chain.close()
    lives = rows(chain.lives_path)
    assert [int(life["life"]) for life in lives][:3] == [1, 2, 3]
    assert {life["ended"] for life in lives} == {"killed"}
    assert rows(chain.samples_path)
    assert not chain.is_done


@pytest.mark.parametrize(("kill_seconds", "how"), [(None, "stopped"), (1e6, "killed")])
def test_a_killed_program_ends_what_it_left_behind(tmp_path, kill_seconds, how):
    first = Chain(task(tmp_path, SLEEPER, kill_seconds), tmp_path)
    first.tend()
    process = first._process
    assert process is not None
    first.close()  # without stop: as if the program had been killed
    threaded = subprocess.Popen(SLEEPER)  # somebody else's
    second = Chain(task(tmp_path, SLEEPER, kill_seconds), tmp_path)
    assert process.wait(timeout=5) < 0
    assert threaded.poll() is None
    threaded.kill()
    threaded.wait()
    assert [life["ended"] for life in rows(second.lives_path)] == [how]
    second.tend()
    assert second._life == 2
    second.stop()
    second.close()


def test_a_process_that_fails_by_itself_is_an_error(tmp_path):
    words = (sys.executable, "-c", "raise SystemExit('bad luck')")
    chain = Chain(task(tmp_path, words), tmp_path)
    chain.tend()
    assert chain._process is not None
    chain._process.wait()
    with pytest.raises(SoakFailed, match="bad luck"):
        chain.tend()
    chain.close()


def test_steps_are_read_from_checkpoints_and_logs(tmp_path):
    assert (newest_step(tmp_path), last_logged_step(tmp_path)) == (0, 0)
    (tmp_path / "checkpoints" / "step-000000004096").mkdir(parents=True)
    (tmp_path / "timing.csv").write_text("env_steps,x\n512,1.0\n1024,2.0\n15")
    assert (newest_step(tmp_path), last_logged_step(tmp_path)) == (4096, 1024)


def test_what_differs_or_is_missing_fails_its_check():
    life = dict(zip(LIFE_COLUMNS, ("killed", "1", "0", "60", "killed"), strict=True))
    other = dict(zip(LIFE_COLUMNS, ("undisturbed", "1", "0", "60", "stopped"), strict=True))
    cells = ("undisturbed", "1", "9", "9", "5", "300", "250", "9", "2")
    sample = dict(zip(SAMPLE_COLUMNS, cells, strict=True))
    pairs = [
        Comparison("state at step 1", "a", "a"),
        Comparison("state at step 2", "a", "b"),
        Comparison("progress.csv", MISSING, MISSING),
    ]
    verdict = checks(Findings([life, other], [sample], pairs, 2.0, 0.0, 9, 1.0, ""))
    assert not any(check.holds for check in verdict)
    assert verdict[0].found == "1.0 minutes, 1 SIGKILL"
    assert verdict[2].found == "1 of 2 equal"


def test_a_wide_interval_is_not_called_zero():
    """Memory that jumps about says little; the page must say how little."""
    rng, lines = np.random.default_rng(0), []
    for run in ("killed", "undisturbed"):
        for second in range(0, 3_600, 15):
            resident = 300.0 + rng.normal(0, 40.0)
            cells = (run, 1, second, second, 5, resident, resident, 9, 2)
            lines.append(dict(zip(SAMPLE_COLUMNS, map(str, cells), strict=True)))
    findings = Findings([], lines, [], 2.0, 0.0, 9, 1.0, "")
    found = findings.growth("killed", "resident_mib")
    assert found.low < 0 < 5 < found.high
    memory = [check for check in checks(findings) if "memory" in check.what]
    assert len(memory) == 4
    for check in memory:
        assert check.holds
        assert check.what.startswith("no growth of")
        assert check.what.endswith("is seen")
    assert memory[0].found.endswith(f"MiB per hour, up to {found.high:.3f} not excluded")
    (descriptors,) = [check for check in checks(findings) if "descriptors" in check.what]
    assert descriptors.found == "0.000 [0.000, 0.000] per hour; 9 to 9"


def test_bad_options_are_refused(capsys):
    for words in (["--total-steps", "0"], ["--twin", "alone", "--undisturbed", "x"]):
        with pytest.raises(SystemExit) as stop:
            command.main(words)
        assert stop.value.code == 2
    assert "give more than 0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_tiny_soak_finds_equal_bits(tmp_path):
    """Stopped once itself, then continued by the same command to the end."""
    words = [sys.executable, "-m", "analysis.soak", "--out", f"{tmp_path}/out"]
    words += ["--runs", f"{tmp_path}/runs", "--total-steps", "65536", "--switch-interval", "16384"]
    words += ["--kill-minutes", "0.2", "--checkpoint-minutes", "0", "--sample-seconds", "0.5"]
    words += ["--warm-up-seconds", "1", "--minutes", "0", "experiment=slippery_ant_smoke"]
    limited = [*words[:3], "--limit-minutes", "0.2", *words[3:]]
    first = subprocess.run(limited, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert first.returncode in (0, 1, command.EXIT_SIGNAL), first.stderr
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert done.returncode in (0, 1), done.stderr  # seconds say nothing about memory
    compared = rows(tmp_path / "out" / "comparison.csv")
    assert len(compared) == 4 + 3  # three switches and the end; three files
    assert {row["equal"] for row in compared} == {"True"}
    lives = rows(tmp_path / "out" / "lives.csv")
    assert sum(life["ended"] == "killed" for life in lives) >= 1
    assert [life["ended"] for life in lives if life["run"] == "undisturbed"][-1] == "finished"
    page = (tmp_path / "out" / "README.md").read_text()
    assert "| state at the end and at every switch | 4 of 4 equal | yes |" in page
    assert (tmp_path / "out" / "soak.png").stat().st_size > 10_000
