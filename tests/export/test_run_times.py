"""Exported files run where they are meant to: ONNX Runtime without torch, C++, and torch.onnx.export itself."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

import sasa
from export_networks import LABELS, NEEDS_ONNX, PREPROCESSING
from helpers import NEEDS_KERNELS, normal
from processes import run_python
from sasa.data.classification.transforms import Preprocessing
from sasa.errors import SasaError
from sasa.ops import native

ROOT = Path(__file__).parents[2]


@NEEDS_ONNX
def test_onnx_runtime_without_torch(exported, network, tmp_path):
    """The example of docs/deploy.md, in a process that cannot import torch or sasa."""
    (code,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs/deploy.md").read_text(), re.DOTALL)
        if "InferenceSession" in block
    ]
    assert "torch" not in code
    torch.manual_seed(0)
    image = Image.fromarray(torch.randint(256, (30, 45, 3), dtype=torch.uint8).numpy())  # resized and cropped
    image.save(tmp_path / "image.png")
    shutil.copy(exported("onnx").path, tmp_path / "network.onnx")
    blocked = f"import os, sys\nsys.modules['torch'] = sys.modules['sasa'] = None\nos.chdir({str(tmp_path)!r})\n"
    printed = run_python("-c", f"{blocked}{code}numpy.save('logits.npy', logits)")
    with torch.no_grad():
        logits = network(Preprocessing(**PREPROCESSING).evaluation(image)[None])
    assert printed.strip() == LABELS[int(logits.argmax())]
    torch.testing.assert_close(torch.from_numpy(numpy.load(tmp_path / "logits.npy")), logits, rtol=1e-4, atol=1e-5)


@NEEDS_KERNELS
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_cpp_program(exported, network, images, tmp_path):
    library = Path(torch.__file__).parent
    program = tmp_path / "run_package"
    includes = [f"-I{library / 'include'}", f"-I{library / 'include/torch/csrc/api/include'}"]
    links = [f"-L{library / 'lib'}", f"-Wl,-rpath,{library / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10", "-ldl"]
    source = ROOT / "examples/run_package.cpp"
    subprocess.run(["g++", "-std=c++20", "-O0", *includes, source, "-o", program, *links], check=True)
    package = exported("aoti").path
    (tmp_path / "images.bin").write_bytes(images.numpy().tobytes())
    kernels = native.DIRECTORY / native.LIBRARY
    command = [program, package, kernels, tmp_path / "images.bin", *map(str, images.shape)]
    about, logits = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert '"labels": ["cat", "dog", "ship"]' in about
    with torch.no_grad():
        want = network(images)
    got = torch.tensor([float(number) for number in logits.split()]).view_as(want)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@NEEDS_ONNX
def test_torch_onnx_export_of_a_network_with_our_layers(tmp_path):
    import onnxruntime

    layer = sasa.LocalAttention2d(4, 8, 3, stride=2, num_heads=2).eval()
    x = normal(2, 4, 7, 9, dtype=torch.float32)
    torch.onnx.export(layer, (x,), tmp_path / "layer.onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx")
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), layer(x).detach(), rtol=1e-4, atol=1e-5)


@NEEDS_ONNX
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore:`torch.jit")
def test_the_older_exporter_is_refused_with_a_sentence(tmp_path):
    layer = sasa.LocalAttention2d(4, 8, 3, num_heads=2).eval()
    x = normal(1, 4, 5, 5, dtype=torch.float32)
    with pytest.raises(SasaError, match="dynamo=False cannot export local attention: leave dynamo=False out"):
        torch.onnx.export(layer, (x,), tmp_path / "layer.onnx", dynamo=False)
