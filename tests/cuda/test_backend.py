"""The back-end "cuda" without a GPU: it gives the reason why it cannot run, and never runs another one."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

import sasa
from sasa.cli import doctor_report as doctor
from sasa.errors import ArgumentError
from sasa.ops import native
from sasa.ops.backends import BACKENDS

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
NAMES = ("local_attention", "local_attention_backward", "block_attention", "block_attention_backward")


def call(backend: str, query: torch.Tensor) -> torch.Tensor:
    return sasa.ops.local_attention(query, query, query, kernel_size=3, num_heads=2, backend=backend)


def cuda_lines() -> list[str]:
    """What `sasa doctor` prints below "CUDA kernels", as "name: text"."""
    text = doctor.report().split("CUDA kernels\n")[1].split("\n\n")[0]
    return [": ".join(line.split(maxsplit=1)) for line in text.splitlines()]


def test_it_says_why_it_cannot_run():
    reason = BACKENDS["cuda"].why_not()
    assert reason
    with pytest.raises(ArgumentError, match="backend 'cuda' cannot run here: ") as error:
        call("cuda", torch.randn(1, 8, 4, 4))
    assert reason in str(error.value) or "query is on cpu, and these kernels run on CUDA tensors" in str(error.value)


def test_without_the_library_its_reason_is_given(monkeypatch):
    monkeypatch.setattr(native, "_LOADED", False)
    monkeypatch.setattr(native, "_MISSING", "it was left out")
    assert BACKENDS["cuda"].why_not() == native._find_cuda_not_chosen() == "it was left out"
    assert native.cuda_compiler() is None
    assert cuda_lines() == ["compiler: NVRTC was not found"]


def test_the_doctor_reports_nvrtc_and_the_cache(monkeypatch):
    found = native.CudaCompiler("13.0", "/lib/libnvrtc.so.13", "/home/u/.cache/sasa", 12)
    monkeypatch.setattr(native, "cuda_compiler", lambda: found)
    assert cuda_lines() == [
        "compiler: NVRTC 13.0 (/lib/libnvrtc.so.13)",
        "compiled: 12 kernels, kept in /home/u/.cache/sasa",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_its_operators_have_no_other_implementation(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"sasa_cuda::{name}", "Meta")  # the fake
    assert not torch._C._dispatch_has_kernel_for_dispatch_key(f"sasa_cuda::{name}", "CompositeExplicitAutograd")
    assert not torch._C._dispatch_has_kernel_for_dispatch_key(f"sasa_cuda::{name}", "CPU")


def test_its_operators_have_the_fakes_of_the_dispatchers():
    with FakeTensorMode():
        query = torch.empty(2, 8, 5, 7, device="cuda")
        arguments = (query, query, query, None, None, 3, 2, "zeros", 1.0)
        output, logsumexp = torch.ops.sasa_cuda.local_attention(*arguments)
        expected = torch.ops.sasa.local_attention(*arguments)
    assert [(t.shape, t.dtype, t.device) for t in (output, logsumexp)] == [
        (t.shape, t.dtype, t.device) for t in expected
    ]
