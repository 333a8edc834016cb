"""What a run tells a person while it goes: the bar or lines on the terminal, and the logs in its folder."""

from typing import Any

from sasa.training.progress import Progress
from sasa.training.run_directory import RunFolder
from sasa.training.settings import RunConfig
from sasa.training.step_log import StepLog


class Reports:
    """The first process's reports; in other processes it says nothing.

    Args:
        folder: of the run.
        progress: on the terminal, None for silence there.
        run: how often to log what.
        step: where the run stands.
        silent: whether this is another process.
    """

    def __init__(
        self, folder: RunFolder, progress: Progress | None, run: RunConfig, step: int, silent: bool = False
    ) -> None:
        self.folder, self.silent = folder, silent
        self.progress = None if silent else progress
        self.log = None if silent else StepLog(folder.path, step, run.log_steps, run.tensorboard)

    def step(self, step: int, learning_rate: float, loss: float, images_per_second: float) -> None:
        """After a step."""
        if self.progress:
            self.progress.step(step, loss, images_per_second)
        if self.log:
            self.log.step(step, learning_rate, loss, images_per_second)

    def epoch(self, rows: list[dict[str, Any]]) -> None:
        """After an epoch; the last row is its own."""
        if self.progress:
            self.progress.epoch(rows[-1])
        if self.log:
            self.log.epoch(rows[-1])
            self.folder.write_metrics(rows)

    def flush(self) -> None:
        """Bring to the disk what was logged."""
        if self.log:
            self.log.flush()

    def close(self) -> None:
        """End the logs."""
        if self.progress:
            self.progress.close()
        if self.log:
            self.log.close()
