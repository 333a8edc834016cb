"""Settings for all tests."""

import torch

# The tensors here are tiny: a second thread costs more than it brings, and on a busy machine a hundred times more.
torch.set_num_threads(1)
