"""Averages over the steps of a run: of the weights, and of batch norm's statistics.

The paper averages both with a decay of 0.9999 a step, over 130 epochs of ImageNet in batches of 4,096. Such an average
looks back over about 10,000 of 39,035 steps, a quarter of the run. "auto" takes the same share of any run, so that
short runs do not end with the average of their beginning.
"""
# pyright: reportPrivateImportUsage=false
# torch's own optimizers and timm's averages work with these operations on lists of tensors; their names have no others.

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

PAPER_DECAY = 0.9999
PAPER_STEPS = 130 * (1_281_167 * 96 // 100) // 4096  # 4 % of ImageNet's training images were held out


def decay_of(value: float | str, steps: int) -> float:
    """A decay a step: `value` itself, or for "auto" the paper's scaled to a run of `steps` steps."""
    if isinstance(value, str):
        window = steps / PAPER_STEPS / (1 - PAPER_DECAY)
        return 1 - 1 / max(window, 1.0)
    return value


def warmed_up(decay: float, step: int) -> float:
    """The decay at `step`: at first an average looks back over half of the steps so far, and then over its own window.

    (The usual warm-up, (1 + step) / (10 + step), would look back over a ninth, and never reach "auto".)
    """
    return min(decay, step / (step + 2))


class WeightAverage:
    """The exponential moving average of a network's parameters.

    Batch norm's running statistics are averages already, and by "auto" over the same steps: averaged twice they would
    lag behind the weights.

    Args:
        network: its tensors are followed where they lie.
        decay: share of the average that is kept at each step, 0 for no average at all.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach() for name, p in network.named_parameters()} if decay else {}
        self.averages = {name: tensor.clone() for name, tensor in self.weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step number `step`, counted from 0."""
        if self.decay:
            part = 1 - warmed_up(self.decay, step)
            torch._foreach_lerp_(list(self.averages.values()), list(self.weights.values()), part)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the network has the averages for weights."""
        kept = {name: tensor.clone() for name, tensor in self.weights.items()}
        self._put(self.averages)
        try:
            yield
        finally:
            self._put(kept)

    def finish(self) -> None:
        """Put the averages into the network for good."""
        self._put(self.averages)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by name."""
        return self.averages

    def load_state_dict(self, averages: dict[str, Tensor]) -> None:
        """Take averages that `state_dict` gave."""
        for name, tensor in self.averages.items():
            tensor.copy_(averages[name])

    @torch.no_grad()
    def _put(self, tensors: dict[str, Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.copy_(tensors[name])


class BatchNormAverages:
    """Batch norm's running statistics, moved once a step by the mean over the step's parts and processes.

    While this is at work a forward pass leaves the statistics of its own batch in the norms (momentum 1). So they do
    not depend on how a step is cut into parts; a block that is computed twice does not move them twice; and the share
    of a batch can change from step to step under a compiler.

    Args:
        network: its `nn.BatchNorm2d`s are taken over until `release`.
        momentum: share of a step's statistics in the running ones.
    """

    def __init__(self, network: nn.Module, momentum: float) -> None:
        self.momentum = momentum
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.running_mean is not None]
        self.before = [(norm, norm.momentum) for norm in norms]
        self.running: list[Tensor] = [t for norm in norms for t in (norm.running_mean, norm.running_var)]  # pyright: ignore
        self.averages = [tensor.clone() for tensor in self.running]
        self.totals = [torch.zeros_like(tensor) for tensor in self.running]
        self.parts = 0
        for norm in norms:
            norm.momentum = 1.0

    def collect(self) -> None:
        """After a forward pass: note its statistics."""
        if self.running:
            torch._foreach_add_(self.totals, self.running)
            self.parts += 1

    def update(self, step: int, mean_over_processes: Callable[[Tensor], Tensor] | None = None) -> None:
        """After a step, counted from 0: move the averages, and put them into the network."""
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

    def take(self) -> None:
        """Go on from the statistics that the network has: after loading it."""
        torch._foreach_copy_(self.averages, self.running)

    def release(self) -> None:
        """Give the norms their own momentum back."""
        for norm, momentum in self.before:
            norm.momentum = momentum
