"""The operators on CUDA tensors, from Python to the launches: torch sees fake GPUs, whose kernels run in emulation."""

import json

import pytest
import torch

from cuda import emulator, fake_gpu

pytestmark = [
    pytest.mark.skipif(emulator.COMPILER is None, reason="no C++ compiler here (looked for g++ and clang++)"),
    pytest.mark.skipif((torch.version.cuda or "").split(".")[0] != "13", reason="this torch is not built with CUDA 13"),
]
SCRIPT = fake_gpu.HERE / "ops_on_fake_gpu.py"
LIMITS = {"float32": 1e-5, "bfloat16": 2e-2, "float64": 1e-10}


def errors(tmp_path, backend: str, case: str, dtype: str, device: str, *options: str, **variables: str):
    done = fake_gpu.run_python(SCRIPT, [backend, case, dtype, device, *options], tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def assert_small(found: dict[str, float], dtype: str) -> None:
    assert {name: error for name, error in found.items() if not error < LIMITS[dtype]} == {}


@pytest.mark.parametrize(
    ("dtype", "head_dim", "kernels"),
    [
        ("bfloat16", 16, ["local_forward", "local_queries", "local_sums", "local_keys", "sum_parts", "sum_parts"]),
        ("float32", 16, ["plain_forward", "plain_queries", "plain_keys", "sum_parts", "sum_parts"]),
    ],
)
def test_local_attention_by_name_runs_these_kernels(tmp_path, dtype, head_dim, kernels):
    found, _ = errors(tmp_path, "cuda", "local", dtype, "cuda:0", f"head_dim={head_dim}")
    assert {"result 0", "query", "key", "value", "rel_row", "rel_col"} == set(found)
    assert_small(found, dtype)
    assert fake_gpu.launched(tmp_path) == [f"sasa_{kernel}" for kernel in kernels]


def test_maps_that_tensor_cores_cannot_take_go_to_the_plain_kernels(tmp_path):
    found, _ = errors(tmp_path, "cuda", "local", "bfloat16", "cuda:0", "head_dim=16", "channels_last=0")
    assert_small(found, "bfloat16")
    assert fake_gpu.launched(tmp_path)[0] == "sasa_plain_forward"


def test_a_gpu_before_sm_80_takes_the_plain_kernels(tmp_path):
    variables = {"FAKE_CUDA_ARCHITECTURE": "75"}
    found, _ = errors(tmp_path, "cuda", "local", "bfloat16", "cuda:0", "head_dim=16", **variables)
    assert_small(found, "bfloat16")
    assert fake_gpu.launched(tmp_path)[:3] == ["sasa_plain_forward", "sasa_plain_queries", "sasa_plain_keys"]


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        ("qkv", "bfloat16"),
        ("inference", "bfloat16"),
        ("pooled", "float32"),
        ("compiled", "bfloat16"),
        ("exported", "float32"),
    ],
)
def test_the_dispatcher_takes_them_where_they_are_chosen(tmp_path, case, dtype):
    found, _ = errors(tmp_path, "auto", case, dtype, "cuda:0", SASA_GPU="cuda")
    assert_small(found, dtype)
    assert fake_gpu.launched(tmp_path) != []


def test_layers_compile_into_one_graph_with_the_fused_operators(tmp_path):
    errors(tmp_path, "auto", "layers", "float32", "cuda:0", SASA_GPU="cuda")


def test_plain_torch_runs_calls_that_no_kernel_takes(tmp_path):
    variables = {"SASA_GPU": "cuda", "FAKE_CUDA_ARCHITECTURE": "60"}
    found, said = errors(tmp_path, "auto", "not_taken", "float32", "cuda:0", **variables)
    assert_small(found, "float32")
    assert fake_gpu.launched(tmp_path) == []
    sentence = "this GPU's architecture, sm_60, is not one that NVRTC 13.99 compiles for (sm_75 to sm_120)"
    assert f"sasa: {sentence}; plain torch computes it" in said


def test_the_stem_of_a_resnet_runs_on_tensor_cores(tmp_path):
    found, _ = errors(tmp_path, "auto", "stem", "bfloat16", "cuda:0", SASA_GPU="cuda")
    assert_small(found, "bfloat16")
    assert fake_gpu.launched(tmp_path) == [
        "sasa_block_fold", "sasa_block_tensor_forward", "sasa_sum_parts",
        "sasa_block_fold_backward", "sasa_block_tensor_backward", "sasa_sum_parts", "sasa_block_unfold",
    ]  # fmt: skip


def test_block_attention_by_name(tmp_path):
    found, _ = errors(tmp_path, "cuda", "block", "float32", "cuda:0")
    assert_small(found, "float32")
    assert fake_gpu.launched(tmp_path) == [
        "sasa_block_fold", "sasa_block_forward",
        "sasa_block_fold_backward", "sasa_block_backward", "sasa_sum_parts", "sasa_block_unfold",
    ]  # fmt: skip


def test_each_gpu_and_stream_gets_its_own_launches(tmp_path):
    found, _ = errors(tmp_path, "cuda", "threads", "float32", "cuda:0", FAKE_CUDA_DEVICES="2")
    assert_small(found, "float32")
    assert len(found) == 4
    launches = [line.split()[2:4] for line in fake_gpu.log(tmp_path) if line.startswith("launch ")]
    devices_of_streams = {stream.removeprefix("stream="): device[-1] for device, stream in launches}
    assert sorted(devices_of_streams.values()) == ["0", "0", "1", "1"]
    assert "0" not in devices_of_streams
    loads = [line.split()[1] for line in fake_gpu.log(tmp_path) if line.startswith("load ")]
    assert loads.count("device=0") == loads.count("device=1") == 4  # each kernel once a GPU


def test_triton_takes_cuda_tensors_by_default(tmp_path):
    """`auto` then runs Triton's kernels or plain torch, which a fake GPU cannot: no CUDA kernel of ours is launched."""
    done = fake_gpu.run_python(SCRIPT, ["auto", "local", "float32", "cuda:0", "head_dim=16"], tmp_path)
    assert done.returncode != 0
    assert fake_gpu.launched(tmp_path) == []


def test_gpu_tests_run_on_the_fake_gpu(tmp_path):
    """Some tests of tests/gpu, to find mistakes in the tests themselves without a GPU."""
    tests = emulator.ROOT / "tests" / "gpu" / "test_kernels.py"
    chosen = "(map_sizes and 7-zeros and 2) or (around and bf16) or (inference and bf16-2) or (stem and fp32 and 5)"
    done = fake_gpu.run_python(SCRIPT, ["pytest", "-q", str(tests), "-k", chosen], tmp_path, SASA_GPU="cuda")
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout
