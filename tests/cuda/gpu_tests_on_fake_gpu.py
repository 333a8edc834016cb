"""Run by test_ops.py in a process that sees fake GPUs: tests of tests/gpu, whose kernels run in emulation.

python gpu_tests_on_fake_gpu.py ARGUMENT ...        of pytest; torch's own kernels do not run here
"""

import os
import sys

import pytest

from cuda.ops_on_fake_gpu import install_builder

if __name__ == "__main__":
    install_builder()
    status = pytest.main(["-p", "no:cacheprovider", "-p", "no:xdist", *sys.argv[1:]])
    sys.stdout.flush()
    os._exit(status)  # torch's autograd threads may still free tensors, which crashes a Python that is shutting down
