"""The layers under deterministic algorithms, process groups and autocast; also on a GPU, if present."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

import sasa
from helpers import DEVICES


def network(device, memory_format=torch.channels_last):
    torch.manual_seed(0)
    layers = nn.Sequential(
        sasa.AttentionStem(3, 16, num_heads=2),
        nn.BatchNorm2d(16),
        sasa.LocalAttention2d(16, 32, kernel_size=5, stride=2, num_heads=4),
        nn.ReLU(),
        sasa.LocalAttention2d(32, 16, kernel_size=3, num_heads=2, position="none"),
    )
    return layers.to(device, memory_format=memory_format)


def images(device):
    torch.manual_seed(1)
    return torch.randn(4, 3, 27, 27, device=device).contiguous(memory_format=torch.channels_last)


def gradients(module, x):
    module.zero_grad()
    module(x).square().mean().backward()
    return {name: p.grad.clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize("device", DEVICES)
def test_deterministic_algorithms_allow_all_of_it_and_repeat_to_the_bit(device):
    torch.use_deterministic_algorithms(True)
    try:
        model = network(device)
        first, second = (gradients(model, images(device)) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("device", DEVICES)
def test_data_parallel_processes_have_the_same_gradients(device, tmp_path):
    model = network(device)
    alone = gradients(model, images(device))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        parallel = gradients(nn.parallel.DistributedDataParallel(model), images(device))
    finally:
        dist.destroy_process_group()
    for name, gradient in alone.items():
        torch.testing.assert_close(parallel[f"module.{name}"], gradient)


@pytest.mark.parametrize("device", DEVICES)
def test_half_precision_by_autocast_keeps_float32_gradients(device):
    model = network(device)
    with torch.autocast(device, torch.bfloat16):
        output = model(images(device))
    assert output.dtype == torch.bfloat16
    output.float().square().mean().backward()
    exact = gradients(network(device), images(device))
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32
        assert (parameter.grad - exact[name]).norm() < 0.1 * exact[name].norm() + 1e-4, name
