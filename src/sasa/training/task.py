"""What the loop trains: the part that differs between classification and detection."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from sasa.data.sampler import EpochBatches
from sasa.training.settings import Config


class Scored(Protocol):
    """The result of scoring held-out images."""

    @property
    def quality(self) -> tuple[float, ...]:
        """What the best checkpoint is chosen by, more is better."""
        ...

    def row(self) -> dict[str, float]:
        """What metrics.csv holds of it."""
        ...


class Images(Protocol):
    """A data set; `classes` are their names, `description` says what was found."""

    @property
    def classes(self) -> list[str]: ...  # noqa: D102

    @property
    def description(self) -> Sequence[str]: ...  # noqa: D102

    def __len__(self) -> int: ...


class Task(Protocol):
    """A network, its images, its loss and its score.

    `steps_per_epoch` and `steps` count steps of the optimizer. `skipped` holds names of images that could not be
    read, and were left out.
    """

    steps_per_epoch: int
    steps: int
    skipped: set[str]

    @property
    def train(self) -> Images:
        """What it learns from."""
        ...

    @property
    def held_out(self) -> Images:
        """What it is scored on."""
        ...

    @property
    def network(self) -> nn.Module:
        """What is trained."""
        ...

    def batches(self, step: int) -> Iterator[Any]:
        """From a step on, the parts of each step that this process goes through."""
        ...

    def loss(self, model: nn.Module, batch: Any, seed: int) -> tuple[Tensor, dict[str, float]]:
        """The mean loss of a batch, and sums over its images that metrics.csv shall hold the means of."""
        ...

    def names(self, batch: Any) -> list[str]:
        """What a person would call the images of a batch."""
        ...

    def score(self, model: nn.Module) -> Scored:
        """Score held-out images, each once over all processes."""
        ...

    def save(self, folder: Path) -> None:
        """Write the network, with what belongs to it."""
        ...

    def summary(self, score: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """What summary.json says of the result: the score at the end, and the best of the epochs' rows."""
        ...

    def draw(self, score: Any, rows: list[dict[str, Any]], folder: Path) -> None:
        """Images of the result, for a person, in the run's folder."""
        ...


def order_of(config: Config, fabric: Any, images: int, step: int = 0, groups: Any = None) -> EpochBatches:
    """The order in which this process goes through so many training images, from `step` on."""
    return EpochBatches(
        images,
        config.recipe.batch_size,
        config.recipe.epochs,
        config.run.seed,
        step,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        accumulate=config.recipe.accumulate,
        groups=groups,
    )
