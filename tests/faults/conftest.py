"""Settings of the fault tests."""

import pytest

from analysis.checkpoint import CheckpointStore


@pytest.fixture(autouse=True)
def _no_reserve(monkeypatch):
    """Tests do not need half a gigabyte of free disk."""
    monkeypatch.setattr(CheckpointStore, "reserved_bytes", 0)
