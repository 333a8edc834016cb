"""The interface between the loop and a task: everything that differs between classification and detection."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn


class Scored(Protocol):
    """The score on the held-out images."""

    @property
    def quality(self) -> tuple[float, ...]:
        """Figures that the best checkpoint is chosen by; larger is better, the first one counts most."""
        ...

    def row(self) -> dict[str, float]:
        """Return the columns of metrics.csv."""
        ...


class Images(Protocol):
    """A split of a data set; `classes` are their names, `description` has sentences about it."""

    @property
    def classes(self) -> list[str]: ...  # noqa: D102

    @property
    def description(self) -> Sequence[str]: ...  # noqa: D102

    def __len__(self) -> int: ...


class Task(Protocol):
    """A network, its images, its loss and its score.

    `steps_per_epoch` and `steps` count steps of the optimizer, `part` the images of a micro-batch. `notes` has a
    sentence for each setting that does not fit the training images or the length of the run. `skipped` holds the names
    of images that could not be read and were left out.
    """

    steps_per_epoch: int
    steps: int
    part: int
    notes: list[str]
    skipped: set[str]

    @property
    def train(self) -> Images:
        """The training images."""
        ...

    @property
    def held_out(self) -> Images:
        """The held-out images, which the network is scored on."""
        ...

    @property
    def network(self) -> nn.Module:
        """The network that is trained."""
        ...

    def batches(self, step: int) -> Iterator[Any]:
        """Iterate over this process's micro-batches, `recipe.accumulate` for each step, from `step` on."""
        ...

    def loss(self, model: nn.Module, batch: Any, seed: int) -> tuple[Tensor, dict[str, float]]:
        """Return the mean loss of a batch, and sums over its images whose means are columns of metrics.csv."""
        ...

    def names(self, batch: Any) -> list[str]:
        """Return the names of the images of a batch, for messages."""
        ...

    def describe(self, images: Any, index: int) -> str:
        """Return the name and the labels of an image of a split, the same for any location of the data set."""
        ...

    def score(self, model: nn.Module) -> Scored:
        """Score the held-out images, each once over all processes."""
        ...

    def save(self, directory: Path) -> None:
        """Write the network with its class names and preprocessing."""
        ...

    def summary(self, score: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the task's part of summary.json: the score at the end, and the best of the epochs' rows."""
        ...

    def draw(self, score: Any, rows: list[dict[str, Any]], directory: Path) -> None:
        """Draw the results into the run's directory."""
        ...
