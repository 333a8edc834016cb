"""The library of CPU kernels: that it is loaded or says why not, each instruction set, threads, forks.

What the kernels compute, test_backends_agree_*.py and the tests beside them judge, with the best instruction set here.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers import block_inputs, local_inputs, normal, output_and_gradients
from sasa.ops import block_attention, local_attention, native
from sasa.ops.qkv_attention import qkv_attention, qkv_attention_inference

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
ARCHITECTURES = {"x86_64", "amd64", "aarch64", "arm64"}
SETS = ("avx512", "avx2", "neon", "portable")
IN_USE = pytest.mark.skipif(native.missing() is not None, reason=f"no kernels here: {native.missing()}")


def has_compiler() -> bool:
    """Whether an installation here builds the kernels."""
    named = os.environ.get("CXX", "").split()
    known = platform.machine().lower() in ARCHITECTURES and sys.platform in ("linux", "darwin")
    return known and any(shutil.which(name) for name in named[:1] or ("c++", "g++", "clang++"))


def python(*words, seconds=120, **environment):
    """Run a fresh Python with the tests' helpers; what it printed."""
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, "PYTHONPATH": path, **environment},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


# ------------------------------------------------------------------------------------------------- loaded, or why not


@pytest.mark.skipif("SASA_CPU" in os.environ, reason="SASA_CPU is set")
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler here, so there are no kernels")
def test_the_library_is_loaded_where_a_compiler_built_it():
    assert native.missing() is None, native.missing()
    assert native.instruction_set() in SETS


@pytest.fixture
def _chosen_by_the_machine(monkeypatch):
    monkeypatch.delenv("SASA_CPU", raising=False)


@pytest.mark.usefixtures("_chosen_by_the_machine")
def test_an_installation_without_the_library_says_so(tmp_path):
    sentence = native.load(tmp_path)
    assert sentence == (
        f"this installation of sasa has no CPU kernels ({tmp_path / native.LIBRARY} is missing): "
        "install it again with pip"
    )


@pytest.mark.usefixtures("_chosen_by_the_machine")
def test_the_reason_that_the_installation_left_is_told(tmp_path):
    (tmp_path / native.REASON).write_text("there was no C++ compiler\n")
    assert native.load(tmp_path) == "there was no C++ compiler"


@pytest.mark.usefixtures("_chosen_by_the_machine")
def test_another_system_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert native.load(tmp_path) == "there are CPU kernels for Linux and macOS only, and this is win32"


@pytest.mark.usefixtures("_chosen_by_the_machine")
@pytest.mark.parametrize("content", [b"", b"no library at all", b"\x7fELF\x02\x01\x01" + bytes(100)])
def test_a_damaged_library_says_so(tmp_path, content):
    (tmp_path / native.LIBRARY).write_bytes(content)
    sentence = native.load(tmp_path)
    assert sentence.startswith("the library of CPU kernels does not load: ")
    assert native.LIBRARY in sentence


def test_off_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("SASA_CPU", "off")
    assert native.load(tmp_path) == "the environment variable SASA_CPU is off"


def test_an_installation_without_a_compiler_leaves_its_reason(tmp_path):
    """setup.py itself, as pip runs it: it succeeds, and what it left is what `native` tells."""
    shutil.copy(ROOT / "setup.py", tmp_path)
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_native", "--inplace"],
        cwd=tmp_path,
        env={**os.environ, "CXX": "no-such-compiler"},
        capture_output=True,
        check=True,
    )
    sentence = (tmp_path / "src/sasa/_native" / native.REASON).read_text()
    assert sentence == "the C++ compiler that CXX names (no-such-compiler) was not found\n"


# ---------------------------------------------------------------------------------------------------- instruction sets


@IN_USE
@pytest.mark.parametrize("name", SETS)
def test_each_instruction_set_agrees_with_the_reference(name):
    report = json.loads(python(HERE / "instruction_sets.py", SASA_CPU=name))
    if report["why_not"]:
        pytest.skip(report["why_not"])
    assert report["instruction_set"] == name
    assert report["compared"] > 1000
    assert not report["wrong"]


SERVED = """
import torch
from helpers import local_inputs
from sasa.ops import backends, local_attention, native
options = {"kernel_size": 3, "num_heads": 2}
tensors = local_inputs(1, 2, 4, 4, 5, 6, 3)
assert native.instruction_set() is None
assert torch.equal(local_attention(*tensors, **options), local_attention(*tensors, **options, backend="eager"))
try:
    local_attention(*tensors, **options, backend="cpu")
except ValueError as error:
    print(error)
print(*(backend.why_not for backend in backends() if backend.name == "cpu"))
"""


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("off", "the environment variable SASA_CPU is off"),
        pytest.param("sse9", "SASA_CPU=sse9 is none of this library's instruction sets", marks=IN_USE),
    ],
)
def test_without_kernels_eager_serves(value, sentence):
    asked, told = python("-c", SERVED, SASA_CPU=value).splitlines()
    assert asked == f"backend 'cpu' cannot run here: {told}"
    assert told.startswith(sentence)
    assert value == "off" or "portable, off)" in told


# ------------------------------------------------------------------------------------------------ threads and processes


@pytest.fixture
def two_threads():
    """A function that runs another with two of torch's threads."""
    before = torch.get_num_threads()

    def run(function):
        torch.set_num_threads(2)
        try:
            return function()
        finally:
            torch.set_num_threads(before)

    yield run
    torch.set_num_threads(before)


def everything(batch, dtype):
    """Outputs and gradients of every operator: several tasks, strips, tiles and partial tiles."""
    heads, head_dim, height, width = 4, 8, 19, 21
    maps = local_inputs(batch, heads, head_dim, head_dim, height, width, 7, dtype=dtype)
    maps[:3] = [m.contiguous(memory_format=torch.channels_last) for m in maps[:3]]
    options = {"kernel_size": 7, "num_heads": heads, "padding": "mask"}
    grad = normal(batch, heads * head_dim, height, width, seed=9, dtype=dtype)
    results = output_and_gradients(local_attention, maps, grad, **options)
    qkv = [torch.cat(maps[:3], 1), *maps[3:]]
    results += output_and_gradients(qkv_attention, qkv, grad, **options)
    more = {"relu": True, "pool": 2, "scale": 1.0, "content": True}
    results.append(qkv_attention_inference(*qkv, None, None, **options, **more))

    tensors = block_inputs(batch, 3, heads, 4, head_dim, 71, 70, 4, dtype=dtype)
    grad = normal(batch, heads * head_dim, 71, 70, seed=9, dtype=dtype)
    image, *weights, value = tensors

    def block(image, *weights):
        return block_attention(image, *weights, value=value, block_size=4, num_heads=heads)

    results += output_and_gradients(block, [image, *weights], grad)
    leaves = [t.requires_grad_() for t in (image, *weights)]
    sign = normal(heads * head_dim, seed=3, dtype=torch.float32)
    extreme, position, sums = torch.ops.sasa.block_attention_pooled(*leaves, value, sign, 4, heads, 1.0)
    torch.autograd.backward([extreme, sums], [torch.ones_like(extreme), normal(*sums.shape, seed=4)])
    return [*results, extreme, position, sums, *(t.grad for t in leaves)]


@IN_USE
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_results_are_the_same_bits_every_time_and_for_any_number_of_threads(two_threads, batch, dtype):
    first, again = everything(batch, dtype), everything(batch, dtype)
    with_two = two_threads(lambda: everything(batch, dtype))
    for n, results in enumerate(zip(first, again, with_two, strict=True)):
        assert torch.equal(results[0], results[1]), f"result {n} differs between two runs"
        assert torch.equal(results[0], results[2]), f"result {n} differs between one and two threads"


FORKED = """
import os, signal, torch
from helpers import local_inputs, normal, output_and_gradients
from sasa.ops import local_attention
torch.set_num_threads(2)
# So small that torch's own functions stay on one thread: in the child they would wait for ever.
tensors, grad = local_inputs(2, 4, 8, 8, 20, 20, 7, dtype=torch.float32), normal(2, 32, 20, 20, dtype=torch.float32)
attend = lambda: output_and_gradients(local_attention, tensors, grad, kernel_size=7, num_heads=4)
before = attend()
child = os.fork()
if child == 0:
    signal.alarm(30)  # ends a child that waits
    same = all(torch.equal(one, other) for one, other in zip(before, attend()))
    os._exit(0 if same else 3)
status = os.waitpid(child, 0)[1]
print("child", os.waitstatus_to_exitcode(status))
"""


@IN_USE
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_does_not_wait_for_its_parents_threads():
    """As a data loader's worker may be: the parent has used torch's threads, which the child does not have."""
    assert python("-W", "ignore", "-c", FORKED, seconds=60, OMP_NUM_THREADS="2").split() == ["child", "0"]
