"""Comparisons beyond the acceptance table: layers, batch sizes, windows, map sizes, threads, FlexAttention, detectors.

    python -m benchmarks.cpu.full                             # all parts: `make bench-full`
    python -m benchmarks.cpu.full operator --backend eager    # one part, one back-end
    python -m benchmarks.cpu.full layers window --json results.json

Every line is one comparison whose sides take turns in one process; medians of milliseconds an image. A line is printed
and saved as soon as it is measured; Ctrl-C and SIGTERM end the run and keep what was measured.
"""

import argparse
import functools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import Line, describe_machine, first_line, in_words, plain, table_of
from benchmarks.cpu.ceilings import Ceilings, measure_ceilings
from benchmarks.cpu.comparisons import COMPARISONS
from benchmarks.cpu.results import KILLED
from benchmarks.cpu.setting import Setting
from benchmarks.cpu.workloads import (
    BASELINE,
    HEADS,
    OURS,
    WINDOW,
    attention_core,
    flex_attention,
    operator_inputs,
    operator_steps,
    random_map,
    spatial_convolutions,
)
from sasa.files import atomic_write
from sasa.models import RetinaNet, create_model
from sasa.models.boxes import losses
from sasa.ops import flops as op_flops
from sasa.ops import local_attention
from sasa.ops.arguments import LocalForward, LocalInputs, LocalOptions
from sasa.speed import Step, Stop, StopMeasuringError, ratios, spread, take_turns, torch_threads
from sasa.threads import cores

STAGE_MAPS = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels, side: the four stages of ResNet-50 at 224 x 224
PASSES = {"forward": False, "forward + backward": True}
IMAGE = (320, 416)  # height and width of the detectors' images
# A convolutional detector and those with attention, their common options, and the batch size.
DETECTORS: tuple[tuple[tuple[str, ...], dict[str, Any], int], ...] = (
    (("resnet26", "sasa_resnet26", "sasa_resnet26_attnheads"), {"width": 0.25, "num_heads": 2}, 4),
    (("resnet26", "sasa_resnet26", "sasa_resnet26_attnheads"), {"width": 0.5, "num_heads": 4}, 4),
    (("resnet50", "sasa_resnet50", "sasa_resnet50_attnheads", "sasa_resnet50_attn"), {}, 1),
)


@dataclass(frozen=True)
class Bench:
    """What every part is given: the setting, the ceilings of the machine, and the back-end of operator and cores."""

    setting: Setting
    ceilings: Ceilings
    backend: str


def layer_step(layer: nn.Module, x: Tensor, backward: bool) -> Step:
    """Make a forward pass of a layer, with the gradients of input and parameters if `backward`."""
    x = x.detach().requires_grad_(backward)
    with torch.no_grad():
        grad_output = torch.randn_like(layer(x))
    wanted = [x, *layer.parameters()]

    def step() -> None:
        with torch.set_grad_enabled(backward):
            output = layer(x)
            if backward:
                torch.autograd.grad(output, wanted, grad_output)

    return step


def milliseconds(steps: dict[str, Step], setting: Setting, images: int) -> dict[str, list[float]]:
    """Take turns, in milliseconds an image."""
    times = take_turns(steps, setting.rounds, setting.seconds)
    return {side: [1000 * t / images for t in values] for side, values in times.items()}


def core_flops(batch: int, channels: int, side: int, window: int) -> int:
    """Count the FLOPs of an attention core, forward, 2 for each multiply-add."""
    qkv = torch.empty(batch, channels, side, side, device="meta")
    rel = torch.empty(HEADS, window, channels // HEADS // 2, device="meta")
    options = LocalOptions(window, HEADS, "zeros", 1.0)
    return op_flops.local_attention(LocalForward(LocalInputs(qkv, qkv, qkv, rel, rel), options))


def rate(flops: float, milliseconds_an_image: float, ceilings: Ceilings) -> Line:
    """Compute GFLOP/s of a forward pass, and its share of the measured peak."""
    a_second = 1000 * flops / milliseconds_an_image
    return {"GFLOP/s": a_second / 1e9, "of peak": None if ceilings.flops is None else a_second / ceilings.flops}


# The parts: each yields the lines of its table


def operator(bench: Bench) -> Iterator[Line]:
    """The operator beside attention over unfolded windows, on the map of each stage."""
    for channels, side in STAGE_MAPS:
        for name, backward in PASSES.items():
            steps = operator_steps(bench.setting.batch, channels, side, backward=backward, backend=bench.backend)
            times = milliseconds(steps, bench.setting, bench.setting.batch)
            yield {
                "map": f"{side} x {side} x {channels}",
                "pass": name,
                "unfold": spread(times["unfold"]).median,
                bench.backend: spread(times["ours"]).median,
                "times faster": spread(ratios(times["unfold"], times["ours"])).median,
            }


def layers(bench: Bench) -> Iterator[Line]:
    """Every attention core of ResNet-50 beside the 3 x 3 convolution that it replaces."""
    shapes = {(shape[1], shape[2], conv.stride[0]): None for conv, shape in spatial_convolutions(bench.setting)}
    for channels, side, stride in shapes:
        core = attention_core(channels, stride, backend=bench.backend)
        conv = nn.Conv2d(channels, channels, 3, stride, 1, bias=False).to(memory_format=torch.channels_last)
        maps = {"core": random_map((bench.setting.batch, 3 * channels, side, side))}
        maps["convolution"] = random_map((bench.setting.batch, channels, side, side))
        flops = core_flops(1, channels, side, WINDOW)
        for name, backward in PASSES.items():
            steps = {
                "core": layer_step(core, maps["core"], backward),
                "convolution": layer_step(conv, maps["convolution"], backward),
            }
            times = milliseconds(steps, bench.setting, bench.setting.batch)
            ours = spread(times["core"]).median
            yield {
                "map": f"{side} x {side} x {channels}" + (", stride 2" if stride == 2 else ""),
                "pass": name,
                "core": ours,
                "3 x 3 convolution": spread(times["convolution"]).median,
                "ratio": spread(ratios(times["core"], times["convolution"])).median,
                **({} if backward else rate(flops, ours, bench.ceilings)),
            }


def batches(bench: Bench) -> Iterator[Line]:
    """The networks at batch 1, 8 and 32."""
    for batch in (1, 8, 32):
        for name in ("inference", "training"):
            yield from network_lines(name, replace(bench.setting, batch=batch), {"batch": batch})


def network_lines(name: str, setting: Setting, first: Line) -> Iterator[Line]:
    """Make a comparison of the acceptance table at another setting."""
    values = COMPARISONS[name].measure(setting).values
    for side in OURS:
        yield {
            **first,
            "pass": name,
            "network": OURS[side],
            "ours": spread(values[side]).median,
            "torchvision resnet50": spread(values[BASELINE]).median,
            "ratio": spread(ratios(values[side], values[BASELINE])).median,
        }


def window(bench: Bench) -> Iterator[Line]:
    """Growth with the side of the window, 3 to 11."""
    for channels, side in (STAGE_MAPS[0], STAGE_MAPS[2]):
        x = random_map((bench.setting.batch, 3 * channels, side, side))
        for name, backward in PASSES.items():
            sizes = (3, 5, 7, 9, 11)
            sized = {f"{k}": attention_core(channels, 1, k, bench.backend) for k in sizes}
            steps = {k: layer_step(core, x, backward) for k, core in sized.items()}
            for k, values in milliseconds(steps, bench.setting, bench.setting.batch).items():
                ours = spread(values).median
                flops = core_flops(1, channels, side, int(k))
                line = {"map": f"{side} x {side} x {channels}", "pass": name, "window": int(k), "core": ours}
                yield {**line, **({} if backward else rate(flops, ours, bench.ceilings))}


def size(bench: Bench) -> Iterator[Line]:
    """Growth with the side of the map, 32 to 512, one image of 64 channels."""
    channels = 64
    core = attention_core(channels, 1, backend=bench.backend)
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
    for side in (32, 64, 128, 256, 512):
        steps = {
            "core": layer_step(core, random_map((1, 3 * channels, side, side)), False),
            "convolution": layer_step(conv, random_map((1, channels, side, side)), False),
        }
        times = milliseconds(steps, bench.setting, 1)
        ours = spread(times["core"]).median
        yield {
            "side": side,
            "core": ours,
            "3 x 3 convolution": spread(times["convolution"]).median,
            "ratio": spread(ratios(times["core"], times["convolution"])).median,
            "ns a pixel": 1e6 * ours / side**2,
            **rate(core_flops(1, channels, side, WINDOW), ours, bench.ceilings),
        }


def threads(bench: Bench) -> Iterator[Line]:
    """The networks on 1, 2, 4, ... threads, up to the number of cores."""
    counts = [2**n for n in range(cores().bit_length()) if 2**n <= cores()]
    for count in sorted({*counts, cores()}):
        with torch_threads(count):
            for name in ("inference", "training"):
                yield from network_lines(name, bench.setting, {"threads": count})


def flex(bench: Bench) -> Iterator[Line]:
    """FlexAttention, compiled, with a block mask and q.r as a score bias: forward, padding="mask"."""
    for channels, side in STAGE_MAPS:
        ours, _ = operator_inputs(bench.setting.batch, channels, side)
        options: Any = {"kernel_size": WINDOW, "num_heads": HEADS, "padding": "mask", "backend": bench.backend}
        line = {"map": f"{side} x {side} x {channels}"}
        try:
            flex_step = torch.no_grad()(functools.partial(flex_attention(side), *ours))
            want = local_attention(*ours, **options)
            error = ((flex_step() - want).norm() / want.norm()).item()
        except Exception as reason:  # a compiler may raise anything
            yield {**line, "FlexAttention": f"does not run: {first_line(reason)}"}
            continue
        steps = {"flex": flex_step, "ours": torch.no_grad()(functools.partial(local_attention, *ours, **options))}
        times = milliseconds(steps, bench.setting, bench.setting.batch)
        yield {
            **line,
            "FlexAttention": spread(times["flex"]).median,
            bench.backend: spread(times["ours"]).median,
            "times faster": spread(ratios(times["flex"], times["ours"])).median,
            "they differ by": f"{error:.0e}",
        }


def detectors(bench: Bench) -> Iterator[Line]:
    """RetinaNet with attention in backbone, heads and pyramid beside the convolutional one."""
    for names, options, most in DETECTORS:
        batch = min(most, bench.setting.batch)
        for name, backward in {"inference": False, "training": True}.items():
            steps = {model: detector_step(f"retinanet_{model}", options, batch, backward) for model in names}
            times = milliseconds(steps, bench.setting, batch)
            for model in names[1:]:
                yield {
                    "pass": name,
                    "width": options.get("width", 1),
                    "batch": batch,
                    "detector": f"retinanet_{model}",
                    "ours": spread(times[model]).median,
                    "convolution": spread(times[names[0]]).median,
                    "ratio": spread(ratios(times[model], times[names[0]])).median,
                }


def detector_step(name: str, options: dict[str, Any], batch: int, backward: bool) -> Step:
    """Make a forward pass of a detector on random images, or a training step with seven boxes in each image."""
    torch.manual_seed(0)
    network = create_model(name, num_classes=80, **options).to(memory_format=torch.channels_last).train(backward)
    assert isinstance(network, RetinaNet)
    images = torch.randn(batch, 3, *IMAGE).contiguous(memory_format=torch.channels_last)
    corners = torch.rand(batch, 7, 2) * torch.tensor([IMAGE[1] / 2, IMAGE[0] / 2])
    boxes = list(torch.cat((corners, corners + torch.linspace(24, 160, 7)[:, None]), 2))
    labels = list(torch.randint(80, (batch, 7)))

    def step() -> None:
        if not backward:
            with torch.inference_mode():
                network(images)
            return
        network.zero_grad(set_to_none=True)
        found = losses(network.config, network(images), boxes, labels, [torch.empty(0, 4)] * batch)
        (found.classification + found.box).backward()

    return step


PARTS = {part.__name__: part for part in (operator, layers, batches, window, size, threads, flex, detectors)}


def lines_of(lines: Iterator[Line], stop: Stop) -> Iterator[Line]:
    """Yield the lines of a part, and a last one with a note if it fails."""
    while True:
        try:
            with stop.measuring():
                line = next(lines, None)
        except Exception as error:  # the other parts are still measured
            line, lines = {"note": f"failed: {first_line(error)}"}, iter(())
        if line is None:
            return
        yield line


def to_text(found: dict[str, Any]) -> str:
    """Format all parts as Markdown."""
    about, setting = found["machine"], found["setting"]
    parts = [f"{about['cpu']}, torch {about['torch']}, ms an image, medians of at most {setting['rounds']}"]
    parts += [str(Ceilings(**found["ceilings"]))] if found["ceilings"] else []
    if found["stopped"]:
        parts.append(f"The run was stopped: {found['stopped']}. Missing lines were not measured.")
    for name, lines in found["parts"].items():
        table = table_of(lines) if lines else "not measured: stopped" if found["stopped"] else "nothing to measure"
        parts.append(f"## {name}: {PARTS[name].__doc__}\n\n{table}")
    return "\n\n".join(parts) + "\n"


def measure(words: argparse.Namespace, setting: Setting, stop: Stop) -> dict[str, Any]:
    """Measure the parts, and print and save each line as soon as it is measured."""
    found: dict[str, Any] = {"machine": describe_machine(), "setting": setting.to_dict(), "ceilings": None}
    found |= {"stopped": KILLED, "parts": {name: [] for name in words.parts or PARTS}}

    def save() -> None:
        if words.json:
            atomic_write(words.json, (json.dumps(plain(found), indent=2) + "\n").encode())
        if words.markdown:
            atomic_write(words.markdown, to_text(found).encode())

    save()
    try:
        with stop.measuring():
            ceilings = measure_ceilings(setting.threads)
        found["ceilings"] = asdict(ceilings)
        for name, lines in found["parts"].items():
            print(f"\n{name}: a comparison takes at most about {setting.seconds:.0f} s", flush=True)
            for line in lines_of(PARTS[name](Bench(setting, ceilings, words.backend)), stop):
                lines.append(line)
                print(in_words(line), flush=True)
                save()
        found["stopped"] = None
    except StopMeasuringError as stopped:
        found["stopped"] = str(stopped)
    save()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts named on the command line, print their tables, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} [default: all]")
    parser.add_argument("--backend", default="auto", help="of the operator and the cores (networks use auto)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="few rounds and a batch of 1, to try the command")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    parser.add_argument("--markdown", type=Path, help="write the tables here")
    words = parser.parse_args(arguments)
    unknown = [part for part in words.parts if part not in PARTS]
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}, must be one of {', '.join(PARTS)}")
    setting = Setting(rounds=words.rounds, threads=words.threads)
    if words.quick:
        setting = replace(Setting.make(quick=True, threads=words.threads), batch=1)
    with torch_threads(setting.threads), Stop() as stop:
        found = measure(words, setting, stop)
    print(f"\n{to_text(found)}", flush=True)
    return 0 if stop.signal_number is None else 128 + stop.signal_number


if __name__ == "__main__":
    sys.exit(main())
