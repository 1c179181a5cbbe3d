"""Settings of all tests."""

import os

# Before NumPy and torch start their own threads: more than one makes small networks slower.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import torch

torch.set_num_threads(1)
