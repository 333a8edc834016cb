"""The CPU kernels give the same bits with any number of threads, and a forked child does not hang."""

import os

import pytest
import torch

from helpers import NEEDS_KERNELS, block_inputs, local_inputs, normal, output_and_gradients
from operators import qkv_attention, qkv_attention_inference
from processes import run_python
from sasa.ops import block_attention, local_attention

pytestmark = NEEDS_KERNELS


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
from processes import HANGING
from helpers import local_inputs, normal, output_and_gradients
from sasa.ops import local_attention
torch.set_num_threads(2)
# Small enough for torch's own functions to use one thread: in the child they would hang.
tensors, grad = local_inputs(2, 4, 8, 8, 20, 20, 7, dtype=torch.float32), normal(2, 32, 20, 20, dtype=torch.float32)
attend = lambda: output_and_gradients(local_attention, tensors, grad, kernel_size=7, num_heads=4)
before = attend()
child = os.fork()
if child == 0:
    signal.alarm(HANGING)  # ends a child that hangs
    same = all(torch.equal(one, other) for one, other in zip(before, attend()))
    os._exit(0 if same else 3)
status = os.waitpid(child, 0)[1]
print("child", os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_does_not_wait_for_its_parents_threads():
    """As in a worker of a data loader: the parent has used torch's threads, which the child does not have."""
    assert run_python("-W", "ignore", "-c", FORKED, OMP_NUM_THREADS="2").split() == ["child", "0"]
