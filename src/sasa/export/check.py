"""Run an exported file in a new process, and compare it with the network's own outputs.

`python -m sasa.export.check FILE EXAMPLES` prints JSON: the largest difference, and the seconds of an image.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sasa.errors import SasaError
from sasa.export.load import Run, load

WARM_UP, ENOUGH_RUNS, ENOUGH_SECONDS = 2, 50, 1.0


@dataclass(frozen=True)
class Comparison:
    """Result of the comparison.

    Args:
        difference: largest absolute difference of a number, relative to the largest number of its output, or to 1.
        seconds: of one image.
    """

    difference: float
    seconds: float


def compare(path: Path, run: Run, batches: Sequence[Tensor], skeleton: nn.Module | None) -> Comparison:
    """Compare a file, run in a new process, with a network.

    Args:
        path: the exported file.
        run: the network.
        batches: of images.
        skeleton: a network without its weights, where the file holds weights only.

    Raises:
        SasaError: the new process cannot load or run the file.
    """
    with tempfile.TemporaryDirectory() as directory:
        examples = Path(directory) / "examples.pt"
        given = {"batches": [(batch, run(batch)) for batch in batches], "network": skeleton}
        torch.save({**given, "threads": torch.get_num_threads()}, examples)
        command = [sys.executable, "-m", "sasa.export.check", str(path), str(examples)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own module
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise SasaError(f"a new process cannot run the exported file: {reason}")
    return Comparison(**json.loads(done.stdout.splitlines()[-1]))


def relative_difference(got: Sequence[Tensor], want: Sequence[Tensor]) -> float:
    """The largest |got - want| of an output, divided by its largest |want| (by 1 if that is smaller); NaN stays NaN.

    Raises:
        SasaError: another number of outputs, or other shapes.
    """
    shapes = [[tuple(output.shape) for output in outputs] for outputs in (got, want)]
    if shapes[0] != shapes[1]:
        raise SasaError(f"the outputs have the shapes {shapes[0]}, and the network's {shapes[1]}")
    return max(
        ((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1)).item() if b.numel() else 0.0
        for a, b in zip(got, want, strict=True)
    )


def seconds_of(call: Callable[[], object]) -> float:
    """The shortest of several runs, after a few that are not counted."""
    for _ in range(WARM_UP):
        call()
    taken: list[float] = []
    while len(taken) < ENOUGH_RUNS and (sum(taken) < ENOUGH_SECONDS or not taken):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


def main(path: str, examples: str) -> None:
    """Compare, and print the result as JSON."""
    given = torch.load(examples, weights_only=False)  # written a moment ago by the process that started this one
    torch.set_num_threads(given["threads"])
    with torch.no_grad():
        run = load(path, given["network"]).run
        difference = max(relative_difference(run(images), want) for images, want in given["batches"])
        one = given["batches"][0][0][:1]
        comparison = Comparison(difference, seconds_of(lambda: run(one)))
    sys.stdout.write(json.dumps(asdict(comparison)) + "\n")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except SasaError as error:
        sys.exit(str(error))
