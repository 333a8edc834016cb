"""Networks on disk: saving and loading, atomic writes, refused pickles."""

import io
import json
import os
import pickle
import struct
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.utils.prune

import sasa
from pickles import MakesDirectory
from sasa.errors import ArgumentError, SasaError
from sasa.files import atomic_write
from sasa.models import ResNet, load_pretrained
from sasa.models.weights import read_safetensors

SMALL = {"layers": (1, 1, 1, 1), "width": 0.125, "num_heads": 4, "kernel_size": 3, "num_classes": 5}
IMAGES = torch.linspace(-1, 1, 2 * 3 * 20 * 24).reshape(2, 3, 20, 24)


def small(name="sasa_resnet26", **options):
    return sasa.create_model(name, **{**SMALL, **options})


@pytest.fixture
def saved(tmp_path):
    """A directory with a network."""
    small().save_pretrained(tmp_path / "network", labels=["a", "b", "c", "d", "e"])
    return tmp_path / "network"


def change(directory, *path, to):
    """Set one entry of config.json."""
    file = directory / "config.json"
    config = json.loads(file.read_text())
    table = config
    for name in path[:-1]:
        table = table[name]
    table[path[-1]] = to
    file.write_text(json.dumps(config))


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sasa_resnet26", {}),
        ("resnet26", {}),
        ("sasa_resnet50_c12a34", {"stem": "small_conv"}),
        ("sasa_resnet26", {"groups": ("c", "a", "c", "a"), "padding": "mask", "position": "absolute", "in_chans": 1}),
        ("sasa_resnet26", {"content": False, "stem_values": "pointwise", "zero_init_residual": False}),
        ("sasa_resnet26", {"num_classes": 0, "global_pool": ""}),
    ],
    ids=str,
)
def test_a_saved_network_loads_bit_for_bit(name, options, tmp_path):
    network = small(name, **options)
    images = IMAGES[:, : network.in_chans]
    network(images)  # moves the running statistics
    network.save_pretrained(tmp_path / "a" / "b")
    back = sasa.create_model(tmp_path / "a" / "b")
    assert back.config == network.config
    assert back.name == name
    state, expected = back.state_dict(), network.state_dict()
    assert state.keys() == expected.keys()
    assert any(key.endswith("running_var") for key in state)
    assert all(torch.equal(state[key], expected[key]) for key in state)
    with torch.no_grad():
        assert torch.equal(back.eval()(images), network.eval()(images))


def test_a_network_in_channels_last_comes_back(tmp_path):
    network = small().to(memory_format=torch.channels_last)
    network.save_pretrained(tmp_path)
    back = sasa.create_model(tmp_path).state_dict()
    assert all(torch.equal(back[key], tensor) for key, tensor in network.state_dict().items())


def test_another_classifier_comes_back(saved, tmp_path):
    network = sasa.create_model(saved)
    network.reset_classifier(3)
    network.save_pretrained(tmp_path / "second")
    back = sasa.create_model(tmp_path / "second", num_classes=3)
    assert torch.equal(back.fc.weight, network.fc.weight)
    assert back.metadata["labels"] == ["a", "b", "c", "d", "e"]


def replace_classifier(network):
    network.fc = torch.nn.Linear(network.num_features, 9)
    return network


def prune_classifier(network):
    torch.nn.utils.prune.l1_unstructured(network.fc, "weight", 0.5)
    return network


def set_option(layer, **options):
    def change(network):
        vars(network.get_submodule(layer)).update(options)
        return network

    return change


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda network: sasa.convert(network, kernel_size=3, num_heads=4), r"it lacks layer1\.0\.spatial\.weight \("),
        (replace_classifier, r"fc\.weight is \(9, 256\), not \(5, 256\)"),
        (prune_classifier, r"it lacks fc\.weight \(1 missing, 2 extra\)"),
        (set_option("stem.conv", padding_mode="circular"), r"stem\.conv\.padding_mode is 'circular', not 'zeros'"),
        (set_option("layer2.0.norm1", eps=1e-3), r"layer2\.0\.norm1\.eps is 0\.001, not 1e-05"),
        (set_option("layer4.0.spatial", padding="mask"), r"layer4\.0\.spatial\.padding is 'mask', not 'zeros'"),
    ],
)
def test_a_changed_network_is_not_saved_as_the_original(change, difference, tmp_path):
    sentence = rf"this resnet26 was changed after it was created and could not be loaded: {difference}"
    with pytest.raises(ArgumentError, match=sentence):
        change(small("resnet26", groups="ccca")).save_pretrained(tmp_path / "network")
    assert not (tmp_path / "network").exists()


def test_options_that_do_not_change_the_output_may_change(tmp_path):
    network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(small()).eval()
    network.layer4[0].spatial.backend = "reference"
    network.layer1[0].norm1.momentum = None
    network.save_pretrained(tmp_path)
    torch.testing.assert_close(sasa.create_model(tmp_path).eval()(IMAGES), network(IMAGES), rtol=1e-4, atol=1e-4)


def test_a_subclass_is_saved_and_random_numbers_stay(tmp_path):
    class Own(ResNet):
        def __init__(self):
            super().__init__(small().config)

    network, state = Own(), torch.get_rng_state()
    network.save_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(sasa.create_model(tmp_path).fc.weight, network.fc.weight)


def test_metadata_is_kept_and_added_to(saved, tmp_path):
    network = sasa.create_model(str(saved))
    assert network.metadata == {"labels": ["a", "b", "c", "d", "e"]}
    network.save_pretrained(tmp_path / "second", input_size=[3, 32, 32], labels=list("vwxyz"))
    assert load_pretrained(tmp_path / "second").metadata == {"labels": list("vwxyz"), "input_size": [3, 32, 32]}


def test_features_of_a_saved_network(saved):
    pyramid = sasa.create_model(saved, features_only=True, out_indices=(1, 2))
    expected = sasa.create_model(saved).eval().forward_intermediates(IMAGES, [1, 2], intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(pyramid.eval()(IMAGES), expected, strict=True))


def test_written_files_are_as_open_as_others(saved):
    (saved / "other").touch()
    assert {path.stat().st_mode for path in saved.iterdir()} == {(saved / "other").stat().st_mode}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_classes": 7}, "holds a network with num_classes=5, not 7; load it without the option and call"),
        ({"width": 1.0}, "holds a network with width=0.125, not 1.0$"),
        ({"groups": "cccc"}, "holds a network with groups=aaaa, not cccc"),
        ({"kernal_size": 3}, "'kernal_size' is not an option of a network; did you mean 'kernel_size'"),
        ({"kernel_size": 4}, r"kernel_size \(4\) must be odd"),
    ],
)
def test_options_that_differ_from_the_saved_ones_are_an_error(saved, options, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        sasa.create_model(saved, **options)


def test_agreeing_options_load(saved):
    sasa.create_model(saved, num_classes=5, layers=(1, 1, 1, 1), groups=["a"] * 4, stem=None)


@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(failing, tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic_write(path, b"old")

    def fail(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    if failing == "write":
        with pytest.raises(TypeError):
            atomic_write(path, "not bytes")
    else:
        monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[failing], fail)
        with pytest.raises(OSError, match="No space left"):
            atomic_write(path, b"new")
    assert files(tmp_path) == {"file": b"old"}


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    atomic_write(tmp_path / "file", b"old")

    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "file", b"new")
    assert files(tmp_path) == {"file": b"old"}


def test_a_save_that_fails_is_an_error_and_leaves_the_old_network(saved, monkeypatch):
    before = files(saved)

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(SasaError, match=f"cannot write {saved}: No space left on device"):
        small().save_pretrained(saved)
    assert files(saved) == before


def test_metadata_that_is_not_json_is_an_error_before_anything_is_written(saved):
    before = files(saved)
    with pytest.raises(ArgumentError, match=r"metadata must be values that JSON can represent: .*Tensor"):
        small().save_pretrained(saved, mean=torch.zeros(3))
    assert files(saved) == before


@pytest.mark.parametrize("below", ["network", "network/deeper"])
def test_a_directory_that_cannot_be_written_is_an_error(below, tmp_path):
    (tmp_path / "network").write_text("a regular file")
    with pytest.raises(SasaError, match=rf"cannot write .*{below}: (File exists|Not a directory)"):
        small().save_pretrained(tmp_path / below)
    assert files(tmp_path) == {"network": b"a regular file"}


def pickled(kind, content):
    """The bytes of a pickle: torch.save's two formats, or a protocol of pickle itself."""
    if isinstance(kind, int):
        return pickle.dumps(content, protocol=kind)
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "legacy", 0, 1, 2, 3, 4, 5])
def test_a_pickle_is_refused_and_not_opened(saved, tmp_path, kind):
    marker = tmp_path / "marker"
    content = pickled(kind, {"weights": MakesDirectory(marker)})
    if isinstance(kind, int):  # the pickle would create the directory
        pickle.loads(content)
        marker.rmdir()
    (saved / "model.safetensors").write_bytes(content)
    # Protocols 0 and 1 have no magic number: they are refused as invalid safetensors files.
    sentence = "is not a whole safetensors file" if kind in (0, 1) else "is a pickle.*it was not opened"
    with pytest.raises(SasaError, match=rf"model\.safetensors {sentence}"):
        sasa.create_model(saved)
    assert not marker.exists()


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 19280])
def test_a_good_file_may_begin_like_a_pickle(tmp_path, length):
    path = tmp_path / "model.safetensors"
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).ljust(length)
    path.write_bytes(struct.pack("<Q", length) + header.encode() + struct.pack("<f", 1.5))
    assert path.read_bytes()[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    assert read_safetensors(path)["w"].tolist() == [1.5]


@pytest.mark.parametrize("keep", [0, 1, 8, 100, -1])
def test_a_truncated_file_is_an_error(saved, keep):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SasaError, match=r"model\.safetensors is not a whole safetensors file: "):
        sasa.create_model(saved)


def test_missing_safetensors_is_an_error(saved, monkeypatch):
    network = small()
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)  # as if it were not installed
    for attempt in (lambda: sasa.create_model(saved), lambda: network.save_pretrained(saved / "second")):
        with pytest.raises(SasaError, match=r"needs safetensors: pip install 'sasa\[train\]'"):
            attempt()
    assert not (saved / "second").exists()


def test_missing_files_are_errors(saved, tmp_path):
    with pytest.raises(SasaError, match=r"holds no saved network: config\.json is missing"):
        sasa.create_model(tmp_path)
    (saved / "model.safetensors").unlink()
    with pytest.raises(SasaError, match=r"cannot read weights .*model\.safetensors: No such file"):
        sasa.create_model(saved)
    (saved / "model.safetensors").mkdir()
    with pytest.raises(SasaError, match=r"cannot read weights .*model\.safetensors: Is a directory"):
        sasa.create_model(saved)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "it is not JSON"),
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("\ufffe\x00", "it is not JSON"),
        ("[]", "it has no format"),
        ("null", "it has no format"),
        ("{}", "it has no format"),
        ('{"architecture": "resnet50", "num_classes": 10}', "it has no format"),  # timm's config.json
        ('{"format": 2, "options": {}}', "has format 2; this version reads format 1"),
        ('{"format": "pt"}', "has format 'pt'; this version reads format 1"),
        ('{"format": 1}', "options must be a table, got None"),
        ('{"format": 1, "options": [1]}', r"options must be a table, got \[1\]"),
        ('{"format": 1, "options": {}, "metadata": 3}', "metadata must be a table, got 3"),
        ('{"format": 1, "options": {}, "architecture": 3}', "architecture must be text, got 3"),
        ('{"format": 1, "options": {}}', "is not the config of a network: layers is missing"),
    ],
)
def test_an_invalid_config_is_an_error(saved, text, sentence):
    (saved / "config.json").write_text(text)
    with pytest.raises(SasaError, match=rf"config\.json .*{sentence}"):
        sasa.create_model(saved)


def test_a_config_that_is_not_text_is_an_error(saved):
    (saved / "config.json").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(SasaError, match=r"config\.json is not a network's config: it is not JSON"):
        sasa.create_model(saved)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("width", "abc", "width must be a positive number, got 'abc'"),
        ("width", float("nan"), "width must be a positive number, got nan"),
        ("width", None, "width must be a positive number, got None"),
        ("layers", None, "layers must be four numbers of blocks.*got None"),
        ("layers", [1, 1, "1", 1], "layers must be four numbers of blocks"),
        ("layers", "1111", "layers must be four numbers of blocks.*got '1111'"),
        ("groups", ["a", "a", "a", "a"], "groups must be four letters"),
        ("stem", {"conv": 1}, "stem must be one of"),
        ("stem_block", "4", "stem_block must be an integer"),
        ("num_heads", 8.0, "num_heads must be an integer"),
        ("kernel_size", [3, 3], "kernel_size must be a positive odd integer"),
        ("content", 1, "content must be True or False, got 1"),
        ("position", None, "position must be one of"),
        ("padding", 3, "is not a number of pixels"),
        ("padding", ["zeros"], "is not a number of pixels"),
        ("heads", 8, "'heads' is not an option of a network; did you mean 'num_heads'"),
    ],
    ids=str,
)
def test_options_that_fit_nothing_are_an_error_that_names_the_file(saved, name, value, sentence):
    change(saved, "options", name, to=value)
    with pytest.raises(SasaError, match=rf"config\.json is not the config of a network: .*{sentence}"):
        sasa.create_model(saved)


def test_weights_of_another_width_name_the_tensor_and_both_shapes(saved):
    change(saved, "options", "width", to=0.25)
    with pytest.raises(SasaError, match=r"does not fit the network: stem\.w_query is \(8, 3\), not \(16, 3\)$"):
        sasa.create_model(saved)


def test_weights_of_another_network_name_a_tensor(saved):
    change(saved, "options", "stem", to="conv")
    with pytest.raises(SasaError, match=r"it lacks stem\.conv\.weight \(\d+ missing, \d+ extra\)"):
        sasa.create_model(saved)


def test_weights_with_more_than_the_network_has_name_a_tensor(saved):
    path = saved / "model.safetensors"
    safetensors.torch.save_file({**read_safetensors(path), "more": torch.zeros(1)}, path)
    with pytest.raises(SasaError, match=r"it has more, which the network lacks \(0 missing, 1 extra\)"):
        sasa.create_model(saved)


def test_weights_of_another_kind_are_an_error(saved):
    path = saved / "model.safetensors"
    safetensors.torch.save_file({**read_safetensors(path), "fc.bias": torch.zeros(5, dtype=torch.int64)}, path)
    with pytest.raises(SasaError, match=r"fc\.bias is torch\.int64, not torch\.float32"):
        sasa.create_model(saved)
