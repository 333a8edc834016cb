"""A network and its convolutional twin: sizes, batches, steps and the report. No test depends on a measured time."""

import json
import math

import pytest
import torch
from torch import nn

from sasa.data.classification.batch import Batch
from sasa.errors import SasaError
from sasa.models import create_model
from sasa.nn import AttentionStem, LocalAttention2d
from sasa.speed import Stop, convolutional_twin
from sasa.speed.pair import (
    BATCHES,
    INFERENCE,
    OURS,
    PASSES,
    TRAINING,
    TWIN,
    PairTimes,
    first_batches,
    pair_of_network,
    time_pair,
)
from sasa.tasks.classification.config import TrainConfig
from sasa.tasks.registry import make_task
from sasa.training.processes import make_fabric

SMALL = {"width": 0.125, "num_heads": 2, "layers": [1, 1, 1, 1]}


def test_batches_of_a_run_are_real_and_whole():
    config = TrainConfig.read("digits")
    config.run.accelerator = "cpu"
    batches = first_batches(make_task(config, make_fabric(config.run)), config)
    assert [tuple(batch.images.shape) for batch in batches] == [(64, 1, 24, 24)] * BATCHES
    assert all(b.images.is_contiguous(memory_format=torch.channels_last) for b in batches)
    assert len({int(label) for batch in batches for label in batch.labels}) == 10


def test_smaller_batches_are_left_out():
    class Task:
        def batches(self, step):
            return iter([Batch(torch.zeros(n, 1, 2, 2), torch.zeros(n), torch.arange(n), []) for n in (3, 4, 0, 4)])

    assert [len(batch) for batch in first_batches(Task(), TrainConfig())] == [4, 4]


def test_table_and_json():
    times = {OURS: [1.0, 2.0, 3.0], TWIN: [2.0, 2.0, 2.0]}
    found = PairTimes("net", 64, {OURS: 1000, TWIN: 2000}, {"torch": "x"}, {TRAINING: times, INFERENCE: times})
    assert found.ratio("inference").median == 1.0
    lines = found.to_text().splitlines()
    assert lines[0] == "net and its convolutional twin, batch size 64; a ratio below 1 is faster"
    assert [cell.strip() for cell in lines[4].split("|")[1:-1]] == [
        "training step", "2.000", "2.000", "1.00", "0.75 to 1.25", "3",
    ]  # fmt: skip
    values = json.loads(json.dumps(found.to_dict()))
    assert values["passes"]["inference"] == {
        "ours_ms_a_picture": 2.0,
        "twin_ms_a_picture": 2.0,
        "ratio": {"median": 1.0, "lower": 0.75, "upper": 1.25},
        "rounds": 3,
    }


def test_a_pass_that_was_not_measured_says_so():
    times = {OURS: [1.0], TWIN: [2.0]}
    found = PairTimes("net", 64, {OURS: 1000, TWIN: 2000}, {"torch": "x"}, {TRAINING: times})
    assert found.to_dict()["passes"]["inference"] == {"not measured": "stopped"}
    assert "| inference" in found.to_text()
    assert found.to_text().count("not measured: stopped") == 1


@pytest.mark.parametrize("name", ["sasa_resnet26", "retinanet_sasa_resnet26_attnheads"])
def test_a_network_by_name_is_timed_on_random_images(name):
    pair = pair_of_network(create_model(name, **SMALL), batch_size=2, size=64)
    said, saved = [], []
    times = time_pair(pair, rounds=1, say=said.append, save=lambda times: saved.append(list(times.times)))
    assert [list(values) for values in times.times.values()] == [[OURS, TWIN]] * 2
    assert all(math.isfinite(times.ratio(passed).median) for passed in PASSES)
    assert [sentence.partition(",")[0] for sentence in said] == list(PASSES)
    assert saved == [[TRAINING], [TRAINING, INFERENCE]]
    assert times.parameters[OURS] < times.parameters[TWIN]
    assert times.environment["cpu"]


def test_a_training_step_of_random_images_reaches_every_parameter():
    network = create_model("sasa_resnet26", **SMALL, zero_init_residual=False)
    step = pair_of_network(network, batch_size=2, size=64).step_makers[TRAINING](network)
    step()
    (copied,) = (cell.cell_contents for cell in step.__closure__ if isinstance(cell.cell_contents, torch.nn.Module))
    assert copied is not network
    assert all(parameter.grad is not None for parameter in copied.parameters())


def test_a_stop_before_the_first_pass_measures_nothing():
    stop = Stop()
    stop.reason = "interrupted"
    times = time_pair(pair_of_network(create_model("sasa_resnet26", **SMALL), 1, 32), stop=stop)
    assert times.missing == list(PASSES)


GRAY = {**SMALL, "in_chans": 1, "num_classes": 10}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sasa_resnet26", {"stem_block": 2}),
        ("sasa_resnet26", {"stem_block": 4}),
        ("sasa_resnet26", {"stem": "small_attention"}),
        ("sasa_resnet26_convstem", {}),
        ("sasa_resnet26_convstem", {"groups": "ccaa"}),
    ],
)
def test_a_twin_has_feature_maps_of_the_same_sizes(name, options):
    ours = create_model(name, **GRAY, **options)
    other = convolutional_twin(ours)
    assert not any(isinstance(module, LocalAttention2d | AttentionStem) for module in other.modules())
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in other.modules()) >= 4
    image = torch.randn(2, 1, 17, 16)
    with torch.no_grad():
        maps = [n.eval().forward_intermediates(image, intermediates_only=True) for n in (ours, other)]
    assert [m.shape for m in maps[0]] == [m.shape for m in maps[1]]


def test_a_convolutional_network_has_no_twin():
    with pytest.raises(SasaError, match="resnet26 has no attention, so it has no convolutional twin"):
        convolutional_twin(create_model("resnet26", **GRAY))


@pytest.mark.parametrize("name", ["attn", "attnheads"])
def test_the_twin_of_a_detector(name):
    ours = create_model(f"retinanet_sasa_resnet26_{name}", width=0.1, num_heads=2, layers=[1, 1, 1, 1])
    other = convolutional_twin(ours)
    assert not any(isinstance(module, LocalAttention2d | AttentionStem) for module in other.modules())
    assert other.config == create_model("retinanet_resnet26", width=0.1, num_heads=2, layers=[1, 1, 1, 1]).config
    heads_only = create_model("retinanet_resnet26_attnheads", width=0.1, num_heads=2, layers=[1, 1, 1, 1])
    assert convolutional_twin(heads_only).config == other.config
    with pytest.raises(SasaError, match="has no attention, so it has no convolutional twin"):
        convolutional_twin(other)
