"""The content of an exported file in each format, as bytes.

Each function takes the network, a batch of images that it is traced with, and a description (plain values), which the
file holds as JSON under the key "sasa".
"""

import importlib.util
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from sasa.errors import SasaError, compiler_errors

KEY = "sasa"
OPSET = 18  # ONNX Runtime 1.14 (2023) and newer run it
NEEDED_BY_ONNX = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Traced:
    """A network to export.

    Args:
        network: in evaluation mode; its output is a tensor or a tuple of tensors.
        example: (B, C, H, W), B >= 2.
        dynamic_size: whether height and width stay open, as the batch always does.
        description: of the network, its input and its outputs ("outputs": a name for each).
    """

    network: nn.Module
    example: Tensor
    dynamic_size: bool
    description: dict[str, Any]

    @property
    def axes(self) -> dict[int, str]:
        """The input's axes that stay open, with their names."""
        return {0: "batch", 2: "height", 3: "width"} if self.dynamic_size else {0: "batch"}

    @property
    def text(self) -> str:
        """The description as JSON."""
        return json.dumps(self.description)

    def program(self) -> torch.export.ExportedProgram:
        """Trace the network.

        Raises:
            SasaError: torch.export cannot trace it.
        """
        shapes = (dict.fromkeys(self.axes, torch.export.Dim.DYNAMIC),)
        with _one_sentence("torch.export cannot trace", self.network), torch.no_grad():
            return torch.export.export(self.network, (self.example,), dynamic_shapes=shapes)


def pt2(traced: Traced) -> bytes:
    """The graph for `torch.export.load`; our operators and kernels run it."""
    content = io.BytesIO()
    torch.export.save(traced.program(), content, extra_files={KEY: traced.text})
    return content.getvalue()


def aoti(traced: Traced) -> bytes:
    """The network compiled by AOTInductor for this machine's kind of processor, for Python and C++."""
    content = io.BytesIO()
    program = traced.program()
    with (
        _one_sentence("AOTInductor cannot compile", traced.network),
        compiler_errors("the format aoti"),
        _own_compiler_cache(),
    ):
        torch._inductor.aoti_compile_and_package(
            program, package_path=content, inductor_configs={"aot_inductor.metadata": {KEY: traced.text}}
        )
    return content.getvalue()


def onnx(traced: Traced) -> bytes:
    """The graph in plain ONNX operators.

    Raises:
        SasaError: a package of the extra `export` is missing, or the network has an operator that ONNX lacks.
    """
    missing = [name for name in NEEDED_BY_ONNX if importlib.util.find_spec(name) is None]
    if missing:
        raise SasaError(f"the format onnx needs {', '.join(missing)}: pip install 'sasa[export]'")
    with _one_sentence("torch.onnx.export cannot convert", traced.network):
        program = torch.onnx.export(
            traced.program(),
            input_names=["images"],
            output_names=traced.description["outputs"],
            dynamic_shapes=(traced.axes,),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    model.metadata_props.add(key=KEY, value=traced.text)
    return model.SerializeToString()


def safetensors(traced: Traced) -> bytes:
    """The weights, with the options from which `sasa.export.load` rebuilds a network of `sasa.create_model`."""
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in traced.network.state_dict().items()}
    return save(state, {"format": "pt", KEY: traced.text})


@dataclass(frozen=True)
class Format:
    """A kind of file: the end of its name, and the function that returns its content."""

    suffix: str
    content: Callable[[Traced], bytes]


FORMATS = {
    "pt2": Format(".pt2", pt2),
    "aoti": Format(".pt2", aoti),
    "onnx": Format(".onnx", onnx),
    "safetensors": Format(".safetensors", safetensors),
}


@contextmanager
def _own_compiler_cache() -> Iterator[None]:
    """Let the compiler write to a directory of this process, as two that share one can leave a damaged package."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    with TemporaryDirectory(prefix="sasa-export-") as directory:
        os.environ[name] = directory
        try:
            yield
        finally:
            os.environ.pop(name) if before is None else os.environ.update({name: before})


@contextmanager
def _one_sentence(what: str, network: nn.Module) -> Iterator[None]:
    """Turn any error of torch's exporters into one sentence, and ignore their notes to torch's own developers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except SasaError:
        raise
    except Exception as error:  # of many types, with messages of many lines
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise SasaError(f"{what} {type(network).__name__}: {reason}") from error
