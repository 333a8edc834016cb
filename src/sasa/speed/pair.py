"""A network and its convolutional twin, timed in turns: of a run on the run's own data, or by name on random images."""

import contextlib
import copy
import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sasa.machine import cpu_name
from sasa.markdown import markdown_table
from sasa.models import ResNet, RetinaNet, load_pretrained
from sasa.models.boxes import losses
from sasa.nn.conversion import count_parameters
from sasa.speed.timing import Spread, Step, Stop, StopMeasuringError, ratios, spread, take_turns
from sasa.speed.twin import convolutional_twin
from sasa.tasks.registry import make_task, read_config
from sasa.training.memory import keep_freed_memory
from sasa.training.optim import make_optimizer
from sasa.training.processes import make_fabric
from sasa.training.run_directory import environment
from sasa.training.same_data import read_json
from sasa.training.settings import Config
from sasa.training.task import Task

ROUNDS, SECONDS = 20, 30.0  # limits of each pass
BATCHES = 4  # of a run's data, used cyclically
OURS, TWIN = "this network", "convolutional twin"
TRAINING, INFERENCE = PASSES = ("training step", "inference")
StepMaker = Callable[[nn.Module], Step]


@dataclass(frozen=True)
class Pair:
    """A network and its convolutional twin, with the batches that both are timed on.

    Args:
        name: of the network.
        networks: both, by side: `OURS` and `TWIN`.
        batch_size: images in a batch.
        step_makers: by pass, a function that makes the step of a network.
    """

    name: str
    networks: dict[str, nn.Module]
    batch_size: int
    step_makers: dict[str, StepMaker]

    def time(self, passed: str, rounds: int, seconds: float) -> dict[str, list[float]]:
        """Measure milliseconds an image of both sides, round by round, in one of `PASSES`."""
        steps = {side: self.step_makers[passed](network) for side, network in self.networks.items()}
        times = take_turns(steps, rounds, seconds)
        return {side: [1000 * t / self.batch_size for t in values] for side, values in times.items()}


@dataclass(frozen=True)
class PairTimes:
    """Milliseconds an image of a network and its twin, by pass, side and round; passes may be missing."""

    model: str
    batch_size: int
    parameters: dict[str, int]
    environment: dict[str, str]
    times: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def ratio(self, passed: str) -> Spread:
        """Our time over the twin's, round by round."""
        return spread(ratios(self.times[passed][OURS], self.times[passed][TWIN]))

    @property
    def missing(self) -> list[str]:
        """Passes that were not measured because the measurement was stopped."""
        return [passed for passed in PASSES if passed not in self.times]

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for speed.json."""
        passes: dict[str, Any] = {
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
            "batch": self.batch_size,
            "parameters": self.parameters,
            "passes": passes | {passed: {"not measured": "stopped"} for passed in self.missing},
            "environment": self.environment,
        }

    def to_text(self) -> str:
        """Format a table with a row for each pass."""
        rows = [["ms an image", OURS, TWIN, "ratio", "quartiles", "rounds"]]
        for passed, times in self.times.items():
            found = self.ratio(passed)
            medians = [f"{spread(times[side]).median:.3f}" for side in (OURS, TWIN)]
            quartiles, rounds = f"{found.lower:.2f} to {found.upper:.2f}", str(len(times[OURS]))
            rows.append([passed, *medians, f"{found.median:.2f}", quartiles, rounds])
        rows += [[passed, "-", "-", "-", "-", "not measured: stopped"] for passed in self.missing]
        rows.append(["parameters", *(f"{self.parameters[side]:,}" for side in (OURS, TWIN)), "", "", ""])
        title = f"{self.model} and its convolutional twin, batch size {self.batch_size}; a ratio below 1 is faster"
        return f"{title}\n\n{markdown_table(rows)}"


def time_pair(
    pair: Pair,
    rounds: int | None = None,
    stop: Stop | None = None,
    say: Callable[[str], object] = lambda sentence: None,
    save: Callable[[PairTimes], object] = lambda times: None,
) -> PairTimes:
    """Time both networks of a pair in a training step and in inference, in turns.

    Args:
        pair: from `pair_of_run` or `pair_of_network`.
        rounds: maximum number of timed calls of each side.
        stop: ends the measurement early; the result then has the passes that were measured.
        say: called with a sentence before each pass.
        save: called with the result so far after each pass.
    """
    parameters = {side: count_parameters(network) for side, network in pair.networks.items()}
    result = PairTimes(pair.name, pair.batch_size, parameters, {**environment(), "cpu": cpu_name()})
    stop = stop or Stop()
    with contextlib.suppress(StopMeasuringError):
        for passed in PASSES:
            say(f"{passed}, at most about {SECONDS:.0f} s")
            with stop.measuring():
                times = pair.time(passed, rounds or ROUNDS, SECONDS)
            result.times[passed] = times
            save(result)
    return result


def pair_of_run(path: Path) -> Pair:
    """Pair the network of a run with its twin, on the run's own batches, loss, optimizer and layout, on the CPU.

    Raises:
        SasaError: the directory holds no run, or its network has no attention.
    """
    return pair_of_config(_config_on_cpu(path), load_pretrained(path))


def pair_of_config(config: Config, network: ResNet | RetinaNet | None = None) -> Pair:
    """Pair a network with its twin on the data and the recipe of a config; by default a new network of the config."""
    keep_freed_memory()  # as in training
    task = make_task(config, make_fabric(config.run))
    ours = network or task.network
    assert isinstance(ours, ResNet | RetinaNet)
    batches = first_batches(task, config)
    makers: dict[str, StepMaker] = {
        TRAINING: lambda network: _recipe_step(network, batches, task, config),
        INFERENCE: lambda network: inference_step(network, [batch.images for batch in batches]),
    }
    return _pair(ours, len(batches[0]), config.run.channels_last, makers)


def pair_of_network(network: ResNet | RetinaNet, batch_size: int = 8, size: int = 224) -> Pair:
    """Pair a network with its twin on random images of `size` x `size` pixels, channels_last, float32.

    A training step is forward, loss and backward, without an optimizer.

    Raises:
        SasaError: the network has no attention.
    """
    config = network.config.backbone if isinstance(network, RetinaNet) else network.config
    images = torch.randn(batch_size, config.in_chans, size, size, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    makers: dict[str, StepMaker] = {
        TRAINING: lambda network: _random_step(network, images),
        INFERENCE: lambda network: inference_step(network, [images]),
    }
    return _pair(network, batch_size, True, makers)


def _pair(ours: ResNet | RetinaNet, batch_size: int, channels_last: bool, makers: dict[str, StepMaker]) -> Pair:
    networks: dict[str, nn.Module] = {OURS: ours, TWIN: convolutional_twin(ours)}
    if channels_last:
        for network in networks.values():
            network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return Pair(ours.name, networks, batch_size, makers)


def _config_on_cpu(path: Path) -> Config:
    """Read a run's config; on the CPU in one process, with the batch size that each of its processes had."""
    config = read_config(path / "config.yaml").without_initial_weights().without_images_in_memory()
    config.run.accelerator, config.run.precision, config.data.workers = "cpu", "32-true", 0
    config.recipe.batch_size //= read_json(path / "summary.json").get("processes", 1)
    return config


def first_batches(task: Task, config: Config) -> list[Any]:
    """Read the first few training batches, skipping those smaller than the largest."""
    parts = itertools.islice(task.batches(0), BATCHES)
    batches = [batch.to(torch.device("cpu"), config.run.channels_last) for batch in parts]
    size = max(map(len, batches))
    return [batch for batch in batches if len(batch) == size]


def _recipe_step(network: nn.Module, batches: list[Any], task: Task, config: Config) -> Step:
    """Make a whole training step of the recipe, optimizer included, cycling over the batches."""
    network = copy.deepcopy(network).train()
    recipe, following = config.recipe, itertools.cycle(batches)
    # A small learning rate, because the same batches are used again and again.
    optimizer = make_optimizer(network, dataclasses.replace(recipe, learning_rate=recipe.learning_rate * 1e-3))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        task.loss(network, next(following), config.run.seed)[0].backward()
        optimizer.step()

    return step


def _random_step(network: nn.Module, images: Tensor) -> Step:
    """Make a forward and backward pass on random images."""
    network = copy.deepcopy(network).train()
    loss = _loss_of_made_up_targets(network, len(images), images.shape[-1])

    def step() -> None:
        network.zero_grad(set_to_none=True)
        loss(network(images)).backward()

    return step


def _loss_of_made_up_targets(network: nn.Module, batch_size: int, size: int) -> Callable[[Any], Tensor]:
    """Make the loss for targets of class 0: a label for each image, or for a detector two boxes in each."""
    if not isinstance(network, RetinaNet):
        labels = torch.zeros(batch_size, dtype=torch.int64)
        return lambda logits: F.cross_entropy(logits, labels)
    boxes = [size * torch.tensor([[0.1, 0.1, 0.3, 0.4], [0.3, 0.2, 0.9, 0.8]])] * batch_size
    classes, crowds = [torch.zeros(2, dtype=torch.int64)] * batch_size, [torch.empty(0, 4)] * batch_size

    def loss(outputs: Any) -> Tensor:
        parts = losses(network.config, outputs, boxes, classes, crowds)
        return parts.classification + parts.box

    return loss


def inference_step(network: nn.Module, batches: list[Tensor]) -> Step:
    """Make a forward pass in evaluation mode cycling over the batches, without gradients."""
    network, following = copy.deepcopy(network).eval(), itertools.cycle(batches)

    def step() -> None:
        with torch.inference_mode():
            network(next(following))

    return step
