"""The comparisons of the acceptance table: workloads, ceilings, processes, profiles."""

import math
import mmap
import os
import random
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks.cpu import agreement, ceilings, comparisons, fresh_process, stages
from benchmarks.cpu.ceilings import Ceilings
from benchmarks.cpu.comparisons import COMPARISONS, training_memory
from benchmarks.cpu.fresh_process import NotPossibleError, in_fresh_process, peak_growth
from benchmarks.cpu.results import judge
from benchmarks.cpu.rows import choose
from benchmarks.cpu.setting import Setting
from benchmarks.cpu.stages import stage_of, stages_of
from benchmarks.cpu.workloads import (
    SIDES,
    attention_core,
    core_step,
    network,
    operator_steps,
    spatial_convolutions,
    unfold_attention,
)
from sasa.errors import SasaError
from sasa.nn import LocalAttention2d
from sasa.ops import local_attention

TINY = Setting(batch=2, side=32, layers=(1, 1, 1, 1), rounds=1, seconds=1.0, cases=2)
CEILINGS = Ceilings(2, 100e9, 60e9, 10e9, 20e9)


def test_the_floor_is_the_slower_of_arithmetic_and_memory():
    assert CEILINGS.floor(200e9, 1e9) == 2.0
    assert CEILINGS.floor(1e9, 40e9) == 2.0
    assert replace(CEILINGS, flops=None).floor(1e9, 1e9) is None


def test_ceilings_say_what_was_not_measured(monkeypatch):
    monkeypatch.setattr(ceilings, "flops_per_second", lambda threads, seconds: None)
    found = ceilings.measure_ceilings(1, size=2**16)
    assert found.copy > 0
    assert "not measured (the native library is not loaded" in str(found)
    assert "100 GFLOP/s, of one thread 60" in str(CEILINGS)


def test_multiply_adds_are_counted_twice(monkeypatch):
    seen = []

    def multiply_adds(rounds):
        seen.append(torch.get_num_threads())
        return 50.0

    monkeypatch.setattr(ceilings, "_seconds", lambda work: work() and 2.0)
    monkeypatch.setattr(torch.ops.sasa, "cpu_multiply_adds", multiply_adds, raising=False)
    assert ceilings.flops_per_second(2) == 2 * 50.0 / 2.0
    assert set(seen) == {2}


def test_without_torchvision_an_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models.resnet", None)
    with pytest.raises(SasaError, match=r"the baseline is torchvision's ResNet-50: pip install 'sasa\[train\]'"):
        network("baseline", TINY)


def test_networks_are_the_papers():
    with torch.device("meta"):
        networks = {side: network(side, Setting()) for side in SIDES}
    parameters = {side: sum(p.numel() for p in model.parameters()) / 1e6 for side, model in networks.items()}
    assert {side: round(count, 2) for side, count in parameters.items()} == {
        "baseline": 25.56,
        "full": 18.03,
        "convstem": 18.04,
    }


@pytest.mark.parametrize(
    "name", ["inference", "training", "folded", "batch-1", "bfloat16", "cores", "operator-training"]
)
def test_comparisons_run(name):
    try:
        measured = COMPARISONS[name].measure(TINY)
    except NotPossibleError as reason:  # not every CPU computes in bfloat16
        pytest.skip(str(reason))
    for row in choose([name]):
        assert judge(row, measured).value > 0


def test_there_are_16_convolutions():
    shapes = [(conv.stride[0], *shape) for conv, shape in spatial_convolutions(Setting())]
    assert len(shapes) == 16
    assert shapes[0] == (1, 8, 64, 56, 56)
    assert shapes[3] == (2, 8, 128, 56, 56)
    assert shapes[-1] == (1, 8, 512, 7, 7)


def test_a_core_is_the_layer_without_its_projection():
    torch.manual_seed(0)
    layer = LocalAttention2d(16, 16, 3, 2, num_heads=8)
    core = attention_core(16, 2, 3)
    core.load_state_dict({name: value for name, value in layer.state_dict().items() if "qkv" not in name})
    x = torch.randn(1, 16, 5, 6)
    torch.testing.assert_close(core(layer.qkv(x)), layer(x))
    core_step(spatial_convolutions(TINY))()


def test_the_unfolded_baseline_is_equation_3():
    tensors = [torch.randn(1, 16, 5, 6, dtype=torch.float64) for _ in range(3)]
    rels = [torch.randn(8, 3, 1, dtype=torch.float64) for _ in range(2)]
    want = local_attention(*tensors, *rels, kernel_size=3, num_heads=8, backend="reference")
    torch.testing.assert_close(unfold_attention(*tensors, *rels), want)


def test_operators_that_differ_are_not_timed(monkeypatch):
    monkeypatch.setattr("benchmarks.cpu.workloads.unfold_attention", lambda *tensors: 2 * tensors[2])
    with pytest.raises(SasaError, match="our operator and the unfolded one differ by"):
        operator_steps(1, 16, 4, backward=False)


def test_agreement_of_random_cases():
    choose_shapes = random.Random(0)
    cases = [agreement.random_case(choose_shapes) for _ in range(300)]
    assert {case.padding for case in cases} == {"zeros", "mask"}
    assert {case.terms for case in cases} == {"both", "content", "relative"}
    assert {case.window for case in cases} == {1, 3, 5, 7, 9, 11}
    assert any(case.height < case.window for case in cases)
    errors, worst = agreement.errors_of(6)
    assert len(errors) == 6
    assert max(errors) < 1e-5
    assert worst.startswith(f"worst {max(errors):.1e}: ")


def test_a_nan_is_the_largest_error():
    nan = torch.full((2,), math.nan)
    assert agreement._relative_error(nan, torch.ones(2).double(), 1.0) == math.inf


# Fresh processes


def test_peak_growth_includes_memory_that_is_freed_again():
    def step():  # mapped, because an allocator may reuse freed memory
        with mmap.mmap(-1, 2**26) as memory:
            memory.write(b"1" * 2**26)

    assert peak_growth(step) > 2**25


def test_an_error_in_a_fresh_process_is_one_sentence():
    with pytest.raises(SasaError, match=r"training_memory in a new process failed: KeyError: 'nothing'"):
        in_fresh_process(training_memory, TINY, "nothing")


def ends(setting):
    os._exit(7)


def test_a_process_that_ends_is_one_sentence():
    with pytest.raises(SasaError, match="ends in a new process ended with exit status 7"):
        in_fresh_process(ends, TINY)


def test_avx2_needs_x86(monkeypatch):
    monkeypatch.setattr(fresh_process.platform, "machine", lambda: "aarch64")
    with pytest.raises(NotPossibleError, match="AVX2 is an instruction set of x86, this machine is aarch64"):
        fresh_process.with_avx2(comparisons.inference)(TINY)


def test_avx2_rows_are_not_repeated_where_avx2_is_the_widest(monkeypatch):
    monkeypatch.setattr(fresh_process.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with pytest.raises(NotPossibleError, match="AVX2 is the widest instruction set here"):
        fresh_process.with_avx2(comparisons.inference)(TINY)


@pytest.mark.skipif(fresh_process.why_not_avx2() is not None, reason=fresh_process.why_not_avx2() or "")
@pytest.mark.parametrize("measure", [comparisons.training, comparisons.demo_inference])
def test_a_comparison_limited_to_avx2(measure):
    measured = fresh_process.with_avx2(measure)(TINY)
    assert set(measured.values) == set(measure(TINY).values)
    assert measured.note.startswith("ATen with AVX2, our kernels with ")
    assert "avx512" not in measured.note


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "AVX2", reason="AVX2 is the widest here")
def test_another_instruction_set_than_avx2_is_an_error():
    with pytest.raises(SasaError, match="torch was limited to AVX2, but reports "):
        fresh_process._with_checked_avx2(TINY, comparisons.inference)


# Stages


@pytest.mark.parametrize(
    ("name", "args", "stage"),
    [
        ("aten::convolution", (None, torch.empty(64, 3, 7, 7)), "stem convolution"),
        ("aten::convolution", (None, torch.empty(64, 64, 3, 3)), "spatial convolutions"),
        ("aten::convolution_backward", (None, None, torch.empty(192, 64, 1, 1)), "q, k, v projections"),
        ("aten::convolution", (None, torch.empty(256, 64, 1, 1)), "other 1 x 1 convolutions"),
        ("sasa::local_attention_backward", (), "attention cores"),
        ("sasa::qkv_attention_inference", (), "attention cores"),
        ("sasa::block_attention", (), "stem attention"),
        ("sasa::cpu_something", (), "other sasa operations"),
        ("aten::native_batch_norm_backward", (), "batch norm"),
        ("aten::addmm", (), "classifier and loss"),
        ("aten::add_", (), "ReLU and sums"),
        ("aten::max_pool2d_with_indices", (), "pooling"),
        ("aten::view", (), "rest"),
    ],
)
def test_stage_of_an_operation(name, args, stage):
    assert stage_of(name, args) == stage


def test_stages_of_a_network():
    found = {(p.side, p.passed): {s.name: s for s in p.stages} for p in stages.profiles(TINY, ["full"])}
    forward, training = found["full", "inference"], found["full", "training step"]
    assert {"attention cores", "stem attention", "q, k, v projections", "batch norm"} <= set(forward)
    weights = "gradients of 1 x 1 weights"
    assert {"attention cores", "classifier and loss", "ReLU and sums", weights} <= set(training)
    assert forward["attention cores"].calls == 4
    assert training["attention cores"].calls == 8
    assert training["q, k, v projections"].flops == pytest.approx(2 * forward["q, k, v projections"].flops)
    assert forward["q, k, v projections"].flops == pytest.approx(
        2 * 3 * (8 * 8 * 64**2 + 8 * 8 * 128**2 + 4 * 4 * 256**2 + 2 * 2 * 512**2)
    )


def test_stages_are_of_one_image():
    x = torch.ones(4, 3, 8, 8)
    (stage,) = stages_of(lambda: x.relu(), images=4, rounds=1)
    assert (stage.name, stage.calls) == ("ReLU and sums", 1)
    assert stage.moved == 2 * x[0].numel() * 4
