"""The comparisons of the acceptance table: each measures its sides in turns."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from benchmarks.common import first_line
from benchmarks.cpu.agreement import errors_of
from benchmarks.cpu.fresh_process import NotPossibleError, in_fresh_process, peak_growth, with_avx2
from benchmarks.cpu.results import ERROR, MEGABYTES, MILLISECONDS, Measured
from benchmarks.cpu.rows import DEMO
from benchmarks.cpu.rows import TWIN as TWIN_SIDE
from benchmarks.cpu.setting import Setting
from benchmarks.cpu.workloads import (
    BASELINE,
    SIDES,
    convolution_step,
    core_step,
    inference_step,
    network,
    operator_steps,
    random_images,
    spatial_convolutions,
    training_step,
)
from sasa.nn import optimize_for_inference
from sasa.speed import Step, take_turns
from sasa.speed.pair import INFERENCE, OURS, TRAINING, TWIN, pair_of_config
from sasa.tasks.classification.config import TrainConfig

COMPILED_WARMUPS = 3  # the first call compiles, the second may compile again
RECIPE = "digits"  # what `make demo` trains


@dataclass(frozen=True)
class Comparison:
    """A comparison and the share of `Setting.seconds` that its rounds may take."""

    measure: Callable[[Setting], Measured]
    share: float = 1.0


def timed(steps: dict[str, Step], setting: Setting, *, warmups: int = 2, note: str = "") -> Measured:
    """Take turns, in milliseconds an image."""
    times = take_turns(steps, setting.rounds, setting.seconds, warmups)
    per_image = {name: [1000 * t / setting.batch for t in values] for name, values in times.items()}
    return Measured(MILLISECONDS, per_image, note)


def networks(setting: Setting, change: Callable[[nn.Module], nn.Module] = lambda model: model) -> dict[str, nn.Module]:
    """Build the network of every side, changed alike."""
    return {side: change(network(side, setting).eval()) for side in SIDES}


def inference(setting: Setting) -> Measured:
    """Measure forward passes of the networks, eager, float32."""
    images, _ = random_images(setting)
    return timed({side: inference_step(model, images) for side, model in networks(setting).items()}, setting)


def training(setting: Setting) -> Measured:
    """Measure training steps of the networks, eager, float32."""
    batch = random_images(setting)
    return timed({side: training_step(model, *batch) for side, model in networks(setting).items()}, setting)


def compiled_inference(setting: Setting) -> Measured:
    """Measure forward passes of networks compiled by torch.compile."""
    images, _ = random_images(setting)
    models = networks(setting, torch.compile)
    return _compiled({side: inference_step(model, images) for side, model in models.items()}, setting)


def compiled_training(setting: Setting) -> Measured:
    """Measure training steps of networks compiled by torch.compile; the loss is eager."""
    batch = random_images(setting)
    models = networks(setting, torch.compile)
    return _compiled({side: training_step(model, *batch) for side, model in models.items()}, setting)


def _compiled(steps: dict[str, Step], setting: Setting) -> Measured:
    torch.compiler.reset()  # earlier comparisons would count against the recompile limit
    try:
        for step in steps.values():
            step()
    except RuntimeError as error:  # compilers raise its subclasses: no C++ compiler, an unsupported graph
        raise NotPossibleError(f"torch.compile failed here: {first_line(error)}") from error
    return timed(steps, setting, warmups=COMPILED_WARMUPS - 1)


def folded(setting: Setting) -> Measured:
    """Measure forward passes with batch norms folded by `optimize_for_inference` on all sides."""
    images, _ = random_images(setting)
    models = networks(setting, optimize_for_inference)
    return timed({side: inference_step(model, images) for side, model in models.items()}, setting)


def batch_1(setting: Setting) -> Measured:
    """Measure forward passes of one image, in twice as many rounds."""
    return inference(replace(setting, batch=1, rounds=2 * setting.rounds))


def bfloat16(setting: Setting) -> Measured:
    """Measure forward passes of networks and images in bfloat16."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # torch's own loops take minutes for one call
        raise NotPossibleError("oneDNN has no bfloat16 for this CPU")
    images = random_images(setting)[0].to(torch.bfloat16)
    models = networks(setting, lambda model: model.to(torch.bfloat16))
    return timed({side: inference_step(model, images) for side, model in models.items()}, setting)


def cores(setting: Setting) -> Measured:
    """Measure all attention cores forward beside all 3 x 3 convolutions."""
    shapes = spatial_convolutions(setting)
    steps = {"cores": core_step(shapes), BASELINE: convolution_step(shapes)}
    note = "q, k and v are one channels_last map; where the convolution strides, attention pools its full result"
    return timed(steps, setting, note=note)


def operator(setting: Setting, *, backward: bool = False) -> Measured:
    """Measure the operator beside attention over unfolded windows, on the feature map of the first stage."""
    return timed(operator_steps(setting.batch, 64, setting.side // 4, backward=backward), setting, warmups=1)


def memory(setting: Setting) -> Measured:
    """Measure the growth of a new process in its first training step, a process for each side."""
    grown = {side: [in_fresh_process(training_memory, setting, side) / 1e6] for side in SIDES}
    return Measured(MEGABYTES, grown, "growth of a new process during its first training step")


def training_memory(setting: Setting, side: str) -> int:
    """Measure the bytes that a training step needs beyond the network and its batch, gradients included.

    To be called once in a process: memory that the allocator kept from an earlier step would hide a part.
    """
    return peak_growth(training_step(network(side, setting), *random_images(setting)))


def agreement(setting: Setting) -> Measured:
    """Compare the operator in float32 with the reference in float64: the worst error of each case."""
    errors, worst = errors_of(setting.cases)
    return Measured(ERROR, {"ours": errors}, worst)


def demo(setting: Setting, passed: str) -> Measured:
    """Measure the untrained network of `make demo` beside its convolutional twin, on batches of its recipe.

    In a process of its own, because like training it keeps freed memory for as long as the process lives.
    """
    config = TrainConfig.read(RECIPE)
    config.run.accelerator, config.data.workers, config.data.in_memory = "cpu", 0, False
    times = pair_of_config(config).time(passed, setting.rounds, setting.seconds)
    return Measured(MILLISECONDS, {DEMO: times[OURS], TWIN_SIDE: times[TWIN]})


demo_inference = functools.partial(demo, passed=INFERENCE)
demo_training = functools.partial(demo, passed=TRAINING)


COMPARISONS = {
    "inference": Comparison(inference),
    "training": Comparison(training),
    "avx2-inference": Comparison(with_avx2(inference)),
    "avx2-training": Comparison(with_avx2(training)),
    "demo-inference": Comparison(lambda setting: in_fresh_process(demo, setting, INFERENCE), 0.3),
    "demo-training": Comparison(lambda setting: in_fresh_process(demo, setting, TRAINING), 0.3),
    "avx2-demo-inference": Comparison(with_avx2(demo_inference), 0.3),
    "avx2-demo-training": Comparison(with_avx2(demo_training), 0.3),
    "cores": Comparison(cores, 0.5),
    "operator": Comparison(operator, 0.5),
    "operator-training": Comparison(functools.partial(operator, backward=True), 0.5),
    "memory": Comparison(memory),
    "agreement": Comparison(agreement),
    "folded": Comparison(folded, 0.5),
    "batch-1": Comparison(batch_1, 0.5),
    "bfloat16": Comparison(bfloat16, 0.5),
    "compiled-inference": Comparison(compiled_inference, 0.5),
    "compiled-training": Comparison(compiled_training, 0.5),
}
