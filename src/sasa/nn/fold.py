"""`optimize_for_inference`: a copy of any network with its batch norms folded into the convolutions before them.

In evaluation a batch norm is y -> gain * y + shift with constants, and a convolution is linear: gain goes into its
weights, shift into its bias, and one pass over the map is saved. The order of layers is read from a trace of the
forward pass, so the same rule serves every network: ours, torchvision's or timm's.
"""

import copy
from collections import Counter
from inspect import signature

from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.nn.utils.parametrize import is_parametrized

from sasa.errors import ArgumentError
from sasa.nn.attention import LocalAttention2d
from sasa.nn.fitted import FittedAttention2d
from sasa.nn.stem import AttentionStem

Pair = tuple[str, str]  # names of a convolution and of the batch norm after it


class FoldedNorm(nn.Identity):
    """Identity in place of a batch norm that was folded into the convolution before it; cannot be trained.

    Raises:
        ArgumentError: (a ValueError) in `train()` of the network, which would train without its batch norms.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.training = False

    def train(self, mode: bool = True) -> "FoldedNorm":
        """Accept evaluation mode only."""
        if mode:
            raise ArgumentError(
                "this copy is for inference only: optimize_for_inference folded its batch norms into the "
                "convolutions; train the original network, and call eval() on this copy before using it further"
            )
        return super().train(False)

    def extra_repr(self) -> str:
        """Number of channels that were normalised."""
        return str(self.num_features)


def optimize_for_inference(model: nn.Module) -> nn.Module:
    """Return a copy of `model` for inference: evaluation mode, no gradients of parameters, batch norms folded.

    A batch norm is folded where it alone reads an nn.Conv2d's output and both run once in a forward pass. Batch norms
    after attention stay: with padding="zeros" the weights of the keys inside the map sum to less than one, so the
    shift cannot move into a projection, and the stem pools in between. Batch norms also stay where the trace cannot
    place them: subclasses of nn.Conv2d or nn.BatchNorm2d, layers with hooks or parametrizations, layers whose weights
    are read elsewhere, parts of a network whose forward depends on the data. Those compute the same as before, at the
    same speed. (A child of a network that cannot be traced as a whole is traced alone: norms in it are folded on the
    assumption that the network calls the child, not the layers in it.)

    Args:
        model: any network, in training or evaluation mode; not changed.

    Returns:
        The copy, with a `FoldedNorm` in place of each folded norm, which raises when the copy is set to train. Save
        the original: weights of the copy do not load into a network of that name.

    >>> network = sasa.create_model("sasa_resnet26", num_classes=10, width=0.25)
    >>> fast = sasa.optimize_for_inference(network)
    >>> image = torch.randn(1, 3, 64, 64)
    >>> torch.testing.assert_close(fast(image), network.eval()(image), rtol=1e-4, atol=1e-4)
    """
    folded = copy.deepcopy(model).eval().requires_grad_(False)
    for conv, norm in foldable(folded):
        _fold(folded, conv, norm)
    return folded


def is_folded(model: nn.Module) -> bool:
    """Return whether `optimize_for_inference` folded batch norms of this network."""
    return any(isinstance(module, FoldedNorm) for module in model.modules())


def foldable(model: nn.Module) -> list[Pair]:
    """Names of the convolutions and batch norms of `model` that can be folded, in the order in which they run.

    A network that cannot be traced as a whole, because its forward depends on the data, is searched part by part.
    """
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    modules = dict(model.named_modules(remove_duplicate=False))
    return [
        (conv, norm)
        for conv, norm in _pairs(model)
        if places[id(modules[conv])] == places[id(modules[norm])] == 1
        and _plain(modules[conv], nn.Conv2d)
        and _plain(modules[norm], nn.BatchNorm2d, nn.SyncBatchNorm)
        and modules[norm].running_mean is not None  # pyright: ignore[reportAttributeAccessIssue]
    ]


def _plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Return whether it is a plain layer: a subclass may compute something else, and hooks must run."""
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
    return type(module) in kinds and not hooked and not is_parametrized(module)


def _pairs(model: nn.Module, prefix: str = "") -> list[Pair]:
    """(first, second) where the second layer alone reads the first one's output and both run once."""
    try:
        pairs, *others = map(_pairs_in, _graphs(model))
    except Exception:  # an untraceable forward may fail in any way; its parts may still be traceable
        children = ((name, child) for name, child in model.named_children() if not _is_leaf(child))
        return [pair for name, child in children for pair in _pairs(child, f"{prefix}{name}.")]
    return [(prefix + first, prefix + second) for first, second in pairs if all((first, second) in o for o in others)]


def _graphs(model: nn.Module) -> list[fx.Graph]:
    """Trace with all arguments and, if some are optional, without those: forward may take another way then."""
    parameters = signature(model.forward).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    return [_Tracer().trace(model, arguments) for arguments in ([None, defaults] if defaults else [None])]


def _pairs_in(graph: fx.Graph) -> list[Pair]:
    runs = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    used = (str(node.target) for node in graph.nodes if node.op == "get_attr" and node.users)  # tied weights, say
    layers_used = {name.rpartition(".")[0] for name in used}
    pairs = []
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if isinstance(before, fx.Node) and before.op == "call_module" and len(before.users) == 1:
            first, second = str(before.target), str(node.target)
            if runs[first] == runs[second] == 1 and layers_used.isdisjoint((first, second)):
                pairs.append((first, second))
    return pairs


class _Tracer(fx.Tracer):
    """Traces which layer reads which layer's output, with attention layers as leaves."""

    proxy_buffer_attributes = True  # so that reading a norm's statistics is a node, as reading weights is

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_leaf(m) or super().is_leaf_module(m, module_qualified_name)


def _is_leaf(module: nn.Module) -> bool:
    return isinstance(module, LocalAttention2d | FittedAttention2d | AttentionStem)


def _fold(model: nn.Module, conv_name: str, norm_name: str) -> None:
    """Fold the norm's gain and shift into the convolution, computed in float64."""
    conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm)
    weight, bias = fuse_conv_bn_weights(
        conv.weight.double(),
        _double(conv.bias),
        norm.running_mean.double(),  # pyright: ignore[reportOptionalMemberAccess] - checked by foldable()
        norm.running_var.double(),  # pyright: ignore[reportOptionalMemberAccess]
        norm.eps,
        _double(norm.weight),
        _double(norm.bias),
    )
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.detach().to(dtype), requires_grad=False)
    model.set_submodule(norm_name, FoldedNorm(norm.num_features))


def _double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().double()
