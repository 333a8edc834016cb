"""csrc/cuda_*.cpp without torch: kernels compiled by the real NVRTC, kept on disk, launched on a fake driver."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from ctypes.util import find_library

import pytest

from cuda import emulator, fake_gpu
from sasa.ops import native

NVRTC = native.cuda_compiler()

pytestmark = [
    pytest.mark.skipif(emulator.COMPILER is None, reason="no C++ compiler here (looked for g++ and clang++)"),
    pytest.mark.skipif(NVRTC is None, reason="no NVRTC here, or no library of kernels"),
]
SUM = "sum_parts.cuh:sasa_sum_parts:SASA_DOUBLE=0@8192"
WIDE_SUM = "sum_parts.cuh:sasa_sum_parts:SASA_DOUBLE=1@100000"
KERNELS = [
    SUM,
    "local_forward.cuh:sasa_local_forward:SASA_STORAGE=2,SASA_K=7,SASA_D=16,SASA_HEADS=1,SASA_UNITS_Y=1,SASA_UNITS_X=4,"
    "SASA_STAGES=1,SASA_CONTENT=1,SASA_POSITION=1,SASA_MASK=0",
    "plain_forward.cuh:sasa_plain_forward:SASA_STORAGE=0,SASA_K=7,SASA_D=16,SASA_E=16,SASA_LANES=2,SASA_ROWS=4,"
    "SASA_PLANAR=0,SASA_VECTOR_D=4,SASA_VECTOR_E=4,SASA_VECTOR_TABLE=4,SASA_POOL=1",
]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    file = tmp_path_factory.mktemp("driver") / "program"
    command = [sys.executable, "setup.py", "-q", "build_cuda_test", "--output", str(file)]
    built = subprocess.run(command, cwd=emulator.ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return file


@pytest.fixture
def run(program, tmp_path):
    """Run the program; what it prints."""

    def run_program(arguments: Sequence[str], *, fails: bool = False, **variables: str) -> str:
        assert NVRTC is not None
        environment = fake_gpu.environment(tmp_path, **{"SASA_NVRTC": NVRTC.file, **variables})
        done = subprocess.run(
            [program, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == int(fails), done.stderr
        return done.stderr if fails else done.stdout + done.stderr

    return run_program


def launches(tmp_path) -> list[str]:
    return [line for line in fake_gpu.log(tmp_path) if line.startswith("launch ")]


@pytest.mark.parametrize("architecture", ["80", "90", "100", "120"])
def test_kernels_compile_for_every_architecture(run, architecture):
    lines = run(["compile", architecture, *KERNELS]).splitlines()
    names = [kernel.split(":")[1] for kernel in KERNELS]
    assert [line.split()[:2] for line in lines[: len(KERNELS)]] == [[name, "elf"] for name in names]
    assert f"cached {len(KERNELS)}" in lines
    messages = "\n".join(line for line in lines if line.startswith("sasa:"))
    begin = rf"sasa: compiling 3 CUDA kernels for sm_{architecture}, once \(kept in .*\)"
    assert re.fullmatch(begin + r"\nsasa: 3 CUDA kernels compiled in \d+\.\d s", messages)


def test_a_gpu_newer_than_nvrtc_gets_ptx(run):
    assert run(["compile", "990", SUM]).startswith("sasa_sum_parts ptx ")


def test_a_gpu_older_than_nvrtc_supports_is_an_error(run):
    assert "sm_20, is not one that NVRTC" in run(["compile", "20", SUM], fails=True)


def test_cached_kernels_are_not_compiled_again(run):
    first = run(["compile", "90", SUM, WIDE_SUM])
    again = run(["compile", "90", SUM, WIDE_SUM])
    assert "compiling 2" in first
    assert "compiling" not in again
    assert again.splitlines()[:3] == first.splitlines()[:3]


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "of another kernel"])
def test_a_damaged_file_is_compiled_again(run, tmp_path, damage):
    right = run(["compile", "90", SUM]).splitlines()[0]
    (file,) = (tmp_path / "cache").glob("*.kernel")
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[:-100])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "flipped":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        run(["compile", "90", WIDE_SUM])
        (other,) = (f for f in (tmp_path / "cache").glob("*.kernel") if f != file)
        shutil.copy(other, file)
    assert run(["compile", "90", SUM]).splitlines()[0] == right
    assert file.read_bytes() == content


def test_an_unwritable_cache_is_not_an_error(run, tmp_path):
    (tmp_path / "file").write_text("a file, where a folder should be made")
    printed = run(["compile", "90", SUM], SASA_CACHE=str(tmp_path / "file" / "cache"))
    assert printed.startswith("sasa_sum_parts elf ")
    assert "cached 0" in printed


def test_without_a_home_kernels_stay_in_memory(run, tmp_path):
    printed = run(["compile", "90", SUM], SASA_CACHE="", XDG_CACHE_HOME="", HOME=str(tmp_path / "none" / "here"))
    assert printed.startswith("sasa_sum_parts elf ")


def test_the_cache_is_in_the_home_directory(run, tmp_path):
    run(["compile", "90", SUM], SASA_CACHE="", XDG_CACHE_HOME="", HOME=str(tmp_path))
    assert len(list((tmp_path / ".cache" / "sasa").glob("*.kernel"))) == 1
    run(["compile", "90", SUM], SASA_CACHE="", XDG_CACHE_HOME=str(tmp_path / "xdg"))
    assert len(list((tmp_path / "xdg" / "sasa").glob("*.kernel"))) == 1


def test_two_processes_at_once(program, tmp_path):
    assert NVRTC is not None
    environment = fake_gpu.environment(tmp_path, SASA_NVRTC=NVRTC.file)
    command = [program, "compile", "90", SUM, WIDE_SUM]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=300)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert printed[0][:2] == printed[1][:2]
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".kernel"] * 2


def test_a_kernel_that_does_not_compile_is_an_error(run):
    printed = run(["compile", "90", "local_forward.cuh:sasa_local_forward:SASA_K=7"], fails=True)
    assert re.search(r"error: the CUDA kernel sasa_local_forward did not compile \(.*sm_90\): .*error", printed)
    assert "no CUDA source nowhere.cuh" in run(["compile", "90", "nowhere.cuh:sasa_nothing"], fails=True)


def test_launches_reach_the_driver(run, tmp_path):
    run(["launch", "2", "3", SUM, WIDE_SUM], FAKE_CUDA_DEVICES="2")
    expected = [
        f"launch sasa_sum_parts device={device} stream={100 + device} grid=5,3,2 threads=128 shared={shared}"
        for device in range(2)
        for shared in (8192, 100000)
    ]
    assert sorted(launches(tmp_path)) == sorted(expected * 3)
    loads = [line for line in fake_gpu.log(tmp_path) if line.startswith("load ")]
    assert sorted(loads) == sorted(["load device=0 format=elf", "load device=1 format=elf"] * 2)


def test_blocking_launches(run, tmp_path):
    run(["launch", "1", "1", SUM], CUDA_LAUNCH_BLOCKING="1")
    assert [line.split()[0] for line in fake_gpu.log(tmp_path)] == ["load", "launch", "synchronize"]
    variables = {"CUDA_LAUNCH_BLOCKING": "1", "FAKE_CUDA_FAIL": "cuStreamSynchronize=719"}
    printed = run(["launch", "1", "1", SUM], fails=True, **variables)
    assert "launching the CUDA kernel sasa_sum_parts on cuda:0 failed: an error of the test" in printed


def test_facts_of_a_gpu(run):
    assert run(["device", "0"], FAKE_CUDA_ARCHITECTURE="120") == "sm_120 132 101376\n"
    assert run(["why_not"]) == "ready\n"


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"FAKE_CUDA_CAPTURING": "1"}, "used for the first time while a CUDA graph is captured"),
        ({"FAKE_CUDA_VERSION": "11080"}, "the driver is too old: it runs CUDA 11.8, and NVRTC compiles for CUDA 1"),
        ({"FAKE_CUDA_DEVICES": "0"}, "starting the CUDA driver failed: an error of the test"),
        ({"FAKE_CUDA_ARCHITECTURE": "50"}, "this GPU's architecture, sm_50, is not one that NVRTC"),
        ({"FAKE_CUDA_ARCHITECTURE": "120"}, "needs 150000 bytes of shared memory, and this GPU has 101376 for a block"),
        ({"FAKE_CUDA_FAIL": "cuModuleLoadData=209"}, "loading the CUDA kernel sasa_sum_parts failed: an error"),
        ({"FAKE_CUDA_FAIL": "cuLaunchKernel=719"}, "launching the CUDA kernel sasa_sum_parts on cuda:0 failed"),
        ({"SASA_NVRTC": "/nowhere/libnvrtc.so"}, "SASA_NVRTC=/nowhere/libnvrtc.so does not load"),
        ({"SASA_NVRTC": ""}, "NVRTC, the compiler of CUDA kernels, was not found"),
        ({"LD_LIBRARY_PATH": ""}, "there is no NVIDIA driver here (libcuda.so.1 was not found)"),
    ],
)
def test_impossible_calls_are_errors(run, tmp_path, variables, sentence):
    if find_library("cuda") and variables.get("LD_LIBRARY_PATH") == "":
        pytest.skip("this machine has a driver")
    if find_library("nvrtc") and variables.get("SASA_NVRTC") == "":
        pytest.skip("this machine has an NVRTC of its own")
    printed = run(["launch", "1", "1", "sum_parts.cuh:sasa_sum_parts:SASA_DOUBLE=0@150000"], fails=True, **variables)
    assert sentence in printed
    assert printed.count("error: ") == 1
    assert launches(tmp_path) == []
