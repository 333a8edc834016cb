"""The GPU rows: gradients, kernels beside their prediction, the operator and whole networks beside what they replace.

    python benchmarks/gpu.py                            # all parts but `tune`: at most ten minutes on one Hopper GPU
    python benchmarks/gpu.py operator networks          # some parts
    python benchmarks/gpu.py tune --limit 3600          # lines for TABLE in src/sasa/ops/gpu/tuning.py
    python benchmarks/gpu.py --device cpu --quick       # to try the command without a GPU: no measurement

bfloat16, channels_last. The sides of a comparison take turns in one process; a turn is repeated until it lasts ten
milliseconds, and waited for; kernels and operators are replays of a CUDA graph. Medians, milliseconds a call. Each
line is printed and saved when it is there. The exit status is 1 where a gradient is not within its bound.
"""

import argparse
import datetime
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from gpu_acceptance import acceptance, table
from gpu_ceilings import measure_ceilings
from gpu_device import Device
from gpu_gradients import failures, gradients
from gpu_kernels import kernels, tune
from gpu_networks import networks
from gpu_operator import operator
from gpu_run import Limit, Record, age_of_process, signals_close
from gpu_shapes import Bench

from sasa.speed import Setting
from sasa.speed.ceilings import machine
from sasa.speed.report import by_name

PARTS = {part.__name__: part for part in (gradients, kernels, operator, networks, tune)}
RESULTS = Path(__file__).parent / "results"
LIMIT = 570  # seconds


def main(arguments: Sequence[str] | None = None, used: float = 0.0) -> int:
    """Run the parts that the command line names, print a table of each and of what was asked; the exit status.

    Args:
        arguments: of the command line; the process's without them.
        used: seconds of the limit that are gone: importing torch takes many.
    """
    words = command_line(arguments)
    device = Device(words.device)
    setting = Setting(batch=words.batch, rounds=words.rounds, seconds=8.0)
    if words.quick:
        setting = Setting.make(quick=True, threads=1)
    limit = Limit(words.limit, used)
    with signals_close(limit):
        record = measure(words, setting, device, limit)
    print(f"\n## What was asked\n\n{by_name(record.found['acceptance'])}", flush=True)
    gate = failures(record.found["gradients"]) if "gradients" in words.parts else []
    record.put("gate", gate)
    for sentence in gate:
        print(f"the gradients are not right: {sentence}", flush=True)
    if limit.closed is not None:
        print(f"\nnot everything was measured: {limit.closed}", flush=True)
    return 1 if gate else 143 if limit.closed == "SIGTERM" else 0


def measure(words: argparse.Namespace, setting: Setting, device: Device, limit: Limit) -> Record:
    """Ceilings, the parts, and the acceptance rows."""
    gpu = torch.cuda.get_device_name() if device.cuda else None
    head = {"format": 2, "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds")}
    head |= {"machine": {**machine(), "gpu": gpu, "triton": triton_version()}, "setting": setting.to_dict()}
    record = Record(words.json, head)
    print(f"{gpu or 'no GPU: no measurement'}, torch {torch.__version__}, batch {setting.batch}", flush=True)
    device.settings()
    ceilings = measure_ceilings(device)
    record.put("ceilings", ceilings.to_dict())
    print(ceilings, flush=True)
    bench = Bench(setting, device, ceilings, words.quick)
    for name in words.parts:
        print(f"\n## {name}: {PARTS[name].__doc__}\n", flush=True)
        record.part(name, PARTS[name](bench), limit, device.release)
    record.put("acceptance", table(acceptance(record.found, setting.batch)))
    record.put("ended early", limit.closed)
    return record


def triton_version() -> str | None:
    """Of the Triton that compiles the kernels."""
    try:
        import triton
    except ImportError:
        return None
    return triton.__version__


def command_line(arguments: Sequence[str] | None) -> Any:
    """What was asked for; a sentence and exit status 2 where it cannot be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} [default: all but tune]")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--batch", type=int, default=256, help="the large one; networks run with a quarter of it too")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds after which no row begins [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="small networks, nothing compiled: to try it")
    parser.add_argument("--json", type=Path, help="[default: benchmarks/results/DATE-gpu.json; none with --quick]")
    words = parser.parse_args(arguments)
    unknown = [part for part in words.parts if part not in PARTS]
    if unknown:
        parser.error(f"{unknown[0]!r} is no part; there are {', '.join(PARTS)}")
    if words.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here that torch can use: --device cpu --quick tries the command")
    words.parts = words.parts or [part for part in PARTS if part != "tune"]
    if words.json is None and not words.quick:
        words.json = RESULTS / f"{datetime.date.today()}-gpu.json"
    return words


if __name__ == "__main__":
    status = main(used=age_of_process())
    sys.stdout.flush()
    os._exit(status)  # a compiler's processes may still be at work where the run was stopped: nobody waits for them
