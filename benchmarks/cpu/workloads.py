"""Networks, attention cores and operators that are timed, and the baselines beside them.

Shapes: B batch, C channels, H x W the map, N heads, D channels of a head, K the kernel size, P pixels.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cpu.setting import Setting
from sasa.errors import SasaError
from sasa.models import create_model
from sasa.nn import LocalAttention2d
from sasa.ops import local_attention
from sasa.speed import Step

BASELINE = "baseline"  # torchvision's ResNet-50
OURS = {"full": "sasa_resnet50", "convstem": "sasa_resnet50_convstem"}
SIDES = (BASELINE, *OURS)
HEADS, WINDOW = 8, 7
CLASSES = 1000


def network(side: str, setting: Setting) -> nn.Module:
    """Build the network of a side (`BASELINE` or a key of `OURS`), seeded, float32, channels_last.

    Ours have no zero-initialised gamma at the end of a block, as torchvision's default, so that no gradient is zero.
    """
    torch.manual_seed(0)
    if side == BASELINE:
        resnet = torchvision().models.resnet
        model = resnet.ResNet(resnet.Bottleneck, list(setting.layers), num_classes=CLASSES)
    else:
        model = create_model(OURS[side], layers=setting.layers, num_classes=CLASSES, zero_init_residual=False)
    return model.to(memory_format=torch.channels_last)


def torchvision() -> Any:
    """Import torchvision."""
    try:
        import torchvision.models.resnet
    except ImportError as error:
        raise SasaError("the baseline is torchvision's ResNet-50: pip install 'sasa[train]'") from error
    return torchvision


def random_images(setting: Setting) -> tuple[Tensor, Tensor]:
    """Draw images (B, 3, side, side), channels_last, and B labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(setting.batch, 3, setting.side, setting.side, generator=generator)
    labels = torch.randint(CLASSES, (setting.batch,), generator=generator)
    return images.contiguous(memory_format=torch.channels_last), labels


def inference_step(model: nn.Module, images: Tensor) -> Step:
    """Make a forward pass in evaluation mode, without gradients."""
    model.eval()

    def step() -> None:
        with torch.inference_mode():
            model(images)

    return step


def training_step(model: nn.Module, images: Tensor, labels: Tensor) -> Step:
    """Make a training step: forward, cross-entropy, backward; no optimizer."""
    model.train()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()

    return step


# All attention cores beside the 3 x 3 convolutions that they replace


def spatial_convolutions(setting: Setting) -> list[tuple[nn.Conv2d, tuple[int, ...]]]:
    """List the 3 x 3 convolutions of torchvision's ResNet-50 with the shapes (B, C, H, W) of their inputs."""
    found: list[tuple[nn.Conv2d, tuple[int, ...]]] = []

    def note(conv: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        found.append((conv, tuple(inputs[0].shape)))

    with torch.device("meta"):
        model = network(BASELINE, setting).eval()
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                module.register_forward_hook(note)
        model(torch.empty(setting.batch, 3, setting.side, setting.side))
    return found


def attention_core(channels: int, stride: int, kernel_size: int = WINDOW, backend: str = "auto") -> nn.Module:
    """Build a `LocalAttention2d` without its projection: from q, k and v as one map (B, 3 C, H, W) to its output."""
    layer = LocalAttention2d(channels, channels, kernel_size, stride, num_heads=HEADS, backend=backend)
    layer.qkv = nn.Identity()
    layer.in_channels = 3 * channels
    return layer.eval()


def core_step(shapes: list[tuple[nn.Conv2d, tuple[int, ...]]]) -> Step:
    """Make a forward pass of all attention cores, at the resolution of each convolution's input."""
    torch.manual_seed(0)
    cores = [
        (attention_core(shape[1], conv.stride[0]), random_map((shape[0], 3 * shape[1], *shape[2:])))
        for conv, shape in shapes
    ]
    return lambda: _run_all(cores)


def convolution_step(shapes: list[tuple[nn.Conv2d, tuple[int, ...]]]) -> Step:
    """Make a forward pass of all 3 x 3 convolutions."""
    torch.manual_seed(0)
    convolutions = []
    for like, shape in shapes:
        conv = nn.Conv2d(like.in_channels, like.out_channels, 3, like.stride, 1, bias=False)
        convolutions.append((conv.to(memory_format=torch.channels_last), random_map(shape)))
    return lambda: _run_all(convolutions)


@torch.inference_mode()
def _run_all(layers: list[tuple[nn.Module, Tensor]]) -> None:
    for layer, x in layers:
        layer(x)


def random_map(shape: tuple[int, ...]) -> Tensor:
    """Draw 0.7 * normal, channels_last."""
    return (0.7 * torch.randn(shape)).contiguous(memory_format=torch.channels_last)


# The operator and its baseline


def unfold_attention(query: Tensor, key: Tensor, value: Tensor, rel_row: Tensor, rel_col: Tensor) -> Tensor:
    """Compute Eq. 3 over unfolded windows: F.unfold of k and v, einsum, softmax. Needs K * K times the memory of a map.

    Maps (B, C, H, W), embeddings (N, K, D / 2).
    """
    batch, channels, height, width = query.shape
    heads, window = rel_row.shape[:2]
    head_dim = channels // heads
    keys, values = (
        F.unfold(m, window, padding=window // 2).view(batch, heads, head_dim, window**2, height * width)
        for m in (key, value)
    )
    rows = rel_row[:, :, None].expand(-1, window, window, -1)
    cols = rel_col[:, None].expand(-1, window, window, -1)
    relative = torch.cat([rows, cols], -1).reshape(heads, window**2, head_dim)
    query = query.reshape(batch, heads, head_dim, height * width)
    logits = torch.einsum("bndp,bndkp->bnkp", query, keys) + torch.einsum("bndp,nkd->bnkp", query, relative)
    output = torch.einsum("bnkp,bndkp->bndp", logits.softmax(2), values)
    return output.reshape(batch, channels, height, width)


def operator_inputs(batch: int, channels: int, side: int) -> tuple[list[Tensor], list[Tensor]]:
    """Draw q, k, v, rel_row, rel_col for our operator (views of one channels_last map) and for unfold (contiguous)."""
    torch.manual_seed(0)
    whole = random_map((batch, 3 * channels, side, side))
    rels = [0.7 * torch.randn(HEADS, WINDOW, channels // HEADS // 2) for _ in range(2)]
    views = whole.chunk(3, dim=1)
    ours, unfolds = ([*views, *rels], [*(m.contiguous() for m in views), *(r.clone() for r in rels)])
    return ours, unfolds


def operator_steps(batch: int, channels: int, side: int, *, backward: bool, backend: str = "auto") -> dict[str, Step]:
    """Make steps of our operator ("ours") and of attention over unfolded windows ("unfold") on the same numbers.

    Raises:
        SasaError: their outputs differ.
    """
    options: dict[str, Any] = {"kernel_size": WINDOW, "num_heads": HEADS, "backend": backend}
    ours, unfolds = operator_inputs(batch, channels, side)
    with torch.no_grad():
        got, want = local_attention(*ours, **options), unfold_attention(*unfolds)
    error = ((got - want).norm() / want.norm()).item()
    if not error < 1e-4:
        raise SasaError(
            f"our operator and the unfolded one differ by {error:.1e} (relative L2), so they were not timed"
        )
    for tensor in (*ours, *unfolds):
        tensor.requires_grad_(backward)
    sides = {"ours": (lambda *t: local_attention(*t, **options), ours), "unfold": (unfold_attention, unfolds)}
    return {name: operator_step(function, tensors, got, backward) for name, (function, tensors) in sides.items()}


def operator_step(function: Any, tensors: list[Tensor], grad_output: Tensor, backward: bool) -> Step:
    """Make a forward pass of a function of tensors, with the gradients of all if `backward`."""

    def step() -> None:
        with torch.set_grad_enabled(backward):
            output = function(*tensors)
            if backward:
                torch.autograd.grad(output, tensors, grad_output)

    return step


def flex_attention(side: int) -> Callable[..., Tensor]:
    """Make Eq. 3 by torch's FlexAttention, compiled, with padding="mask".

    It is a function of query, key, value (B, C, side, side), rel_row and rel_col (N, K, C / N / 2). The window
    is a block mask; q.r is computed first, K + K numbers a query and head, and added as a score bias.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    half, pixels = WINDOW // 2, side * side

    def near(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return ((q // side - k // side).abs() <= half) & ((q % side - k % side).abs() <= half)

    mask = create_block_mask(near, None, None, pixels, pixels, device="cpu")

    def attention(query: Tensor, key: Tensor, value: Tensor, rel_row: Tensor, rel_col: Tensor) -> Tensor:
        q, k, v = (m.unflatten(1, (HEADS, -1)).flatten(3).transpose(2, 3).contiguous() for m in (query, key, value))
        q_row, q_col = q.chunk(2, dim=-1)
        rows, cols = q_row @ rel_row.mT, q_col @ rel_col.mT

        def relative(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            down = (j // side - i // side + half).clamp(0, WINDOW - 1)
            right = (j % side - i % side + half).clamp(0, WINDOW - 1)
            return score + rows[b, h, i, down] + cols[b, h, i, right]

        output = flex_attention(q, k, v, score_mod=relative, block_mask=mask, scale=1.0)
        pixels_first = output.transpose(1, 2).flatten(2)
        return pixels_first.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # channels_last

    return torch.compile(attention, dynamic=False)
