"""Hydra's launcher for Ray; Hydra accepts launchers from this folder only.

Deviation: not the package hydra-ray-launcher, which wants Ray's dashboard, a cloud client and an
old cloudpickle, and sends pickled objects where a line of JSON is enough.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class RayLauncher(Launcher):
    """Runs the members of a sweep as tasks of Ray; see `configs/hydra/launcher/ray.yaml`.

    Args:
        address: Of a running cluster; None starts Ray on this machine.
        token_path: File with the authentication token of that cluster.
        num_workers: Members at a time on this machine; None for one per core.
        max_retries: How often a member whose worker died starts again.
    """

    def __init__(
        self,
        address: str | None = None,
        token_path: str | None = None,
        num_workers: int | None = None,
        max_retries: int = 3,
    ) -> None:
        self.address, self.token_path = address, token_path
        self.num_workers, self.max_retries = num_workers, max_retries

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Nothing of Hydra is sent to the workers: each composes its own configuration."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run all members; what became of them is in their rows."""
        from configs.ray_sweep import Cluster, run_on_ray
        from configs.schema import ConfigurationError
        from configs.sweep import record, sweep_command

        members = [list(words) for words in job_overrides]
        try:
            cluster = Cluster(self.address, self.token_path, self.num_workers)
            for row in run_on_ray(cluster, members, sweep_command(), self.max_retries):
                record(row)
        except ConfigurationError as error:  # Hydra prints this class as one sentence
            raise CompactHydraException(f"configuration: {error}") from error
        return [JobReturn(words, status=JobStatus.COMPLETED) for words in members]
