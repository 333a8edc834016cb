"""The comparisons: each measures all its sides in turns and gives the numbers that rows are made of."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from sasa.nn import optimize_for_inference
from sasa.speed.agreement import errors_of
from sasa.speed.comparison import ERROR, MEGABYTES, MILLISECONDS, Group, Measured, NotMeasuredError
from sasa.speed.instruction_sets import held_at_avx2
from sasa.speed.isolated import in_a_process, training_memory
from sasa.speed.setting import Setting
from sasa.speed.timing import Step, take_turns
from sasa.speed.workloads import (
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

COMPILED_WARMUPS = 3  # the first call compiles, the second may find that it must compile again


def timed(steps: dict[str, Step], setting: Setting, *, warmups: int = 2, note: str = "") -> Measured:
    """Take turns, in milliseconds an image."""
    times = take_turns(steps, setting.rounds, setting.seconds, warmups)
    per_image = {name: [1000 * t / setting.batch for t in values] for name, values in times.items()}
    return Measured(MILLISECONDS, per_image, note)


Change = Callable[[nn.Module], nn.Module]


def networks(setting: Setting, change: Change | None = None) -> dict[str, nn.Module]:
    """All sides by name, changed alike."""
    models = {side: network(side, setting).eval() for side in SIDES}
    return {side: change(model) for side, model in models.items()} if change else models


def inference(setting: Setting) -> Measured:
    """Forward passes of the networks, eager, float32."""
    images, _ = random_images(setting)
    return timed({side: inference_step(model, images) for side, model in networks(setting).items()}, setting)


def training(setting: Setting) -> Measured:
    """Training steps of the networks, eager, float32."""
    batch = random_images(setting)
    return timed({side: training_step(model, *batch) for side, model in networks(setting).items()}, setting)


def compiled_inference(setting: Setting) -> Measured:
    """Forward passes through torch.compile."""
    images, _ = random_images(setting)
    models = networks(setting, torch.compile)  # pyright: ignore[reportArgumentType]
    return _compiled({side: inference_step(model, images) for side, model in models.items()}, setting)


def compiled_training(setting: Setting) -> Measured:
    """Training steps through torch.compile: the network is compiled, the loss is not."""
    batch = random_images(setting)
    models = networks(setting, torch.compile)  # pyright: ignore[reportArgumentType]
    return _compiled({side: training_step(model, *batch) for side, model in models.items()}, setting)


def _compiled(steps: dict[str, Step], setting: Setting) -> Measured:
    torch.compiler.reset()  # what earlier comparisons compiled must not count against the limit of variants
    try:
        for step in steps.values():
            step()
    except RuntimeError as error:  # compilers fail with its subclasses: no C++ compiler, a graph they cannot take
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NotMeasuredError(f"torch.compile failed here: {line}") from error
    return timed(steps, setting, warmups=COMPILED_WARMUPS - 1)


def folded(setting: Setting) -> Measured:
    """Forward passes with batch norm folded into convolutions by `optimize_for_inference`, on all sides."""
    images, _ = random_images(setting)
    models = networks(setting, optimize_for_inference)
    return timed({side: inference_step(model, images) for side, model in models.items()}, setting)


def batch_1(setting: Setting) -> Measured:
    """Forward passes of one image."""
    return inference(replace(setting, batch=1, rounds=2 * setting.rounds))  # short calls scatter more


def bfloat16(setting: Setting) -> Measured:
    """Forward passes of networks and images in bfloat16."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # torch's own loops would take minutes for one call
        raise NotMeasuredError("oneDNN has no bfloat16 for this CPU")
    images = random_images(setting)[0].to(torch.bfloat16)
    models = networks(setting, lambda model: model.to(torch.bfloat16))
    return timed({side: inference_step(model, images) for side, model in models.items()}, setting)


def cores(setting: Setting) -> Measured:
    """All attention cores forward beside all 3 x 3 convolutions."""
    shapes = spatial_convolutions(setting)
    steps = {"cores": core_step(shapes), BASELINE: convolution_step(shapes)}
    note = "q, k and v given as one channels_last map; where the convolution strides, attention pools its full result"
    return timed(steps, setting, note=note)


def operator(setting: Setting) -> Measured:
    """The operator beside attention over unfolded windows, forward, on the map of the first group."""
    return timed(operator_steps(setting.batch, 64, setting.side // 4, backward=False), setting, warmups=1)


def operator_training(setting: Setting) -> Measured:
    """The same, forward and backward."""
    return timed(operator_steps(setting.batch, 64, setting.side // 4, backward=True), setting, warmups=1)


def memory(setting: Setting) -> Measured:
    """Growth of a fresh process in its first training step, one process for each side."""
    grown = {side: [in_a_process(training_memory, setting, side=side).result / 1e6] for side in SIDES}
    return Measured(MEGABYTES, grown, "growth of a fresh process during its first training step")


def agreement(setting: Setting) -> Measured:
    """The operator in float32 beside the reference in float64: the worst error of each case."""
    errors, worst = errors_of(setting.cases)
    return Measured(ERROR, {"ours": errors}, worst)


# Overheads of memory, agreement and compiled-inference were measured ("seconds" of the JSON; AMD EPYC, 2 cores,
# AVX-512, 2026-11-27); the others are estimates. They only tell a user how long to wait.
GROUPS = {
    "inference": Group(inference),
    "training": Group(training),
    "avx2-inference": Group(held_at_avx2(inference), overhead=10),
    "avx2-training": Group(held_at_avx2(training), overhead=10),
    "cores": Group(cores, patience=0.5),
    "operator": Group(operator, patience=0.5),
    "operator-training": Group(operator_training, patience=0.5),
    "memory": Group(memory, patience=0, overhead=20),
    "agreement": Group(agreement, patience=0, overhead=6),
    "folded": Group(folded, patience=0.5),
    "batch-1": Group(batch_1, patience=0.5),
    "bfloat16": Group(bfloat16, patience=0.5),
    "compiled-inference": Group(compiled_inference, patience=0.5, overhead=25),
    "compiled-training": Group(compiled_training, patience=0.5, overhead=60),
}
