"""Networks exported in every format, loaded in a new process and compared: a table in Markdown.

    python -m benchmarks.export                      # all networks; 15 minutes
    python -m benchmarks.export sasa_resnet50        # some of them

The weights are random, and the batch norms have the statistics of random images. Times are those of one image: of the
exported network in its new process, and of the network itself, each the shortest of several runs.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import sasa
from sasa.errors import SasaError
from sasa.export import FORMATS, export

SIDES = {"retinanet_sasa_resnet26_attn": 320}  # of the images, else 224


def _torchvision_resnet18() -> nn.Module:
    import torchvision

    return sasa.convert(torchvision.models.resnet18())


def _timm_convnext_tiny() -> nn.Module:
    import timm

    return sasa.convert(timm.create_model("convnext_tiny"), grouped="replace")


CONVERTED: dict[str, Callable[[], nn.Module]] = {
    "torchvision resnet18, converted": _torchvision_resnet18,
    "timm convnext_tiny, converted": _timm_convnext_tiny,
}
NETWORKS = ("resnet26", "sasa_resnet26", "sasa_resnet50", *CONVERTED, "retinanet_sasa_resnet26_attn")


def make(name: str) -> tuple[nn.Module, Tensor]:
    """Make a network in evaluation mode, and two images for it."""
    torch.manual_seed(0)
    network = CONVERTED[name]() if name in CONVERTED else sasa.create_model(name)
    side = SIDES.get(name, 224)
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        for _ in range(3):
            network.train()(images)
    return network.eval(), images


def row(name: str, format: str, directory: Path) -> str:
    """Export one network in one format; return its row of the table."""
    network, images = make(name)
    try:
        done = export(network, images, format, directory / f"network{FORMATS[format].suffix}")
    except SasaError as error:
        return f"| {name} | `{format}` | {error} | | | |"
    times = f"{1e3 * done.seconds:.1f} | {1e3 * done.eager_seconds:.1f}"
    rebuilt = "" if format != "safetensors" or "options" in done.description else " (weights only)"
    return f"| {name} | `{format}`{rebuilt} | {done.difference:.1e} | {done.size / 1e6:.1f} | {times} |"


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    given = parser.parse_args()
    if unknown := set(given.networks) - set(NETWORKS):
        parser.error(f"unknown network {', '.join(sorted(unknown))}: choose from {', '.join(NETWORKS)}")
    print("| network | format | largest difference | MB | ms | eager, ms |\n|---|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as directory:
        for name in given.networks:
            for format in given.formats:
                print(row(name, format, Path(directory)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
