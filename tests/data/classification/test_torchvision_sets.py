"""CIFAR and MNIST as torchvision stores them: valid files of every version of numpy, damaged and malicious ones."""

import gzip
import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from sasa.data.classification import open_splits
from sasa.data.classification.safe_pickle import load
from sasa.errors import DataError

TENS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCHES = [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]


def text_2(text):
    """A str of Python 2, which holds bytes: BINSTRING."""
    content = text if isinstance(text, bytes) else text.encode()
    return b"T" + struct.pack("<i", len(content)) + content


def number_2(number):
    return b"J" + struct.pack("<i", number)


def python_2_batch(data, labels, label="labels"):
    """The bytes that cPickle of Python 2 and numpy 1 wrote, protocol 2: the published files are of this form."""
    dtype = b"cnumpy\ndtype\n" + text_2("u1") + number_2(0) + number_2(1) + b"\x87R"
    dtype += b"(" + number_2(3) + text_2("|") + b"NNN" + number_2(-1) * 2 + number_2(0) + b"tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number_2(0) + b"\x85" + text_2("b") + b"\x87R"
    shape = number_2(data.shape[0]) + number_2(data.shape[1]) + b"\x86"
    array = empty + b"(" + number_2(1) + shape + dtype + b"\x89" + text_2(data.tobytes()) + b"tb"
    listed = b"](" + b"".join(number_2(n) for n in labels) + b"e"
    fields = text_2("data") + array + text_2(label) + listed + text_2("batch_label") + text_2("training batch")
    return b"\x80\x02}(" + fields + b"u."


def python_3_batch(protocol, module="numpy._core", as_bytes=False):
    def write(data, labels, label="labels"):
        found = {"data": data, label: labels, "filenames": ["x.png"] * len(labels)}
        if as_bytes:
            found = {key.encode(): value for key, value in found.items()}
        content = pickle.dumps(found, protocol)
        if protocol < 4:  # the module's name is a line of the file
            content = content.replace(b"numpy._core", module.encode())
        return content

    return write


WRITERS = {
    "Python 2": python_2_batch,
    "protocol 0": python_3_batch(0),
    "protocol 2, old numpy": python_3_batch(2, "numpy.core"),
    "protocol 2, new numpy": python_3_batch(2),
    "protocol 4": python_3_batch(4),
    "protocol 5": python_3_batch(5),
    "keys of bytes": python_3_batch(3, as_bytes=True),
}


def pixels(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8)


def write_cifar10(root, write=python_2_batch, count=4):
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for seed, name in enumerate(BATCHES):
        labels = [(seed + n) % 10 for n in range(count)]
        (folder / name).write_bytes(write(pixels(count, seed), labels))
    meta = {"label_names": TENS, "num_cases_per_batch": count, "num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, 0))
    (folder / "readme.html").write_text("x")
    return folder


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("inner", [False, True])
def test_cifar_10(tmp_path, writer, inner):
    folder = write_cifar10(tmp_path, WRITERS[writer])
    train, test = open_splits(str(folder if inner else tmp_path), 0.2, 0)
    assert (len(train), len(test)) == (20, 4)
    assert train.classes == test.classes == TENS
    assert list(train.labels)[:8] == [0, 1, 2, 3, 1, 2, 3, 4]
    expected = pixels(4, 2)[1].reshape(3, 32, 32).transpose(1, 2, 0)
    np.testing.assert_array_equal(np.asarray(train.read(9)), expected)
    assert train.read(9, channels=1).mode == "L"
    assert test.name(3) == f"{folder} test image 3"


def write_cifar100(root):
    folder = root / "cifar-100-python"
    folder.mkdir()
    for name, count in (("train", 7), ("test", 3)):
        labels = [99 - n for n in range(count)]
        (folder / name).write_bytes(python_2_batch(pixels(count, count), labels, "fine_labels"))
    return folder


def test_cifar_100(tmp_path):
    folder = write_cifar100(tmp_path)
    train, test = open_splits(str(tmp_path), 0.2, 0)
    assert train.classes[99] == "99"
    names = [f"fine {n}" for n in range(100)]
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names, "coarse_label_names": []}, 2))
    train, test = open_splits(str(tmp_path), 0.2, 0)
    assert (len(train), list(test.labels)) == (7, [99, 98, 97])
    assert train.classes == names


def test_a_root_with_two_sets(tmp_path):
    write_cifar10(tmp_path)
    folder = write_cifar100(tmp_path)
    with pytest.raises(DataError, match="holds cifar-10-batches-py and cifar-100-python: give the path of the one"):
        open_splits(str(tmp_path), 0.2, 0)
    assert len(open_splits(str(folder), 0.2, 0)[0]) == 7


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def by_hand(module, name, argument):
    return f"c{module}\n{name}\n(V{argument}\ntR.".encode()


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_malicious_pickles_run_nothing(tmp_path, name, protocol):
    folder, marker = write_cifar10(tmp_path), tmp_path / "made"
    (folder / name).write_bytes(pickle.dumps({"data": Calls(os.system, f"touch {marker}")}, protocol))
    with pytest.raises(
        DataError, match=f"{name} asks to run posix.system: it is not a CIFAR file, and nothing was run"
    ):
        open_splits(str(tmp_path), 0.2, 0)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("module", "name", "argument"),
    [
        ("os", "mkdir", "MARKER"),
        ("builtins", "eval", "__import__('os').mkdir('MARKER')"),
        ("__builtin__", "eval", "__import__('os').mkdir('MARKER')"),
        ("builtins", "getattr", "x"),
        ("numpy", "load", "MARKER"),
        ("numpy.core.multiarray", "fromfile", "MARKER"),
        ("pathlib", "Path.touch", "MARKER"),
        ("copyreg", "_reconstructor", "x"),
        ("numpy", "dtype.__class__", "x"),
        ("sasa.data.classification.safe_pickle", "load", "MARKER"),
    ],
)
def test_every_other_name_is_refused(tmp_path, module, name, argument):
    path = tmp_path / "x"
    for protocol in (b"", b"\x80\x04"):
        path.write_bytes(protocol + by_hand(module, name, argument.replace("MARKER", str(tmp_path / "made"))))
        with pytest.raises(DataError, match=r"x asks to run .*: it is not a CIFAR file, and nothing was run"):
            load(path)
    assert not (tmp_path / "made").exists()


def test_attributes_set_by_a_pickle_do_not_persist(tmp_path):
    """BUILD on one of the allowed names: it may fail, and the next file is still read normally."""
    for state in (b"}Vx\nI1\nsb.", b"N}V_function\ncbuiltins\nlist\ns\x86b."):
        (tmp_path / "x").write_bytes(b"\x80\x02cnumpy\ndtype\n" + state)
        with pytest.raises(DataError, match="is not a CIFAR file"):
            load(tmp_path / "x")
    (tmp_path / "y").write_bytes(python_2_batch(pixels(2, 0), [0, 1]))
    np.testing.assert_array_equal(load(tmp_path / "y")["data"], pixels(2, 0))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        b"\x80\x02]q\x00.",  # a list
        b"\x80\x02}q\x00",  # no end
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a frame of many exabytes
        b"\x80\x02Pid\n.",  # an object kept elsewhere
        b"\x80\x02\x82\x01.",  # a name by number
        b"\x80\x02]r\xff\xff\xff\xff.",  # a note with the number 4 billion: the unpickler in C makes room for all
        b"(" * 100_000,
    ],
)
def test_pickles_that_are_not_a_dictionary(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match="x is not a CIFAR file"):
        load(tmp_path / "x")


def test_arrays_of_objects_and_false_sizes(tmp_path):
    found = [np.array([{}, []], dtype=object), np.array(["text"]), np.zeros(2, [("a", "u1")]), np.zeros(3, "M8[s]")]
    for protocol in (2, 5):
        for array in found:
            (tmp_path / "x").write_bytes(pickle.dumps({"data": array}, protocol))
            with pytest.raises(DataError, match="is not a CIFAR file"):
                load(tmp_path / "x")
    content = python_2_batch(pixels(2, 0), [0, 1])
    lie = content.replace(number_2(2) + number_2(3072), number_2(2_000_000_000) + number_2(3072))
    (tmp_path / "x").write_bytes(lie)
    with pytest.raises(DataError, match="is not a CIFAR file"):
        load(tmp_path / "x")


@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_by_columns_and_numbers_of_numpy(tmp_path, protocol):
    found = {"data": np.asfortranarray(pixels(3, 0)), "n": np.int64(-7)}
    found |= {"labels": np.arange(3), ">": np.arange(3, dtype=">i4")}
    (tmp_path / "x").write_bytes(pickle.dumps(found, protocol))
    read = load(tmp_path / "x")
    np.testing.assert_array_equal(read["data"], pixels(3, 0))
    assert (read["n"], read["labels"].tolist(), read[">"].tolist()) == (-7, [0, 1, 2], [0, 1, 2])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"labels": [0]}, r"must hold 'data' as uint8 of shape \(images, 3072\); it has none"),
        ({"data": pixels(2, 0)[:, :5], "labels": [0, 1]}, r".*it has uint8 of shape \(2, 5\)"),
        ({"data": pixels(2, 0).astype(np.int64), "labels": [0, 1]}, r".*it has int64 of shape \(2, 3072\)"),
        ({"data": pixels(2, 0)}, "must hold 'labels' as a list of integers"),
        ({"data": pixels(2, 0), "labels": ["a", "b"]}, "must hold 'labels' as a list of integers"),
        ({"data": pixels(2, 0), "labels": [0, 10]}, "has the label 10; expected 0 to 9"),
        ({"data": pixels(2, 0), "labels": [0, -1]}, "has the label -1; expected 0 to 9"),
        ({"data": pixels(2, 0), "labels": [0]}, "has 2 images and 1 labels"),
        ({"data": pixels(0, 0), "labels": []}, "has 0 images and 0 labels"),
        ({"data": pixels(2, 0), "labels": [0, 1]}, r"has 2 images; batches\.meta says 4"),
    ],
)
def test_odd_batches(tmp_path, content, sentence):
    folder = write_cifar10(tmp_path)
    (folder / "data_batch_2").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match="data_batch_2 " + sentence):
        open_splits(str(tmp_path), 0.2, 0)


def test_missing_cut_off_and_odd_meta(tmp_path):
    folder = write_cifar10(tmp_path)
    content = (folder / "data_batch_4").read_bytes()
    (folder / "data_batch_4").write_bytes(content[:-100])
    with pytest.raises(DataError, match="data_batch_4 is not a CIFAR file, or was cut off"):
        open_splits(str(tmp_path), 0.2, 0)
    (folder / "data_batch_4").unlink()
    with pytest.raises(DataError, match="data_batch_4 is missing: the download is incomplete"):
        open_splits(str(tmp_path), 0.2, 0)
    (folder / "data_batch_4").write_bytes(content)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["cat"]}))
    with pytest.raises(DataError, match=r"batches\.meta must name 10 classes as 'label_names'"):
        open_splits(str(tmp_path), 0.2, 0)


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(root, name="MNIST", packed=False):
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for seed, (part, count) in enumerate((("train", 6), ("t10k", 3))):
        images = np.random.default_rng(seed).integers(0, 256, (count, 28, 28), np.uint8)
        labels = np.arange(count, dtype=np.uint8) + 4 * seed
        for file, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            content = idx(array)
            (raw / (f"{file}.gz" if packed else file)).write_bytes(gzip.compress(content) if packed else content)
    return raw


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
@pytest.mark.parametrize("below", [".", "{name}", "{name}/raw"])
def test_mnist(tmp_path, packed, name, below):
    write_mnist(tmp_path, name, packed)
    train, test = open_splits(str(tmp_path / below.format(name=name)), 0.2, 0)
    assert (len(train), len(test)) == (6, 3)
    assert train.classes[9] == {"MNIST": "9", "FashionMNIST": "Ankle boot"}[name]
    assert list(test.labels) == [4, 5, 6]
    expected = np.random.default_rng(0).integers(0, 256, (6, 28, 28), np.uint8)[5]
    np.testing.assert_array_equal(np.asarray(train.read(5, channels=1)), expected)
    assert train.read(5).mode == "RGB"


def write_emnist(root, part, letters):
    """Two images of each letter: black, with a white row at the top as a reader should see it."""
    raw = root / "EMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        images = np.zeros((2 * len(letters), 5, 5), np.uint8)
        images[:, :, 0] = 255
        labels = np.repeat(np.arange(1, len(letters) + 1, dtype=np.uint8), 2)
        (raw / f"emnist-{part}-{split}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"emnist-{part}-{split}-labels-idx1-ubyte").write_bytes(idx(labels))
    lines = (f"{n} {ord(letter)} {ord(letter) + 32}" for n, letter in enumerate(letters, 1))
    (raw / f"emnist-{part}-mapping.txt").write_text("\n".join(lines))
    return raw


def test_emnist(tmp_path):
    raw = write_emnist(tmp_path, "letters", "ABC")
    train, test = open_splits(str(tmp_path), 0.2, 0)
    assert train.classes == test.classes == ["A/a", "B/b", "C/c"]
    assert list(test.labels) == [0, 0, 1, 1, 2, 2]
    assert np.asarray(train.read(0, channels=1))[:, 2].tolist() == [255, 0, 0, 0, 0]
    write_emnist(tmp_path, "balanced", "DE")
    with pytest.raises(DataError, match=r"holds emnist-.* and emnist-.*: give the path of the one that is meant"):
        open_splits(str(tmp_path), 0.2, 0)
    assert len(open_splits(str(raw / "emnist-balanced-train-images-idx3-ubyte"), 0.2, 0)[0]) == 4
    (raw / "emnist-letters-mapping.txt").write_text("1\n")
    with pytest.raises(
        DataError, match=r"letters-mapping\.txt must have a label and the codes of letters on each line"
    ):
        open_splits(str(raw / "emnist-letters-train-images-idx3-ubyte"), 0.2, 0)


def test_the_names_of_clothes_are_those_of_torchvision():
    from torchvision.datasets import CIFAR10, FashionMNIST

    from sasa.data.classification.cifar import SETS
    from sasa.data.classification.idx import CLOTHES

    assert FashionMNIST.classes == CLOTHES
    assert CIFAR10.base_folder in SETS


def pack(content):
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=9) as file:
        file.write(content)
    return buffer.getvalue()


HEAD = bytes([0, 0, 8, 3])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("train-images-idx3-ubyte", b"", "is not an idx file of bytes in 3 dimensions"),
        ("train-images-idx3-ubyte", b"text " * 10, "is not an idx file of bytes in 3 dimensions"),
        ("train-images-idx3-ubyte", HEAD + bytes(8), "is not an idx file of bytes"),
        (
            "train-images-idx3-ubyte",
            HEAD + struct.pack(">3I", 6, 28, 28) + bytes(99),
            "must hold 4704 bytes .* holds 99",
        ),
        ("train-images-idx3-ubyte", HEAD + struct.pack(">3I", 1, 2, 2) + bytes(5), "must hold 4 bytes .* more than 4"),
        ("train-images-idx3-ubyte", HEAD + b"\xff" * 12, "asks for .* bytes of memory; expected 4294967296 at most"),
        ("train-labels-idx1-ubyte", idx(np.arange(5, dtype=np.uint8)), "has 6 images, and train-labels.* 5 labels"),
        ("t10k-labels-idx1-ubyte", idx(np.full(3, 10, np.uint8)), "has the label 10; expected 0 to 9"),
        ("t10k-labels-idx1-ubyte", None, "t10k-labels-idx1-ubyte is missing, and so is"),
    ],
)
def test_odd_idx_files(tmp_path, name, content, sentence):
    raw = write_mnist(tmp_path)
    if content is None:
        (raw / name).unlink()
    else:
        (raw / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence) as caught:
        open_splits(str(tmp_path), 0.2, 0)
    assert str(raw) in str(caught.value)


def test_truncated_gzip_files_and_gzip_bombs(tmp_path):
    raw = write_mnist(tmp_path, packed=True)
    path = raw / "train-images-idx3-ubyte.gz"
    content = path.read_bytes()
    for damaged in (content[:-200], content[:1000] + bytes(100) + content[1100:], b"text"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz cannot be read"):
            open_splits(str(tmp_path), 0.2, 0)
    path.write_bytes(pack(HEAD + struct.pack(">3I", 1, 2, 2) + bytes(50_000_000)))
    with pytest.raises(DataError, match="must hold 4 bytes after its header; it holds more than 4"):
        open_splits(str(tmp_path), 0.2, 0)


def test_the_root_may_be_the_current_directory(tmp_path, monkeypatch):
    write_mnist(tmp_path, "FashionMNIST")
    monkeypatch.chdir(tmp_path / "FashionMNIST" / "raw")
    train, _ = open_splits(".", 0.2, 0)
    assert train.classes[0] == "T-shirt/top"
    assert Path.cwd().name == "raw"
