"""Training on a shared machine: a training step beside busy loops, relative to the same step alone.

    python -m benchmarks.cpu.busy                              # the demo's network: torch's settings, sasa's
    python -m benchmarks.cpu.busy --settings command,spin=1000,threads=1 --loops 0,1,2
    python -m benchmarks.cpu.busy --network resnet50 --batch 8 --rounds 3
    python -m benchmarks.cpu.busy --pair                       # two trainings side by side

Each setting has its own process, which is idle while others are measured: settings and loads take turns. A turn is the
mean of its steps; the tables hold medians over rounds.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sasa import threads

WARMUPS, LEAST_STEPS = 3, 2
# Ends when its parent process has ended.
LOOP = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(10**6):
        pass
"""
VARIABLES = {
    "spin": threads.SPIN_COUNT,
    "policy": threads.WAIT_POLICY,
    "threads": threads.THREADS,
    "bind": "OMP_PROC_BIND",
}


def demo_step(twin: bool) -> Callable[[], object]:
    """Make a training step of `sasa train` with its defaults, or of the convolutional twin."""
    from sasa.tasks.classification.config import resolve
    from sasa.tasks.train import start

    trainer = start(resolve(None, [("model.groups", "cccc"), ("model.stem", "small_conv")] if twin else []))
    trainer.model.train()
    parts = trainer.task.batches(0)
    return lambda: trainer.train_step(parts)


def resnet50_step(twin: bool, batch: int) -> Callable[[], object]:
    """Make a training step, without optimizer, of sasa_resnet50 or resnet50 at 224 x 224."""
    import torch

    from sasa.models import create_model

    network = create_model("resnet50" if twin else "sasa_resnet50").to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch,))

    def step() -> None:
        network.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(network(images), labels).backward()

    return step


def work(network: str, batch: int, twin: bool, setting: str) -> None:
    """Run a measured process: for each line "SECONDS" on stdin, take steps and print their mean in ms."""
    words = setting.split("+")
    if "command" in words:
        threads.prepare()
    for word in words:
        if word.startswith("turn="):
            threads.request_turns(1000 * int(word.removeprefix("turn=")))
    step = demo_step(twin) if network == "demo" else resnet50_step(twin, batch)
    for _ in range(WARMUPS):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        steps, began, processor = 0, time.perf_counter(), time.process_time()
        while steps < LEAST_STEPS or time.perf_counter() - began < float(line):
            step()
            steps += 1
        seconds = time.perf_counter() - began
        taken = {"ms": 1000 * seconds / steps, "cores": (time.process_time() - processor) / seconds}
        print(json.dumps(taken), flush=True)


class Worker:
    """A process that trains with one setting, on request."""

    def __init__(self, setting: str, arguments: argparse.Namespace) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in VARIABLES.values()}
        for word in setting.split("+"):
            name, _, value = word.partition("=")
            if name in VARIABLES:
                environment[VARIABLES[name]] = value
        twin = ["--twin"] if arguments.twin else []
        words = ["--network", arguments.network, "--batch", str(arguments.batch), *twin, "--work", setting]
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.cpu.busy", *words],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.answer()

    def ask(self, seconds: float) -> None:
        """Start a turn."""
        assert self.process.stdin
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        """Read a line of its output."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a measured process ended with status {self.process.wait()}")
        return line

    def take_turn(self, seconds: float) -> dict[str, float]:
        """Measure the mean time of a step, and the number of cores used."""
        self.ask(seconds)
        return json.loads(self.answer())


@contextlib.contextmanager
def busy(loops: int) -> Iterator[None]:
    """Run busy loops beside the block, a process each."""
    processes = [subprocess.Popen([sys.executable, "-S", "-c", LOOP]) for _ in range(loops)]
    try:
        time.sleep(0.3 if loops else 0)  # until they have started
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def started(settings: Sequence[str], arguments: argparse.Namespace) -> Iterator[list[Worker]]:
    """Start a worker for each setting; they end with the block."""
    with contextlib.ExitStack() as stack:
        workers = []
        for setting in settings:
            workers.append(Worker(setting, arguments))
            stack.callback(workers[-1].process.wait)
            stack.callback(workers[-1].process.kill)
        yield workers


def measure(arguments: argparse.Namespace) -> list[list[str]]:
    """Measure each setting: ms of a step by load, and the ratios to the first setting under the first load."""
    settings, loads = arguments.settings.split(","), [int(number) for number in arguments.loops.split(",")]
    taken: dict[str, dict[int, list[dict[str, float]]]] = {s: {load: [] for load in loads} for s in settings}
    with started(settings, arguments) as workers:
        turns = list(zip(settings, workers, strict=True))
        for _ in range(arguments.rounds):
            for load in loads:
                with busy(load):
                    for setting, worker in turns:
                        taken[setting][load].append(worker.take_turn(arguments.seconds))
            turns = turns[1:] + turns[:1]
    alone = loads[0]
    heading = ["setting", *(f"{load} loops: ms" for load in loads), *(f"{load} loops: ratio" for load in loads)]
    lines = [heading]
    for setting in settings:
        ms = {load: [turn["ms"] for turn in taken[setting][load]] for load in loads}
        base = [turn["ms"] for turn in taken[settings[0]][alone]]
        ratios = [statistics.median(a / b for a, b in zip(ms[load], base, strict=True)) for load in loads]
        lines.append([
            setting,
            *(f"{statistics.median(ms[load]):.0f} ({min(ms[load]):.0f} to {max(ms[load]):.0f})" for load in loads),
            *(f"{ratio:.2f}" for ratio in ratios),
        ])  # fmt: skip
    return lines


def measure_pairs(arguments: argparse.Namespace) -> list[list[str]]:
    """Measure two trainings with the same setting, one alone and both side by side."""
    lines = [["setting", "alone: ms", "side by side: ms", "ratios"]]
    for setting in arguments.settings.split(","):
        with started([setting, setting], arguments) as workers:
            alone, both = [], []
            for _ in range(arguments.rounds):
                alone.append(workers[0].take_turn(arguments.seconds)["ms"])
                for worker in workers:
                    worker.ask(arguments.seconds)
                both.append([json.loads(worker.answer())["ms"] for worker in workers])
        base, pair = statistics.median(alone), [statistics.median(side) for side in zip(*both, strict=True)]
        lines.append([
            setting,
            f"{base:.0f}",
            " and ".join(f"{ms:.0f}" for ms in pair),
            " and ".join(f"{ms / base:.2f}" for ms in pair),
        ])  # fmt: skip
    return lines


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=("demo", "resnet50"), default="demo")
    parser.add_argument("--twin", action="store_true", help="the convolutional network")
    parser.add_argument("--batch", type=int, default=8, help="batch size of resnet50")
    parser.add_argument(
        "--settings",
        default="torch,command",
        help="torch (unchanged), command (as sasa's commands do); options joined by +: "
        "spin=N, policy=passive, threads=N, bind=true, turn=MICROSECONDS",
    )
    parser.add_argument(
        "--loops", default=f"0,1,{threads.cores()}", help="numbers of busy loops; ratios refer to the first"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.7, help="duration of a turn")
    parser.add_argument("--pair", action="store_true", help="two trainings side by side, instead of busy loops")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main() -> None:
    """Run the command line."""
    arguments: Any = parse()
    if arguments.work:
        return work(arguments.network, arguments.batch, arguments.twin, arguments.work)
    for line in measure_pairs(arguments) if arguments.pair else measure(arguments):
        print("| " + " | ".join(line) + " |")
    return None


if __name__ == "__main__":
    main()
