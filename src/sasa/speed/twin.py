"""The network of a run beside its convolutional twin: same sizes, recipe and data, timed in turns on real batches."""

import contextlib
import copy
import dataclasses
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sasa.errors import SasaError
from sasa.models import ResNet, ResNetConfig, RetinaNet, load_pretrained
from sasa.speed.report import markdown
from sasa.speed.stop import Stop, StopMeasuringError
from sasa.speed.timing import Spread, Step, ratios, spread, take_turns, torch_threads
from sasa.tasks.classification.config import TrainConfig
from sasa.tasks.registry import make_task, read_config
from sasa.training.memory import keep_freed_memory
from sasa.training.optim import make_optimizer
from sasa.training.processes import make_fabric
from sasa.training.run_directory import RunDirectory, environment
from sasa.training.settings import Config
from sasa.training.task import Task

ROUNDS, SECONDS = 20, 8.0  # for each of the two passes
BATCHES = 4  # of real images, gone through in turn
OURS, TWIN = "this network", "convolutional twin"
TRAINING, INFERENCE = PASSES = ("training step", "inference")


@dataclass(frozen=True)
class TwinTimes:
    """Milliseconds an image of both networks, and their ratio by round, for the training step and for inference."""

    model: str
    batch: int
    parameters: dict[str, int]
    times: dict[str, dict[str, list[float]]]
    environment: dict[str, str]

    def ratio(self, passed: str) -> Spread:
        """Ours / twin, round by round."""
        return spread(ratios(self.times[passed][OURS], self.times[passed][TWIN]))

    @property
    def missing(self) -> list[str]:
        """The passes that were not measured, because the run was stopped."""
        return [passed for passed in PASSES if passed not in self.times]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as speed.json holds them."""
        passes: dict[str, Any] = {
            passed: {
                "ours_ms_a_picture": spread(times[OURS]).median,
                "twin_ms_a_picture": spread(times[TWIN]).median,
                "ratio": dataclasses.asdict(self.ratio(passed)),
                "rounds": len(times[OURS]),
            }
            for passed, times in self.times.items()
        }
        passes |= {passed: {"not measured": "stopped"} for passed in self.missing}
        return {
            "model": self.model,
            "batch": self.batch,
            "parameters": self.parameters,
            "passes": passes,
            "environment": self.environment,
        }

    def to_text(self) -> str:
        """A table, one line for each pass."""
        lines = [["ms an image", OURS, TWIN, "ratio", "quartiles", "rounds"]]
        for passed, times in self.times.items():
            found = self.ratio(passed)
            medians = [f"{spread(times[side]).median:.3f}" for side in (OURS, TWIN)]
            quartiles, rounds = f"{found.lower:.2f} to {found.upper:.2f}", str(len(times[OURS]))
            lines.append([passed, *medians, f"{found.median:.2f}", quartiles, rounds])
        lines += [[passed, "-", "-", "-", "-", "not measured: stopped"] for passed in self.missing]
        lines.append(["parameters", *(f"{self.parameters[side]:,}" for side in (OURS, TWIN)), "", "", ""])
        return f"{self.model} and its twin of convolutions, batches of {self.batch}:\n\n{markdown(lines)}"


@dataclass(frozen=True)
class Pair:
    """A network and its convolutional twin, with the batches, the loss and the recipe that both are timed on."""

    ours: ResNet | RetinaNet
    twin: ResNet | RetinaNet
    task: Task
    config: Config
    batches: list[Any]

    @classmethod
    def make(cls, config: Config, ours: ResNet | RetinaNet | None = None) -> "Pair":
        """Open the config's data. Without `ours`, the network is the one that a run of the config would begin with."""
        keep_freed_memory()  # as in training
        task = make_task(config, make_fabric(config.run))
        ours = ours or task.network  # pyright: ignore[reportAssignmentType]
        assert isinstance(ours, ResNet | RetinaNet)
        pair = cls(ours, twin(ours), task, config, first_batches(task, config))
        if config.run.channels_last:
            for network in pair.networks.values():
                network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return pair

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Both, by side."""
        return {OURS: self.ours, TWIN: self.twin}

    def time(self, passed: str, rounds: int, seconds: float) -> dict[str, list[float]]:
        """Milliseconds an image of both sides, round by round, in a training step or in inference."""
        steps = {side: self._step(passed, network) for side, network in self.networks.items()}
        size = len(self.batches[0])
        times = take_turns(steps, rounds, seconds)
        return {side: [1000 * t / size for t in values] for side, values in times.items()}

    def _step(self, passed: str, network: nn.Module) -> Step:
        if passed == INFERENCE:
            return inference_step(network, self.batches)
        return training_step(network, self.batches, self.task, self.config)


def time_beside_twin(
    path: Path,
    rounds: int | None = None,
    threads: int | None = None,
    stop: Stop | None = None,
    say: Callable[[str], object] = lambda sentence: None,
) -> TwinTimes:
    """Time the network of the run in `path` and its twin on the run's own data; written to speed.json there.

    Both take the same training batches in turns, in float32 with the run's layout, loss and optimizer, on the CPU.

    Args:
        path: of the run.
        rounds: turns of each side, at most.
        threads: of torch; None for as many as it has.
        stop: what may end it early: the result then has the passes that were measured.
        say: gets a line before anything is measured.

    Raises:
        SasaError: no run, or one whose network has no attention.
    """
    config = _config_of(path)
    pair = Pair.make(config, load_pretrained(path))
    parameters = {side: sum(p.numel() for p in network.parameters()) for side, network in pair.networks.items()}
    result = TwinTimes(pair.ours.name, len(pair.batches[0]), parameters, {}, environment())
    stop = stop or Stop()
    with torch_threads(threads), contextlib.suppress(StopMeasuringError):
        for passed in PASSES:
            say(f"{passed}, about {SECONDS:.0f} s")
            with stop.measuring():
                times = pair.time(passed, rounds or ROUNDS, SECONDS)
            result.times[passed] = times
            RunDirectory(path).write_text("speed.json", json.dumps(result.to_dict(), indent=2) + "\n")
    return result


def _config_of(path: Path) -> Config:
    """The run's own, on the CPU in one process, with the batches that each of its processes had."""
    if not (path / "config.yaml").is_file():
        raise SasaError(f"{path} is no run: its config.yaml, which says what to time it on, is missing")
    config = read_config(path / "config.yaml").without_initial_weights()
    config.run.accelerator, config.run.precision, config.data.workers = "cpu", "32-true", 0
    if isinstance(config, TrainConfig):
        config.data.in_memory = False  # a few batches are wanted, not all images
    summary = path / "summary.json"
    processes = json.loads(summary.read_text()).get("processes", 1) if summary.is_file() else 1
    config.recipe.batch_size //= processes
    return config


def twin(network: ResNet | RetinaNet) -> ResNet | RetinaNet:
    """The same network with a 3 x 3 convolution wherever it has attention, freshly initialised.

    In blocks, pyramid and heads by its config. The attention stem becomes the paper's convolutional one where both
    reduce the image four times, and else a 3 x 3 convolution, batch norm, ReLU and a max pool over the stem's blocks,
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
            network(next(following).images)

    return step
