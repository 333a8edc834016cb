"""The averages: a closed form, the paper's constants, and independence of how a step is cut into parts."""

import pytest
import torch
from torch import nn

from sasa.training.averages import BatchNormAverages, WeightAverage, decay_of, momentum_of, warmed_up


@pytest.mark.parametrize("steps", [1, 2, 50, 499, 500, 39_035])
def test_auto_covers_a_fiftieth_of_the_run(steps):
    decay, norms = decay_of("auto", steps), 1 / momentum_of("auto", steps)
    assert norms == pytest.approx(max(10, steps / 50))  # torch's own momentum covers ten
    assert decay == pytest.approx(1 - 50 / steps if steps >= 500 else 0)
    assert (decay_of(0.9999, steps), momentum_of(1e-4, steps)) == (0.9999, 1e-4)


def test_the_warm_up_rises_to_the_decay():
    values = [warmed_up(0.99, step) for step in range(2000)]
    assert values[0] == 0.0  # the random initial weights have no influence left
    assert values == sorted(values)
    assert values[-1] == 0.99


def test_weights_are_averaged_as_the_formula_says():
    layer = nn.Linear(2, 3)
    average = WeightAverage(layer, 0.9)
    expected = layer.weight.detach().clone()
    for step in range(30):
        with torch.no_grad():
            layer.weight.add_(torch.randn(3, 2))
        average.update(step)
        decay = min(0.9, step / (step + 2))
        expected = decay * expected + (1 - decay) * layer.weight.detach()
    raw = layer.weight.detach().clone()
    with average.in_place():
        torch.testing.assert_close(layer.weight.detach(), expected)
    assert torch.equal(layer.weight.detach(), raw)
    average.finish()
    torch.testing.assert_close(layer.weight.detach(), expected)


def test_without_a_decay_there_is_no_average():
    layer = nn.Linear(2, 3)
    raw = layer.weight.detach().clone()
    average = WeightAverage(layer, 0.0)
    average.update(0)
    with average.in_place():
        assert torch.equal(layer.weight.detach(), raw)
    assert average.state_dict() == {}


def moved(parts, momentum, steps=40, repeat=1):
    """Running statistics after `steps` batches that are cut into `parts`."""
    norm = nn.BatchNorm2d(3)
    statistics = BatchNormAverages(norm, momentum)
    torch.manual_seed(0)
    for step in range(steps):
        batch = torch.randn(8, 3, 4, 4) * 2 + step
        for part in batch.chunk(parts):
            for _ in range(repeat):
                norm(part)
            statistics.collect()
        statistics.update(step)
    statistics.release()
    assert norm.momentum == 0.1
    return norm.running_mean, norm.running_var


def test_batch_norm_moves_as_torch_does_once_it_is_warm():
    norm = nn.BatchNorm2d(3, momentum=0.3)
    statistics = BatchNormAverages(norm, 0.3)
    other = nn.BatchNorm2d(3, momentum=0.3)
    for step in range(1000, 1010):
        batch = torch.randn(8, 3, 4, 4)
        norm(batch)
        other(batch)
        statistics.collect()
        statistics.update(step)
        torch.testing.assert_close(norm.running_mean, other.running_mean)
        torch.testing.assert_close(norm.running_var, other.running_var)


def test_parts_move_batch_norm_once_a_step():
    whole, halves = moved(1, 0.05), moved(2, 0.05)
    torch.testing.assert_close(whole[0], halves[0])
    assert (whole[1] - halves[1]).abs().max() < 0.05  # variances within halves, not of the whole


def test_a_block_computed_twice_moves_batch_norm_once():
    for once, twice in zip(moved(1, 0.05), moved(1, 0.05, repeat=2), strict=True):
        assert torch.equal(once, twice)
