"""The library of CPU kernels is loaded, or the reason is given; the kernels without torch agree with naive loops."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import NEEDS_KERNELS, WITHOUT_KERNELS
from processes import HANGING, run_python
from sasa.ops import native

ROOT = Path(__file__).parents[2]
ARCHITECTURES = {"x86_64", "amd64", "aarch64", "arm64"}
SETS = ("avx512", "avx2", "neon", "portable")
pytestmark = WITHOUT_KERNELS


def has_compiler() -> bool:
    """Whether an installation on this machine builds the kernels."""
    named = os.environ.get("CXX", "").split()
    known = platform.machine().lower() in ARCHITECTURES and sys.platform in ("linux", "darwin")
    return known and any(shutil.which(name) for name in named[:1] or ("c++", "g++", "clang++"))


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
def test_the_reason_recorded_at_installation_is_given(tmp_path):
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


def test_off_is_given_as_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("SASA_CPU", "off")
    assert native.load(tmp_path) == "the environment variable SASA_CPU is off"


def test_an_unknown_gpu_choice_is_a_warning(monkeypatch):
    monkeypatch.setenv("SASA_GPU", "opencl")
    with pytest.warns(UserWarning, match='SASA_GPU=opencl is neither "cuda" nor "triton" and has no effect'):
        native.check_gpu_choice()
    monkeypatch.setenv("SASA_GPU", "triton")
    native.check_gpu_choice()


def test_an_installation_without_a_compiler_records_its_reason(tmp_path):
    """setup.py, run as by pip, succeeds, and `native` reports the reason that it recorded."""
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
        pytest.param("sse9", "SASA_CPU=sse9 is not an instruction set of this library", marks=NEEDS_KERNELS),
    ],
)
def test_without_kernels_eager_serves(value, sentence):
    error, reason = run_python("-c", SERVED, SASA_CPU=value).splitlines()
    assert error == f"backend 'cpu' cannot run here: {reason}"
    assert reason.startswith(sentence)
    assert value == "off" or "portable, off)" in reason


# Elsewhere all instruction sets. The compiler optimises less than for the library and skips the set that takes longest
# to compile, so that the test takes half a minute of one core.
COMPILED = {"x86_64": "avx2,portable", "AMD64": "avx2,portable"}


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler here, or no kernels for this machine")
def test_the_kernels_agree_with_naive_loops(tmp_path):
    """Without torch: tests/csrc/test_kernels.cpp, which `make test-kernels` builds with the flags of the library."""
    command = [sys.executable, "setup.py", "-q", "build_kernels_test", "--optimize", "1"]
    command += ["--output", str(tmp_path / "test_kernels"), "--sets", COMPILED.get(platform.machine(), "")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([tmp_path / "test_kernels"], capture_output=True, text=True, timeout=HANGING, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = done.stdout.splitlines()[-1]
    assert "0 failed" in summary
    assert not summary.startswith("0 passed")
