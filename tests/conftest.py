"""Settings for all tests."""

import os

# cuBLAS repeats its sums to the bit only with a workspace of its own; torch's deterministic algorithms insist on that.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

# The tensors here are tiny: a second thread costs more than it brings, and on a busy machine a hundred times more.
torch.set_num_threads(1)
