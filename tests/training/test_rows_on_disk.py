"""What is on the disk when a run says that it has ended."""

import os

import pytest
import torch

import train
from analysis.checkpoint import CheckpointStore

FILES = ("progress.csv", "events.jsonl", "episodes.csv")
WORDS = [
    *("experiment=slippery_ant_smoke", "method=[]", "total_steps=1100", "env.switch_interval=550"),
    *("agent.num_epochs=1", "log.diagnostics=false", "log.figures=false", "log.tensorboard=false"),
    *("log.log_every_iterations=1", "progress=false"),
]


def run_dir(root):
    (found,) = [path.parent for path in root.glob("*/*/*/seed_*/config.yaml")]
    return found


@pytest.mark.parametrize("fails", [False, True])
def test_done_is_written_after_all_rows_are_on_the_disk(fails, tmp_path, monkeypatch):
    """The machine may lose power right after: the run would count, without its last rows."""
    synchronised, sizes, fsync, update = {}, {}, os.fsync, train.Training._update

    def recording(descriptor):
        name = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
        synchronised[name] = os.fstat(descriptor).st_size
        if name.startswith(".tmp-done.json"):
            sizes.update({n: (run_dir(tmp_path) / n).stat().st_size for n in FILES})
            sizes["seen"] = {n: synchronised.get(n) for n in FILES}
        fsync(descriptor)

    def poison(self, progress, info):
        if fails and self.agent.iteration == 1:
            with torch.no_grad():
                self.agent.networks()["value"].value.weight[0, 0] = float("nan")
        update(self, progress, info)

    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)
    monkeypatch.setattr(os, "fsync", recording)
    monkeypatch.setattr(train.Training, "_update", poison)
    words = [*WORDS, f"runs_root={tmp_path}"]
    assert train.main(words) == (train.EXIT_NUMERICAL if fails else train.EXIT_DONE)
    assert sizes.pop("seen") == sizes
    assert sizes == {n: (run_dir(tmp_path) / n).stat().st_size for n in FILES}  # nothing follows
