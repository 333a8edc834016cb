"""Every row in the order of what matters, and what a process does before its first."""

import torch

from benchmarks.gpu import gate, kernels, launching, networks, stem
from benchmarks.gpu.rows import Bench, Row, Values


def all_rows(bench: Bench) -> list[Row]:
    """Correctness, kernels, the stem, launching, and networks: first of the CUDA kernels, then of Triton's."""
    return [
        *gate.rows(bench),
        *kernels.rows(bench),
        *stem.rows("cuda"),
        *launching.rows("cuda"),
        *networks.rows("cuda"),
        *stem.rows("triton"),
        *launching.rows("triton"),
        *networks.rows("triton"),
    ]


def prepare(bench: Bench) -> Values:
    """Set precision and compilers as every row expects them; the machine and the setting, for the record."""
    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(0)
    setting = {"torch": torch.__version__, "batch": bench.batch, "quick": bench.quick}
    if not bench.on_gpu:
        return {"GPU": None, **setting}
    from torch._dynamo import config as dynamo

    torch.backends.cudnn.benchmark = True
    dynamo.fail_on_recompile_limit_hit = True  # a comparison must not fall back to eager
    return {"GPU": torch.cuda.get_device_name(), **setting}
