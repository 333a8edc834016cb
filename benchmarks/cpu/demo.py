"""Rows of the acceptance table that need a recipe: the network of `make demo` beside its convolutional twin.

The network is a new one, as a run would begin with: how long a step takes does not depend on what was learned. Each
comparison runs in a process of its own, because training keeps freed memory for as long as a process lives.
"""

import functools

from sasa.speed.comparison import MILLISECONDS, Compare, Group, Measured
from sasa.speed.instruction_sets import held_at_avx2
from sasa.speed.isolated import in_a_process
from sasa.speed.rows import DEMO
from sasa.speed.rows import TWIN as TWIN_SIDE
from sasa.speed.setting import Setting
from sasa.speed.twin import INFERENCE, OURS, TRAINING, TWIN, Pair
from sasa.tasks.classification.config import TrainConfig

RECIPE = "digits"  # what `make demo` trains


def inference(setting: Setting) -> Measured:
    """Forward passes of both networks over batches of the recipe, in this process."""
    return _measured(INFERENCE, setting)


def training(setting: Setting) -> Measured:
    """Whole training steps of the recipe, in this process."""
    return _measured(TRAINING, setting)


def _measured(passed: str, setting: Setting) -> Measured:
    config = TrainConfig.read(RECIPE)
    config.run.accelerator, config.data.workers, config.data.in_memory = "cpu", 0, False
    times = Pair.make(config).time(passed, setting.rounds, setting.seconds)
    return Measured(MILLISECONDS, {DEMO: times[OURS], TWIN_SIDE: times[TWIN]})


def in_its_own_process(compare: Compare) -> Compare:
    """The same comparison in a fresh process. `compare` is a function of a module."""

    @functools.wraps(compare)
    def isolated(setting: Setting) -> Measured:
        return Measured(**in_a_process(compare, setting).result)

    return isolated


PATIENCE, OVERHEAD = 0.3, 12.0  # its steps are short; importing and reading the digits take longer
DEMO_GROUPS = {
    "demo-inference": Group(in_its_own_process(inference), PATIENCE, OVERHEAD),
    "demo-training": Group(in_its_own_process(training), PATIENCE, OVERHEAD),
    "avx2-demo-inference": Group(held_at_avx2(inference), PATIENCE, OVERHEAD),
    "avx2-demo-training": Group(held_at_avx2(training), PATIENCE, OVERHEAD),
}
