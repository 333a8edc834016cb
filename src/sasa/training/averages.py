"""Averages over the steps of a run: of the weights, and of batch norm's statistics.

The paper averages both with a decay of 0.9999 a step, over 130 epochs of ImageNet: about the last 10,000 of 39,035
steps. In a short run such a share harms: it cost up to 6 points of accuracy. "auto" covers the last fiftieth, which
stayed within 0.2 points of the weights of the last step in every run that was measured (docs/choices.md).

torch.optim.swa_utils is not used. `AveragedModel` gives the same bits with the decay below, but averages a deep copy of
the network: the compiled or distributed model could not be scored with the averaged weights, and batch norm's buffers
would be stored twice in every checkpoint. `update_bn` needs another pass over the training images.
"""
# pyright: reportPrivateImportUsage=false
# torch's own optimizers and timm's averages use these operations on lists of tensors, which have no public names.

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

AUTO_SHARE = 0.02  # of a run's steps
LEAST_STEPS = 10  # fewer are not worth an average of the weights; torch's batch norm covers ten


def decay_of(value: float | str, steps: int) -> float:
    """Return the decay of the weights' average: `value`, or for "auto" that over a share of the run's `steps`.

    It is 0, no average, for "auto" where the share is below `LEAST_STEPS`.
    """
    if not isinstance(value, str):
        return value
    return 1 - 1 / (AUTO_SHARE * steps) if AUTO_SHARE * steps >= LEAST_STEPS else 0.0


def momentum_of(value: float | str, steps: int) -> float:
    """Return batch norm's momentum: `value`, or for "auto" that over as many of the run's `steps` as the weights."""
    return 1 / max(AUTO_SHARE * steps, LEAST_STEPS) if isinstance(value, str) else value


def warmed_up(decay: float, step: int) -> float:
    """Return the decay at `step`, reduced at first so that the average covers at most half of the steps so far.

    (The usual warm-up, (1 + step) / (10 + step), would cover a ninth of them.)
    """
    return min(decay, step / (step + 2))


class WeightAverage:
    """Exponential moving average of a network's parameters.

    Batch norm's running statistics are not averaged here: they are averages already, with "auto" over the same steps,
    and averaged twice they would lag behind the weights.

    Args:
        network: its parameters are read in place at each update.
        decay: share of the average that is kept at each step; 0 for no average.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach() for name, p in network.named_parameters()} if decay else {}
        self.averages = {name: tensor.clone() for name, tensor in self.weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after step number `step`, counted from 0."""
        if self.decay:
            part = 1 - warmed_up(self.decay, step)
            torch._foreach_lerp_(list(self.averages.values()), list(self.weights.values()), part)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the network the averaged weights inside the block, and its own back after it."""
        own = {name: tensor.clone() for name, tensor in self.weights.items()}
        self._copy_to_network(self.averages)
        try:
            yield
        finally:
            self._copy_to_network(own)

    def finish(self) -> None:
        """Give the network the averaged weights for good."""
        self._copy_to_network(self.averages)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages by parameter name; empty without a decay."""
        return self.averages

    def load_state_dict(self, averages: dict[str, Tensor]) -> None:
        """Restore averages that `state_dict` returned."""
        for name, tensor in self.averages.items():
            tensor.copy_(averages[name])

    @torch.no_grad()
    def _copy_to_network(self, tensors: dict[str, Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.copy_(tensors[name])


class BatchNormAverages:
    """Batch norm's running statistics, updated once a step with the mean over its micro-batches and processes.

    Until `release`, a forward pass leaves the statistics of its own batch in the norms (momentum 1). So the running
    statistics do not depend on how a step is divided, a block that gradient checkpointing computes twice does not
    update them twice, and the momentum can change from step to step under a compiler.

    Args:
        network: its `nn.BatchNorm2d` modules are controlled until `release`.
        momentum: share of a step's statistics in the running ones.
    """

    def __init__(self, network: nn.Module, momentum: float) -> None:
        self.momentum = momentum
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.running_mean is not None]
        self.original = [(norm, norm.momentum) for norm in norms]
        self.running: list[Tensor] = [t for norm in norms for t in (norm.running_mean, norm.running_var)]  # pyright: ignore
        self.averages = [tensor.clone() for tensor in self.running]
        self.totals = [torch.zeros_like(tensor) for tensor in self.running]
        self.parts = 0
        for norm in norms:
            norm.momentum = 1.0

    def collect(self) -> None:
        """Add the statistics of a forward pass to those of the step."""
        if self.running:
            torch._foreach_add_(self.totals, self.running)
            self.parts += 1

    def update(self, step: int, mean_over_processes: Callable[[Tensor], Tensor] | None = None) -> None:
        """Update the running statistics after step number `step`, counted from 0."""
        if not self.running:
            return
        torch._foreach_div_(self.totals, float(self.parts))
        if mean_over_processes:
            flat = mean_over_processes(torch.cat(self.totals))
            torch._foreach_copy_(self.totals, list(flat.split([len(t) for t in self.totals])))
        torch._foreach_lerp_(self.averages, self.totals, 1 - warmed_up(1 - self.momentum, step))
        torch._foreach_copy_(self.running, self.averages)
        torch._foreach_zero_(self.totals)
        self.parts = 0

    def restart(self) -> None:
        """Continue from the statistics in the network, after its state was loaded."""
        torch._foreach_copy_(self.averages, self.running)

    def release(self) -> None:
        """Restore the norms' own momentum."""
        for norm, momentum in self.original:
            norm.momentum = momentum
