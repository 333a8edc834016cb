"""The Markdown tables of docs/convert.md: well-known networks converted by `sasa.convert`, checked and run.

    python -m benchmarks.cpu.convert_table             # six networks, with the paper's window of 7 and 8 heads
    python -m benchmarks.cpu.convert_table --survey    # 82 small timm networks of many kinds, window of 3

"Runs" is yes if the output of the converted network and of every replaced layer has the original's shape, and every
parameter has a finite gradient; else it is the error.
"""

import argparse
import warnings

import timm
import torch
import torchvision
from torch import nn

import sasa
from sasa.nn.conversion import Conversion

NETWORKS = (
    "torchvision resnet18",
    "torchvision resnet50",
    "torchvision regnet_y_400mf",
    "torchvision vgg16_bn",
    "timm resnet26",
    "timm convnext_tiny",
)

SURVEY = """
    bat_resnext26ts botnet26t_256 cait_xxs24_224 coatnet_0_rw_224 convmixer_768_32 convnextv2_atto crossvit_tiny_240
    cspresnet50 davit_tiny densenet121 dla34 dm_nfnet_f0 dpn48b edgenext_xx_small efficientformer_l1 efficientvit_b0
    efficientvit_m0 ese_vovnet19b_dw fastvit_t8 fbnetc_100 focalnet_tiny_srf gcresnet33ts gernet_s ghostnet_100
    halonet26t hardcorenas_a hgnet_tiny hgnetv2_b0 hrnet_w18_small inception_next_tiny inception_resnet_v2
    inception_v3 lambda_resnet26t lcnet_035 legacy_senet154 levit_128s maxvit_rmlp_pico_rw_256 mixnet_s mnasnet_050
    mobilenetv2_035 mobilenetv3_small_050 mobilenetv4_conv_small mobileone_s0 mobilevit_xxs mvitv2_tiny nasnetalarge
    nest_tiny nf_resnet26 nfnet_f0 pit_ti_224 pnasnet5large poolformer_s12 pvt_v2_b0 rdnet_tiny regnetx_002
    repghostnet_050 repvgg_a0 repvit_m0_9 res2net50_14w_8s resnest14d resnet26 resnetv2_50 resnext26ts rexnet_100
    sebotnet33ts_256 selecsls42 seresnet18 shvit_s1 skresnet18 starnet_s1 swin_tiny_patch4_window7_224
    tf_efficientnet_b0 tiny_vit_5m_224 tinynet_e twins_svt_small vgg11 visformer_tiny vit_tiny_patch16_224 volo_d1_224
    vovnet39a xception41 xcit_nano_12_p16_224
"""
# Not marked by timm as having a fixed input size, but their blocks do not divide an image of 96 pixels.
NEED_FULL_SIZE = ("vit", "nest", "bat_resnext26ts", "halonet26t")


def main() -> None:
    """Print a table of six networks, or of the survey."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--survey", action="store_true", help="many timm networks")
    survey = parser.parse_args().survey
    warnings.simplefilter("ignore")  # convert warns where heads do not divide the channels
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}\n")
    print("| network | replaced | kept | parameters before (M) | after (M) | runs |\n|---|---:|---:|---:|---:|---|")
    outcomes = []
    for name in (f"timm {name}" for name in SURVEY.split()) if survey else NETWORKS:
        row, runs = _row(name, survey)
        print(row, flush=True)
        outcomes.append(runs)
    print(f"\n{outcomes.count('yes')} of {len(outcomes)} run")


def _row(name: str, survey: bool) -> tuple[str, str]:
    original = _create(*name.split())
    side = 96 if survey else 64
    if survey and (original.default_cfg.get("fixed_input_size") or any(part in name for part in NEED_FULL_SIZE)):
        side = original.default_cfg["input_size"][-1]
    # Attention cannot be dilated, so dilated convolutions stay (only skresnet18 has any).
    options = {"kernel_size": 3, "num_heads": 4, "where": lambda _, conv: conv.dilation == (1, 1)} if survey else {}
    conversion, runs = None, "yes"
    try:
        converted = sasa.convert(original, grouped="replace", **options)
        conversion = converted.conversion
        _run(original, converted, torch.randn(2, 3, side, side))
    except Exception as error:
        runs = f"no: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return f"| {name} | {_counts(conversion)} | {runs} |", runs


def _create(library: str, name: str) -> nn.Module:
    if library == "timm":
        return timm.create_model(name)
    return torchvision.models.get_model(name, weights=None)


def _counts(conversion: Conversion | None) -> str:
    if conversion is None:
        return " | ".join("-" * 4)
    before, after = (f"{n / 1e6:.1f}" for n in (conversion.parameters_before, conversion.parameters_after))
    return f"{len(conversion.replacements)} | {len(conversion.kept)} | {before} | {after}"


def _run(original: nn.Module, converted: nn.Module, images: torch.Tensor) -> None:
    """Run both forward and the copy backward; raise an AssertionError that says what differs."""
    names = [replacement.name for replacement in converted.conversion.replacements]
    before, after = _watch(original, names), _watch(converted, names)
    with torch.no_grad():
        want = original.eval()(images)
    got = converted(images)
    assert got.shape == want.shape, f"output {tuple(got.shape)} instead of {tuple(want.shape)}"
    differing = [name for name in before if before[name] != after.get(name)]
    assert not differing, f"feature maps of another size: {differing}"
    got.square().mean().backward()
    without = [n for n, p in converted.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without, f"no finite gradient: {without}"


def _watch(model: nn.Module, names: list[str]) -> dict[str, torch.Size]:
    """Record the output shapes of the named layers when the network runs."""
    shapes: dict[str, torch.Size] = {}
    for name in names:
        layer = model.get_submodule(name)
        layer.register_forward_hook(lambda _m, _i, output, name=name: shapes.update({name: output.shape}))
    return shapes


if __name__ == "__main__":
    main()
