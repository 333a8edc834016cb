"""The GPU rows: the operator and whole networks beside what they replace, gradients, kernels beside their prediction.

    python benchmarks/gpu.py --json results.json        # all parts but `tune`: at most ten minutes on one Hopper GPU
    python benchmarks/gpu.py operator networks          # some parts
    python benchmarks/gpu.py tune                       # lines for TABLE in src/sasa/ops/gpu/tuning.py
    python benchmarks/gpu.py --device cpu --quick       # to try the command without a GPU: no measurement

bfloat16, channels_last. The sides of a comparison take turns in one process; a turn is repeated until it lasts ten
milliseconds, and waited for. Medians, milliseconds a call.
"""

import argparse
import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sasa.analysis.speed import Setting, spread, take_turns
from sasa.analysis.speed.ceilings import machine
from sasa.analysis.speed.flex import flex_attention
from sasa.analysis.speed.report import by_name
from sasa.analysis.speed.timing import Step, ratios
from sasa.analysis.speed.workloads import (
    BASELINE,
    HEADS,
    SIDES,
    WINDOW,
    network,
    operator_step,
    pictures,
    unfold_attention,
)
from sasa.ops import local_attention
from sasa.ops.flops import local_attention_flops

GROUP_MAPS = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels, side: the four groups of ResNet-50 at 224 x 224
# Forward and both backward kernels, as benchmarks/README.md predicts them for an H200: batch 256, milliseconds.
PREDICTED = {(64, 56): (0.37, 1.35), (128, 28): (0.12, 0.45), (256, 14): (0.05, 0.16), (512, 7): (0.03, 0.08)}
TURN = 0.01  # seconds
KEEP = 0.03  # a tiling must be so much faster than the rule's to stand in the table
Line = dict[str, Any]
OPTIONS: dict[str, Any] = {"kernel_size": WINDOW, "num_heads": HEADS}


class Device:
    """Where it is measured: how to wait for it, and how much memory a call takes."""

    def __init__(self, name: str) -> None:
        self.name, self.cuda = name, name == "cuda"

    def wait(self) -> None:
        """Until everything that was asked for is done."""
        if self.cuda:
            torch.cuda.synchronize()

    def turn(self, step: Step) -> tuple[Step, int]:
        """The step so often that it lasts `TURN`, then waited for; and how often that is."""
        for _ in range(3):  # kernels are compiled and chosen
            step()
        self.wait()
        began = time.perf_counter()
        step()
        self.wait()
        count = max(1, round(TURN / (time.perf_counter() - began)))

        def turn() -> None:
            for _ in range(count):
                step()
            self.wait()

        return turn, count

    def compare(self, steps: dict[str, Step], setting: Setting) -> dict[str, list[float]]:
        """Milliseconds of a call, by side and round."""
        turns = {side: self.turn(step) for side, step in steps.items()}
        times = take_turns({side: turn for side, (turn, _) in turns.items()}, setting.rounds, setting.seconds, 1)
        return {side: [1000 * t / turns[side][1] for t in values] for side, values in times.items()}

    def peak(self, step: Step) -> float | None:
        """GB that a call has at most beyond what is there before."""
        if not self.cuda:
            return None
        self.wait()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        self.wait()
        return (torch.cuda.max_memory_allocated() - before) / 1e9


def call(function: Callable[..., Tensor], tensors: list[Tensor], backward: bool) -> Step:
    """A forward pass, or one with the gradients of all tensors, of copies that nothing else asks gradients of."""
    tensors = [tensor.detach().requires_grad_(backward) for tensor in tensors]
    with torch.no_grad():
        grad_output = torch.randn_like(function(*tensors))
    return operator_step(function, tensors, grad_output, backward)


def operands(batch: int, channels: int, side: int, device: Device) -> list[Tensor]:
    """q, k, v (views of one projection) and both embeddings."""
    torch.manual_seed(0)
    whole = 0.7 * torch.randn(batch, 3 * channels, side, side, device=device.name)
    whole = whole.bfloat16().contiguous(memory_format=torch.channels_last)
    rels = [0.7 * torch.randn(HEADS, WINDOW, channels // HEADS // 2, device=device.name).bfloat16() for _ in range(2)]
    return [*whole.chunk(3, dim=1), *rels]


def contenders(tensors: list[Tensor], side: int, device: Device, quick: bool) -> dict[str, tuple[Any, list[Tensor]]]:
    """What the operator is compared with: functions, and the tensors that they take and give gradients of."""
    channels = tensors[0].shape[1]
    weight = torch.randn(channels, channels, 3, 3, device=device.name, dtype=torch.bfloat16) / (3 * channels**0.5)
    weight = weight.contiguous(memory_format=torch.channels_last)
    found: dict[str, tuple[Any, list[Tensor]]] = {
        "unfold": (unfold_attention, [tensor.contiguous() for tensor in tensors]),
        "3 x 3 convolution": (functools.partial(F.conv2d, padding=1), [tensors[0], weight]),
    }
    if not quick:
        found["FlexAttention, compiled"] = flex_attention(side, device.name), tensors
        try:
            import natten  # pyright: ignore[reportMissingImports]
        except ImportError:
            pass
        else:
            found["NATTEN, without positions"] = functools.partial(_natten, natten), tensors[:3]
    return found


def _natten(natten: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    q, k, v = (m.permute(0, 2, 3, 1).unflatten(3, (HEADS, -1)) for m in (query, key, value))
    return natten.na2d(q, k, v, kernel_size=WINDOW, scale=1.0).flatten(3).permute(0, 3, 1, 2)


def operator(setting: Setting, device: Device, quick: bool) -> Iterator[Line]:
    """The operator beside unfolding, compiled FlexAttention with the same positions, NATTEN and a convolution."""
    for channels, side in GROUP_MAPS:
        tensors = operands(setting.batch, channels, side, device)
        shape = (setting.batch, channels, side, side)
        rel = (HEADS, WINDOW, channels // HEADS // 2)
        flops = local_attention_flops(shape, shape, shape, rel, rel, WINDOW)
        for name, backward in {"forward": False, "forward + backward": True}.items():
            ours = call(functools.partial(local_attention, **OPTIONS), tensors, backward)
            line = {"map": f"{side} x {side} x {channels}", "pass": name}
            for other, (function, theirs) in contenders(tensors, side, device, quick).items():
                try:
                    steps = {"ours": ours, other: call(function, theirs, backward)}
                    times = device.compare(steps, setting)
                except Exception as reason:  # memory, or a compiler: that is this row's result
                    yield {**line, "beside": f"{other}: does not run: {(str(reason).splitlines() or [''])[0][:80]}"}
                    continue
                milliseconds = spread(times["ours"]).median
                yield {
                    **line,
                    "ours": milliseconds,
                    "beside": other,
                    "ms": spread(times[other]).median,
                    "times faster": spread(ratios(times[other], times["ours"])).median,
                    "TFLOP/s": None if backward else flops / milliseconds / 1e9,
                    "GB/s": None if backward else 2 * 4 * tensors[0].numel() / milliseconds / 1e6,
                    "GB": device.peak(ours),
                    "GB, other": device.peak(steps[other]),
                }


def networks(setting: Setting, device: Device, quick: bool) -> Iterator[Line]:
    """Whole networks beside torchvision's resnet50: a training step without the optimizer, and inference."""
    small = max(1, setting.batch // 4)
    for compiled, batch in ((False, small), (False, setting.batch), (True, setting.batch)):
        if compiled and quick:
            continue
        sizes = Setting(batch, setting.side, setting.layers, setting.rounds, setting.seconds)
        images, labels = (tensor.to(device.name) for tensor in pictures(sizes))
        for name in ("training", "inference"):
            steps = {side: network_step(side, sizes, images, labels, name == "training", compiled) for side in SIDES}
            times = device.compare(steps, setting)
            peaks = {side: device.peak(step) for side, step in steps.items()}
            for side in SIDES:
                base = peaks[BASELINE]
                yield {
                    "pass": name,
                    "compiled": compiled,
                    "batch": batch,
                    "network": side,
                    "ms": spread(times[side]).median,
                    "pictures/s": 1000 * batch / spread(times[side]).median,
                    "ratio": spread(ratios(times[side], times[BASELINE])).median,
                    "GB": peaks[side],
                    "memory, ratio": peaks[side] / base if base and peaks[side] else None,  # pyright: ignore
                }


def network_step(side: str, sizes: Setting, images: Tensor, labels: Tensor, training: bool, compiled: bool) -> Step:
    """Forward in bfloat16 by autocast, and with `training` cross-entropy and backward."""
    model: Any = network(side, sizes).to(images.device).train(training)
    if compiled:
        model = torch.compile(model)

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16):
            if not training:
                with torch.inference_mode():
                    model(images)
                return
            model.zero_grad(set_to_none=True)
            loss = F.cross_entropy(model(images), labels)
        loss.backward()

    return step


def gradients(setting: Setting, device: Device, quick: bool) -> Iterator[Line]:
    """float32 without TF32, the output and every gradient beside the float64 reference: relative L2."""
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    for channels, side in (*GROUP_MAPS, (96, 23)):
        for padding in ("zeros", "mask"):
            torch.manual_seed(side)
            maps = [0.7 * torch.randn(2, channels, side, side) for _ in range(4)]
            rels = [0.7 * torch.randn(HEADS, WINDOW, channels // HEADS // 2) for _ in range(2)]
            *inputs, grad_output = maps[0], maps[1], maps[2], *rels, maps[3]
            want = results(inputs, grad_output, torch.float64, "cpu", padding, "reference")
            got = results(inputs, grad_output, torch.float32, device.name, padding, "auto")
            errors = [((g.double() - w).norm() / w.norm()).item() for g, w in zip(got, want, strict=True)]
            names = ("output", "query", "key", "value", "rel_row", "rel_col")
            yield {"map": f"{side} x {side} x {channels}", "padding": padding, **dict(zip(names, errors, strict=True))}


def results(
    inputs: list[Tensor], grad_output: Tensor, dtype: torch.dtype, where: str, padding: str, backend: str
) -> list[Tensor]:
    """The output and the gradients of all inputs, on the CPU."""
    tensors = [tensor.to(where, dtype).requires_grad_() for tensor in inputs]
    output = local_attention(*tensors, **OPTIONS, padding=padding, backend=backend)  # pyright: ignore
    grads = torch.autograd.grad(output, tensors, grad_output.to(where, dtype))
    return [tensor.detach().cpu() for tensor in (output, *grads)]


def kernels(setting: Setting, device: Device, quick: bool) -> Iterator[Line]:
    """The kernels by themselves beside what was predicted for an H200 and a batch of 256."""
    if not device.cuda:
        yield {"map": "needs a GPU"}
        return
    for (channels, side), (forward, backward) in PREDICTED.items():
        steps = kernel_steps(operands(setting.batch, channels, side, device))
        times = device.compare(steps, setting)
        for name, predicted in (("forward", forward), ("backward", backward)):
            measured = spread(times[name]).median
            line = {"map": f"{side} x {side} x {channels}", "batch": setting.batch, "kernels": name}
            yield {**line, "ms": measured, "predicted": predicted * setting.batch / 256}


def kernel_steps(tensors: list[Tensor]) -> dict[str, Step]:
    """The launches of forward and of backward, without a dispatcher."""
    from sasa.ops.gpu import local_launch

    words: Any = (WINDOW, HEADS, "zeros", 1.0)
    output, logsumexp = local_launch.forward(*tensors, *words)  # pyright: ignore
    return {
        "forward": lambda: local_launch.forward(*tensors, *words),  # pyright: ignore
        "backward": lambda: local_launch.backward(output, *tensors, logsumexp, *words),  # pyright: ignore
    }


def tune(setting: Setting, device: Device, quick: bool) -> Iterator[Line]:
    """Other tilings beside the rule's, kernel by kernel: prints the lines that TABLE in tuning.py shall have."""
    if not device.cuda:
        yield {"kernel": "needs a GPU"}
        return
    from sasa.ops.gpu import local_launch, tuning

    major, minor = torch.cuda.get_device_capability()
    for channels, side in GROUP_MAPS:
        tensors, head_dim = operands(setting.batch, channels, side, device), channels // HEADS
        for kernel, passed in (("forward", "forward"), ("queries", "backward"), ("keys", "backward")):
            key = (kernel, head_dim, WINDOW, 2, 10 * major + minor, False)
            rule = tuning.tiling(*key)
            times = {}
            for cut in {rule: None, **dict.fromkeys(candidates(kernel, head_dim))}:
                local_launch.tiling, before = functools.partial(instead, key, cut), local_launch.tiling
                try:
                    times[cut] = spread(device.compare(kernel_steps(tensors), setting)[passed]).median
                except Exception as reason:  # too much shared memory, say
                    print(f"# {key} {cut}: {(str(reason).splitlines() or [''])[0][:80]}")
                finally:
                    local_launch.tiling = before
            best = min(times, key=times.__getitem__)
            if times[best] < (1 - KEEP) * times[rule]:
                print(f"    {key}: {best},", flush=True)
            yield {"kernel": kernel, "channels": head_dim, "rule, ms": times[rule], "best, ms": times[best]}


def instead(key: tuple[Any, ...], cut: Any, *arguments: Any) -> Any:
    """The tiling `cut` for the arguments `key`, and the rule's for all others."""
    from sasa.ops.gpu import tuning

    return cut if arguments == key else tuning.tiling(*arguments)


def candidates(kernel: str, head_dim: int) -> Iterator[Any]:
    """Tilings around the rule's: keys of a step, width of a tile, groups and warps of a program."""
    from sasa.ops.gpu.tuning import QUERIES, Tiling, _cut

    heads = 2 if head_dim <= 8 else 1
    for most in (16, 32, 64, 128):
        for width in (2, 4):
            _, columns, rows, steps = _cut(width, WINDOW, most)
            for groups, warps in ((2, 4), (4, 4), (4, 8)):
                tile = (QUERIES // width, width)
                yield Tiling(tile, columns, rows, steps, heads, groups // heads, warps, 1, kernel == "queries")


PARTS = {part.__name__: part for part in (kernels, operator, networks, gradients, tune)}


def main() -> None:
    """Run the parts that the command line names, print a table of each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} [default: all but tune]")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="small networks, nothing compiled: to try it")
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    unknown = [part for part in words.parts if part not in PARTS]
    if unknown:
        parser.error(f"{unknown[0]!r} is no part; there are {', '.join(PARTS)}")
    if words.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here that torch can use: --device cpu --quick tries the command")
    setting = Setting(batch=words.batch, rounds=words.rounds, seconds=8.0)
    if words.quick:
        setting = Setting.make(quick=True)
    device = Device(words.device)
    found: dict[str, Any] = {"machine": {**machine(), "gpu": torch.cuda.get_device_name() if device.cuda else None}}
    found["setting"] = setting.to_dict()
    print(f"{found['machine']['gpu'] or 'no GPU: no measurement'}, torch {torch.__version__}, batch {setting.batch}")
    for name in words.parts or [part for part in PARTS if part != "tune"]:
        began = time.perf_counter()
        print(f"\n## {name}: {PARTS[name].__doc__}\n", flush=True)
        found[name] = list(PARTS[name](setting, device, words.quick))
        print(f"{by_name(found[name])}\n\n{time.perf_counter() - began:.0f} seconds", flush=True)
        if words.json:  # after each part: whoever is stopped has what was done
            words.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
