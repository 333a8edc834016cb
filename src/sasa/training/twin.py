"""The network of a run beside its convolutional twin: same sizes, recipe and data, timed in turns on real batches."""

import copy
import dataclasses
import itertools
import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sasa.analysis.speed.report import markdown
from sasa.analysis.speed.timing import Spread, Step, ratios, spread, take_turns, torch_threads
from sasa.errors import SasaError
from sasa.models import ResNet, ResNetConfig, RetinaNet, load_pretrained
from sasa.training.config import TrainConfig
from sasa.training.memory import keep_freed_memory
from sasa.training.optim import make_optimizer
from sasa.training.processes import make_fabric
from sasa.training.run_folder import RunFolder, environment
from sasa.training.settings import Config
from sasa.training.task import Task
from sasa.training.tasks import make_task, read_config, with_own_weights

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

    Both take the same training batches in turns, in float32 with the run's layout, loss and optimizer, on the CPU.

    Raises:
        SasaError: no run, or one whose network has no attention.
    """
    config = _config_of(path)
    keep_freed_memory()  # as in training
    ours = load_pretrained(path)
    networks: dict[str, nn.Module] = {OURS: ours, TWIN: twin(ours)}
    if config.run.channels_last:
        networks = {side: network.to(memory_format=torch.channels_last) for side, network in networks.items()}  # pyright: ignore
    task = make_task(config, make_fabric(config.run))
    batches = first_batches(task, config)
    with torch_threads(threads):
        steps = {side: inference_step(network, batches) for side, network in networks.items()}
        times = {INFERENCE: take_turns(steps, rounds or ROUNDS, SECONDS)}
        steps = {side: training_step(network, batches, task, config) for side, network in networks.items()}
        times = {TRAINING: take_turns(steps, rounds or ROUNDS, SECONDS), **times}
        measured_on = environment()
    size = len(batches[0])
    result = TwinTimes(
        ours.name,
        size,
        {side: sum(p.numel() for p in network.parameters()) for side, network in networks.items()},
        {
            passed: {side: [1000 * t / size for t in values] for side, values in sides.items()}
            for passed, sides in times.items()
        },
        measured_on,
    )
    RunFolder(path).write_text("speed.json", json.dumps(result.to_dict(), indent=2) + "\n")
    return result


def _config_of(path: Path) -> Config:
    """The run's own, on the CPU in one process, with the batches that each of its processes had."""
    if not (path / "config.yaml").is_file():
        raise SasaError(f"{path} is no run: its config.yaml, which says what to time it on, is missing")
    config = with_own_weights(read_config(path / "config.yaml"))
    config.run.accelerator, config.run.precision, config.data.workers = "cpu", "32-true", 0
    if isinstance(config, TrainConfig):
        config.data.in_memory = False  # a few batches are wanted, not all pictures
    summary = path / "summary.json"
    processes = json.loads(summary.read_text()).get("processes", 1) if summary.is_file() else 1
    config.recipe.batch_size //= processes
    return config


def twin(network: ResNet | RetinaNet) -> ResNet | RetinaNet:
    """The same network with a 3 x 3 convolution wherever it has attention, freshly initialised.

    In blocks, pyramid and heads by its config. The attention stem becomes the paper's convolutional one where both
    reduce the picture four times, and else a 3 x 3 convolution, batch norm, ReLU and a max pool over the stem's blocks,
    so that both networks see maps of the same sizes.

    Raises:
        SasaError: a network without attention is its own twin.
    """
    torch.manual_seed(0)
    if isinstance(network, RetinaNet):
        config, kinds = network.config, {"heads": "conv", "pyramid": "conv"}
        body, attentive = config.backbone, (config.heads, config.pyramid) != ("conv", "conv")
    else:
        config, kinds, body, attentive = network.config, {}, network.config, False
    if not attentive and body.groups == "cccc" and body.stem in ("conv", "small_conv"):
        raise SasaError(f"{network.name} has no attention: there is no convolutional twin to compare it with")
    options = {**config.to_dict(), **kinds, "groups": "cccc", "stem": _twin_of_stem(body)}
    other = type(network)(type(config).from_dict(options), f"{network.name} of convolutions")  # pyright: ignore
    if body.stem == "attention" and body.stem_block != 4:
        stem = (other.backbone.body if isinstance(other, RetinaNet) else other).stem
        assert isinstance(stem, nn.Sequential)
        stem.add_module("pool", nn.MaxPool2d(body.stem_block, ceil_mode=True))
    return other


def _twin_of_stem(config: ResNetConfig) -> str:
    attentive = {"attention": "conv" if config.stem_block == 4 else "small_conv", "small_attention": "small_conv"}
    return attentive.get(config.stem, config.stem)


def first_batches(task: Task, config: Config) -> list[Any]:
    """A few whole training batches of the run's data, in the run's layout, small ones left out."""
    found = [batch.to(torch.device("cpu"), config.run.channels_last) for batch in islice(task.batches(0), BATCHES)]
    whole = max(map(len, found))
    return [batch for batch in found if len(batch) == whole]


def training_step(network: nn.Module, batches: list[Any], task: Task, config: Config) -> Step:
    """A whole step of the run's recipe on the next batch: forward, loss, backward, optimizer."""
    network = copy.deepcopy(network).train()
    recipe, following = config.recipe, itertools.cycle(batches)
    # Small steps: the same batches come again and again.
    optimizer = make_optimizer(network, dataclasses.replace(recipe, learning_rate=recipe.learning_rate * 1e-3))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        task.loss(network, next(following), config.run.seed)[0].backward()
        optimizer.step()

    return step


def inference_step(network: nn.Module, batches: list[Any]) -> Step:
    """A forward pass over the next batch in evaluation mode."""
    network = copy.deepcopy(network).eval()
    following = itertools.cycle(batches)

    def step() -> None:
        with torch.inference_mode():
            network(next(following).pictures)

    return step
