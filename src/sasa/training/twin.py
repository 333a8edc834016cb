"""The network of a run beside its convolutional twin: same sizes, recipe and data, timed in turns on real batches."""

import copy
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sasa.analysis.speed.report import markdown
from sasa.analysis.speed.timing import Spread, Step, ratios, spread, take_turns, torch_threads
from sasa.data.loader import evaluation_loader, training_loader
from sasa.data.sampler import EpochBatches
from sasa.errors import SasaError
from sasa.models import ResNet, ResNetConfig, load_pretrained
from sasa.training.classification import open_training_data
from sasa.training.config import TrainConfig
from sasa.training.memory import keep_freed_memory
from sasa.training.optim import make_optimizer
from sasa.training.run_folder import RunFolder, environment

ROUNDS, SECONDS = 20, 8.0  # for each of the two passes
BATCHES = 4  # of real pictures, gone through in turn
OURS, TWIN = "this network", "convolutional twin"
TRAINING, INFERENCE = "training step", "inference"


@dataclass(frozen=True)
class TwinTimes:
    """Milliseconds a picture of both networks, and their ratio by round, for the training step and for inference."""

    model: str
    batch: int
    parameters: dict[str, int]
    times: dict[str, dict[str, list[float]]]
    environment: dict[str, str]

    def ratio(self, passed: str) -> Spread:
        """Ours / twin, round by round."""
        return spread(ratios(self.times[passed][OURS], self.times[passed][TWIN]))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as speed.json holds them."""
        passes = {
            passed: {
                "ours_ms_a_picture": spread(times[OURS]).median,
                "twin_ms_a_picture": spread(times[TWIN]).median,
                "ratio": dataclasses.asdict(self.ratio(passed)),
                "rounds": len(times[OURS]),
            }
            for passed, times in self.times.items()
        }
        return {
            "model": self.model,
            "batch": self.batch,
            "parameters": self.parameters,
            "passes": passes,
            "environment": self.environment,
        }

    def to_text(self) -> str:
        """A table, one line for each pass."""
        lines = [["ms a picture", OURS, TWIN, "ratio", "quartiles"]]
        for passed, times in self.times.items():
            found = self.ratio(passed)
            medians = [f"{spread(times[side]).median:.3f}" for side in (OURS, TWIN)]
            lines.append([passed, *medians, f"{found.median:.2f}", f"{found.lower:.2f} to {found.upper:.2f}"])
        lines.append(["parameters", *(f"{self.parameters[side]:,}" for side in (OURS, TWIN)), "", ""])
        return f"{self.model} and its twin of convolutions, batches of {self.batch}:\n\n{markdown(lines)}"


def time_beside_twin(path: Path, rounds: int | None = None, threads: int | None = None) -> TwinTimes:
    """Time the network of the run in `path` and its twin on the run's own data; written to speed.json there.

    Both take the same batches in turns, with the run's precision 32-true, layout and optimizer, on the CPU.

    Raises:
        SasaError: no run, or one whose network has no attention.
    """
    if not (path / "config.yaml").is_file():
        raise SasaError(f"{path} is no run: its config.yaml, which says what to time it on, is missing")
    config = TrainConfig.read(str(path / "config.yaml"))
    keep_freed_memory()  # as in training
    ours = load_pretrained(path)
    assert isinstance(ours, ResNet)  # TrainConfig.read has refused a detector's run
    networks: dict[str, nn.Module] = {OURS: ours, TWIN: twin(ours)}
    if config.run.channels_last:
        networks = {side: network.to(memory_format=torch.channels_last) for side, network in networks.items()}  # pyright: ignore
    training, held_out = batches(config)
    size, seconds = len(training[0][1]), SECONDS
    with torch_threads(threads):
        steps = {side: evaluation_step(network, held_out) for side, network in networks.items()}
        times = {INFERENCE: take_turns(steps, rounds or ROUNDS, seconds)}
        steps = {side: training_step(network, training, config) for side, network in networks.items()}
        times = {TRAINING: take_turns(steps, rounds or ROUNDS, seconds), **times}
        measured_on = environment()
    pictures = {TRAINING: size, INFERENCE: len(held_out[0])}
    result = TwinTimes(
        ours.name,
        size,
        {side: sum(p.numel() for p in network.parameters()) for side, network in networks.items()},
        {
            passed: {side: [1000 * t / pictures[passed] for t in values] for side, values in sides.items()}
            for passed, sides in times.items()
        },
        measured_on,
    )
    RunFolder(path).write_text("speed.json", json.dumps(result.to_dict(), indent=2) + "\n")
    return result


def twin(network: ResNet) -> ResNet:
    """The same network with a 3 x 3 convolution wherever it has attention, freshly initialised.

    In the blocks by its config. The attention stem becomes the paper's convolutional one where both reduce the
    picture four times, and else a 3 x 3 convolution, batch norm, ReLU and a max pool over the stem's blocks, so that
    both networks see maps of the same sizes.

    Raises:
        SasaError: a network without attention is its own twin.
    """
    config = network.config
    if config.groups == "cccc" and config.stem in ("conv", "small_conv"):
        raise SasaError(f"{network.name} has no attention: there is no convolutional twin to compare it with")
    stem = {"attention": "conv" if config.stem_block == 4 else "small_conv", "small_attention": "small_conv"}
    options = {**config.to_dict(), "groups": "cccc", "stem": stem.get(config.stem, config.stem)}
    torch.manual_seed(0)
    other = ResNet(ResNetConfig.from_dict(options), f"{network.name} of convolutions")
    if config.stem == "attention" and config.stem_block != 4:
        assert isinstance(other.stem, nn.Sequential)
        other.stem.add_module("pool", nn.MaxPool2d(config.stem_block, ceil_mode=True))
    return other


def batches(config: TrainConfig) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
    """A few training batches (pictures, labels) and held-out batches (pictures) of the run's data, whole ones only."""
    train, held_out = open_training_data(config)
    data, size = config.data, config.recipe.batch_size
    layout = torch.channels_last if config.run.channels_last else torch.contiguous_format
    order = EpochBatches(len(train), size, config.recipe.epochs, config.run.seed, groups=train.groups)
    loader = training_loader(train, data.preprocessing(), data.augmentation(), config.run.seed, order, 0)
    training = [(b.pictures.contiguous(memory_format=layout), b.labels) for b in islice(loader, BATCHES)]
    size = min(size, len(held_out))
    seen = islice(evaluation_loader(held_out, data.preprocessing(), size, 0), BATCHES)
    return training, [b.pictures.contiguous(memory_format=layout) for b in seen if len(b) == size]


def training_step(network: nn.Module, batches: list[tuple[Tensor, Tensor]], config: TrainConfig) -> Step:
    """A whole step of the run's recipe on the next batch: forward, loss, backward, optimizer."""
    network = copy.deepcopy(network).train()
    recipe, following = config.recipe, _endless(batches)
    # Small steps: the same batches come again and again.
    optimizer = make_optimizer(network, dataclasses.replace(recipe, learning_rate=recipe.learning_rate * 1e-3))

    def step() -> None:
        pictures, labels = next(following)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(network(pictures), labels, label_smoothing=recipe.label_smoothing).backward()
        optimizer.step()

    return step


def evaluation_step(network: nn.Module, batches: list[Tensor]) -> Step:
    """A forward pass over the next batch in evaluation mode."""
    network = copy.deepcopy(network).eval()
    following = _endless(batches)

    def step() -> None:
        with torch.inference_mode():
            network(next(following))

    return step


def _endless(items: list[Any]) -> Iterator[Any]:
    while True:
        yield from items
