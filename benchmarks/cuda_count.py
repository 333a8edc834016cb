"""Count what the tensor-core kernels of local attention do, in the emulator, on the four maps of ResNet-50.

    python benchmarks/cuda_count.py [--images 1] [--json FILE]

One image is run and counted, and the counts are given for a batch of 256, in millions: instructions of warps,
wavefronts of shared memory (and over how many there would be without bank conflicts), sectors of 32 bytes of global
memory and the part of their bytes that is used. Arithmetic is not counted.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cuda.emulator import Counts
from cuda.local_calls import Options, backward, forward

BATCH = 256
MAPS = ((56, 8), (28, 16), (14, 32), (7, 64))  # height and width, channels of each of 8 heads


def count(size: int, head_dim: int, images: int) -> dict[str, dict[str, int]]:
    """Counts of each kernel for `images` images, k = 7, bfloat16, channels_last slices of one q, k, v map."""
    options = Options(7, 8, head_dim)
    channels = 8 * head_dim
    generator = torch.Generator().manual_seed(0)
    last = {"dtype": torch.bfloat16, "memory_format": torch.channels_last}
    query, key, value = torch.randn(images, 3 * channels, size, size, generator=generator).to(**last).chunk(3, 1)
    tables = [torch.randn(8, 7, head_dim // 2, generator=generator) for _ in range(2)]
    grad = torch.randn(images, channels, size, size, generator=generator).to(**last)
    counted = {"forward": Counts()}
    _, logsumexp = forward(query, key, value, *tables, options, counts=counted["forward"])
    backward(grad, query, key, value, *tables, logsumexp, options, counts=counted)
    return {name: counts.as_dict() for name, counts in counted.items() if name != "sums"}


def line(size: int, head_dim: int, kernel: str, c: dict[str, int], images: int) -> str:
    """A row of the table."""

    def millions(n: float) -> str:
        return f"{n * BATCH / images / 1e6:.2f}"

    wavefronts = c["shared_load_wavefronts"] + c["shared_store_wavefronts"] + c["copy_wavefronts"]
    ideal = c["shared_load_ideal"] + c["shared_store_ideal"] + c["copy_ideal"]
    read, written = c["copy_sectors"] + c["global_load_sectors"], c["global_store_sectors"]
    cells = [
        f"{size} x {size} x {8 * head_dim}", kernel,
        *(millions(c[n]) for n in ("multiply16", "multiply8", "load_matrix")),
        millions(c["shared_loads"] - c["load_matrix"]), millions(c["shared_stores"]), millions(c["copies"]),
        millions(c["shuffles"]), millions(wavefronts), f"{wavefronts / ideal:.2f}",
        f"{c['shared_load_wavefronts'] / c['shared_load_ideal']:.2f}",
        f"{c['shared_store_wavefronts'] / c['shared_store_ideal']:.2f}",
        millions(read), f"{(c['copy_bytes'] + c['global_load_bytes']) / 32 / read:.2f}",
        millions(written), f"{c['global_store_bytes'] / 32 / written:.2f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Parse the arguments, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(
        "| map | kernel | mma k16 | mma k8 | ldmatrix | shared loads | shared stores | cp.async | shuffles | wavefronts"
        " | over ideal | loads | stores | sectors read | used | sectors written | used |"
    )
    print("|" + "---|" * 17)
    everything = {}
    for size, head_dim in MAPS:
        for kernel, counts in count(size, head_dim, arguments.images).items():
            print(line(size, head_dim, kernel, counts, arguments.images), flush=True)
            everything[f"{size} {head_dim} {kernel}"] = counts
    if arguments.json:
        arguments.json.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
