"""`sasa.export.export`: every format agrees with the network, and failures leave the file as it was."""

import re
import resource
import signal

import pytest
import torch
from torch import nn

import sasa
from export_networks import LABELS, NEEDS_ONNX
from helpers import NEEDS_KERNELS, normal
from sasa.errors import ArgumentError, SasaError
from sasa.export import TOLERANCE, check, formats

FORMATS = ["pt2", pytest.param("aoti", marks=NEEDS_KERNELS), pytest.param("onnx", marks=NEEDS_ONNX), "safetensors"]


@pytest.mark.parametrize("format", FORMATS)
def test_every_format(exported, network, images, format):
    done = exported(format)
    assert done.difference <= 1e-5
    assert done.size == done.path.stat().st_size
    assert min(done.seconds, done.eager_seconds) > 0
    loaded = sasa.export.load(done.path)
    assert loaded.description == done.description
    assert loaded.description["labels"] == LABELS
    assert loaded.description["input"]["shape"] == ["batch", 3, 24, 24]
    assert "minus mean (0.5, 0.4, 0.3), divided by std (0.2, 0.3, 0.4)" in loaded.description["input"]["values"]
    five = torch.cat([images, images, images[:1]])
    with torch.no_grad():
        (got,) = loaded.run(five)
        assert check.relative_difference([got], [network(five)]) < 1e-5


def test_the_compiler_writes_to_a_directory_of_its_own():
    from torch._inductor.codecache import cache_dir

    before = cache_dir()
    with formats._own_compiler_cache():
        within = cache_dir()
    assert within != before == cache_dir()


@NEEDS_ONNX
def test_onnx_has_plain_operators_only(exported):
    import onnx

    model = onnx.load(exported("onnx").path)
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    onnx.checker.check_model(model, full_check=True)
    shapes = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert shapes == ["batch", 3, 24, 24]


@NEEDS_ONNX
def test_images_of_any_size(tmp_path, images):
    torch.manual_seed(0)
    network = nn.Sequential(sasa.AttentionStem(3, 8, num_heads=2), sasa.LocalAttention2d(8, 8, 3, 2, num_heads=2))
    done = sasa.export.export(network, images, "onnx", tmp_path / "any.onnx", dynamic_size=True)
    assert done.description["input"]["shape"] == ["batch", 3, "height", "width"]
    x = normal(1, 3, 41, 83, dtype=torch.float32)
    with torch.no_grad():
        assert check.relative_difference(sasa.export.load(done.path).run(x), [network.eval()(x)]) < 1e-5


def test_images_too_small_for_a_graph_with_open_sizes(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1))
    sentence = r"cannot run the exported file: the graph does not take images of 24 x 4 \(.*larger images or another"
    with pytest.raises(SasaError, match=sentence):
        sasa.export.export(network, torch.randn(1, 3, 24, 4), "pt2", tmp_path / "any.pt2", dynamic_size=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", FORMATS[:3])
@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(1, 3, 24, 25),
        torch.zeros(1, 3, 1, 1),
        torch.zeros(1, 1, 24, 24),
        torch.zeros(3, 24, 24),
        torch.zeros(1, 3, 24, 24, dtype=torch.float64),
    ],
)
def test_images_that_a_graph_was_not_exported_for(exported, format, wrong):
    """Compiled code does not check them: it reads beyond small images, and takes bits of any dtype for float32."""
    run = sasa.export.load(exported(format).path).run
    given = f"{str(wrong.dtype).removeprefix('torch.')} ({', '.join(map(str, wrong.shape))})"
    sentence = re.escape(f"images must be float32 (batch, 3, 24, 24), got {given}")
    with pytest.raises(ArgumentError, match=sentence):
        run(wrong)


@pytest.mark.parametrize("format", FORMATS)
def test_images_of_any_layout(exported, network, images, format):
    """Compiled code takes every image for a contiguous one."""
    run = sasa.export.load(exported(format).path).run
    for laid_out in (images.to(memory_format=torch.channels_last), images.repeat(1, 2, 1, 1)[:, :3]):
        assert not laid_out.is_contiguous()
        with torch.no_grad():
            assert check.relative_difference(run(laid_out), [network(images)]) < TOLERANCE


def test_batches_of_any_size():
    """On large maps the layer splits a batch in eager mode; a graph must not take that split for a limit."""
    layer = sasa.LocalAttention2d(8, 8, 3, num_heads=2)
    program = formats.Traced(layer, torch.zeros(2, 8, 300, 300), False, {}).program()
    (limits,) = program.range_constraints.values()
    assert limits.upper > 2**31


def test_any_network_of_the_user(tmp_path):
    """A converted network: the weights alone load into such a network, and not into thin air."""
    network = sasa.convert(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)), num_heads=2)
    done = sasa.export.export(
        network, normal(1, 3, 6, 5, dtype=torch.float32), "safetensors", tmp_path / "w.safetensors"
    )
    assert done.difference == 0
    assert network.training, "the network is not changed"
    with pytest.raises(SasaError, match="holds weights only, of a Sequential"):
        sasa.export.load(done.path)


class Noise(nn.Module):
    """A network without a fixed answer."""

    def forward(self, images):
        return images.mean((2, 3)) + torch.rand(images.shape[0], 1)


def test_a_file_that_differs_is_not_kept(tmp_path, images):
    (tmp_path / "network.pt2").write_text("old")
    with pytest.raises(SasaError, match=rf"differs by .* of the largest output, and {TOLERANCE:.0e} is allowed"):
        sasa.export.export(Noise(), images, "pt2", tmp_path / "network.pt2")
    assert (tmp_path / "network.pt2").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["network.pt2"]


class Unpredictable(nn.Module):
    """A network whose course depends on the numbers in the images."""

    def forward(self, images):
        return images if images.sum() > 0 else -images


def test_a_network_that_cannot_be_traced(tmp_path, images):
    with pytest.raises(SasaError, match=r"^torch.export cannot trace Unpredictable: "):
        sasa.export.export(Unpredictable(), images, "pt2", tmp_path / "network.pt2")


def test_a_full_disk(tmp_path, network, images):
    """The old file stays, and nothing is left beside it."""
    path = tmp_path / "network.safetensors"
    path.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        with pytest.raises(SasaError, match=r"^cannot write .*: File too large$"):
            sasa.export.export(network, images, "safetensors", path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["network.safetensors"]


def test_arguments(tmp_path, network, images):
    def refused(sentence, format="onnx", name="network.onnx", **options):
        with pytest.raises(ArgumentError, match=sentence):
            sasa.export.export(network, images, format, tmp_path / name, **options)

    refused("format must be one of pt2, aoti, onnx, safetensors; got 'tflite'", "tflite")
    refused("must end in .onnx, got .*network.pt2", name="network.pt2")
    refused("boxes are found by detectors, and this is a ResNet", boxes=True)
    with pytest.raises(SasaError, match=r"cannot write .*: No such file or directory"):
        sasa.export.export(network, images, "onnx", tmp_path / "none" / "network.onnx")
    (tmp_path / "directory.onnx").mkdir()
    with pytest.raises(SasaError, match=r"cannot write .*directory.onnx: Is a directory"):
        sasa.export.export(network, images, "onnx", tmp_path / "directory.onnx")


def test_missing_packages(tmp_path, network, images, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SasaError, match=r"needs onnx, onnxscript, onnxruntime: pip install 'sasa\[export\]'"):
        sasa.export.export(network, images, "onnx", tmp_path / "network.onnx")


@NEEDS_KERNELS
def test_the_compiler_needs_a_path_without_spaces(tmp_path, network, images, monkeypatch):
    (tmp_path / "a b").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "a b"))
    with pytest.raises(SasaError, match=r"^the format aoti cannot use .*/a b for temporary files, .* set TMPDIR"):
        sasa.export.export(network, images, "aoti", tmp_path / "network.pt2")
    assert not (tmp_path / "network.pt2").exists()


def test_files_that_are_not_exported_networks(tmp_path):
    with pytest.raises(SasaError, match="is not a file"):
        sasa.export.load(tmp_path / "none.onnx")
    for name in ("network.pt2", "network.safetensors"):
        (tmp_path / name).write_text("something else")
        with pytest.raises(SasaError, match=f"{name} cannot be loaded: "):
            sasa.export.load(tmp_path / name)
