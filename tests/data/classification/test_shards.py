"""WebDataset's tar shards: every tar format, and damaged or invalid files."""

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_files import png_bytes
from pickles import MakesDirectory
from sasa.data.classification import Subset, TarShards, open_splits
from sasa.data.classification.shards import expand, scan
from sasa.errors import DataError


def add(tar, name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(content))


def write_tar(path, members, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            add(tar, name, content)


def samples(numbers, suffix="cls"):
    for number in numbers:
        label = str(number % 3) if suffix == "cls" else json.dumps({"label": number % 3, "width": 8})
        yield f"{number:04d}.png", png_bytes((number, 0, 0))
        yield f"{number:04d}.{suffix}", label.encode()


def reds(source):
    return [source.read(index).getpixel((0, 0))[0] for index in range(len(source))]


def words(count, name, suffix="txt"):
    """Members of samples whose labels are text; `name` is called with the number of the sample."""
    for number in range(count):
        yield f"{number:04d}.png", png_bytes((number, 0, 0))
        yield f"{number:04d}.{suffix}", name(number).encode()


@pytest.mark.parametrize(
    ("suffix", "label"),
    [("cls", "{}"), ("cls", " {}\n"), ("json", '{{"label": "{}"}}'), ("json", '{{"cls": "{}"}}'), ("txt", "{}")],
)
def test_names_of_classes(tmp_path, suffix, label):
    names = ["dog", "caf\u0065\u0301"]  # an accent of its own, as macOS writes it
    for split in ("train", "val"):
        write_tar(tmp_path / f"{split}.tar", words(6, lambda number: label.format(names[number % 2]), suffix))
    train, held_out = open_splits(str(tmp_path), 0.2, 0)
    assert train.classes == held_out.classes == ["caf\u00e9", "dog"]
    assert list(train.labels) == list(held_out.labels) == [1, 0, 1, 0, 1, 0]


def test_names_of_classes_in_the_order_of_a_list(tmp_path):
    (tmp_path / "classes.txt").write_text("dog\ncaf\u0065\u0301\n")  # an accent of its own, as macOS writes it
    write_tar(tmp_path / "a.tar", [("1.png", png_bytes((1, 0, 0))), ("1.cls", "caf\u00e9".encode())])
    assert list(TarShards([tmp_path / "a.tar"]).labels) == [1]


def test_captions_are_not_classes(tmp_path):
    write_tar(tmp_path / "a.tar", words(20, "photo {}".format))
    with pytest.raises(DataError, match=r"has 20 labels in 20 images: texts or numbers, not classes"):
        TarShards([tmp_path / "a.tar"])


LAYOUTS = [
    ("train-000000.tar", "train-000001.tar", "val-000000.tar"),
    ("imagenet-train-0000.tar", "imagenet-train-0001.tar", "imagenet-val-0000.tar"),
    ("train/0.tar", "train/1.tar", "val/0.tar"),
    ("data/train-0.tar", "data/train-1.tar", "data/test-0.tar"),
]


@pytest.mark.parametrize("names", LAYOUTS)
@pytest.mark.parametrize("suffix", ["cls", "json"])
def test_layouts(tmp_path, names, suffix):
    for name, numbers in zip(names, (range(5), range(5, 9), range(9, 12)), strict=True):
        write_tar(tmp_path / name, samples(numbers, suffix))
    train, held_out = open_splits(str(tmp_path), 0.2, 0)
    assert reds(train) == list(range(9))
    assert list(train.labels) == [n % 3 for n in range(9)]
    assert list(train.groups or []) == [0] * 5 + [1] * 4
    assert reds(held_out) == [9, 10, 11]
    assert train.name(6) == f"{tmp_path / names[1]} sample '0006'"
    assert train.classes == held_out.classes == ["0", "1", "2"]


def test_a_pattern_and_a_file_are_split_at_random(tmp_path):
    for shard in range(3):
        write_tar(tmp_path / f"train-{shard:04d}.tar", samples(range(shard * 10, shard * 10 + 10)))
    train, held_out = open_splits(f"{tmp_path}/train-{{0000..0001}}.tar", 0.2, 0)
    assert len(train) + len(held_out) == 20
    assert isinstance(train, Subset)
    assert train.groups == [index // 10 for index in train.indices]
    train, held_out = open_splits(str(tmp_path / "train-0002.tar"), 0.2, 0)
    assert sorted(reds(train) + reds(held_out)) == list(range(20, 30))


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("x-{0..3}.tar", r"x-0\.tar is missing \(4 of the 4 files"),
        ("x-{3..0}.tar", "stands for 0 files; expected 1 to 100000"),
        ("x-{0..99999999}.tar", "stands for 100000000 files"),
        ("x-{a..b}.tar", "is not a pattern of files: expected one range"),
        ("x-{0..1}-{0..1}.tar", "is not a pattern of files"),
    ],
)
def test_patterns_without_files(tmp_path, pattern, sentence):
    with pytest.raises(DataError, match=sentence):
        open_splits(f"{tmp_path}/{pattern}", 0.2, 0)


def test_patterns_keep_their_zeros(tmp_path):
    for name in ("a-8.tar", "a-9.tar", "a-10.tar", "b-08.tar", "b-09.tar"):
        (tmp_path / name).touch()
    assert [p.name for p in expand(f"{tmp_path}/a-{{8..10}}.tar")] == ["a-8.tar", "a-9.tar", "a-10.tar"]
    assert [p.name for p in expand(f"{tmp_path}/b-{{08..09}}.tar")] == ["b-08.tar", "b-09.tar"]


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_layout_and_long_names(tmp_path, layout):
    folder = "/".join(["folder" * 5] * 4)  # ustar: more than 100, less than 256 characters
    long = "/".join(["folder" * 10] * 8) if layout != tarfile.USTAR_FORMAT else folder
    keys = ["plain", f"{folder}/0001", f"{long}/0002", "./dots/0003", "../climbs/0004", "/absolute/0005", "grüße/0006"]
    members = [
        (f"{key}.{suffix}", c)
        for n, key in enumerate(keys)
        for suffix, c in (("png", png_bytes((n, 0, 0))), ("cls", b"0"))
    ]
    write_tar(tmp_path / "a.tar", members, format=layout, encoding="utf-8")
    source = TarShards([tmp_path / "a.tar"])
    assert reds(source) == list(range(len(keys)))
    assert [eval(source.name(n).split("sample ")[1]) for n in range(len(keys))] == keys
    with tarfile.open(tmp_path / "a.tar") as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar]
    found = [(member.name, member.offset_data, member.size) for member in scan(tmp_path / "a.tar")]
    assert found == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar"]  # nothing was unpacked


def test_sizes_above_8_gb_are_understood(tmp_path):
    """A sparse file of 9 GB between two samples: sizes in base 256 (GNU) and in an extra header (pax)."""
    for layout in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{layout}.tar"
        big = tarfile.TarInfo("big.bin")
        big.size = 9 << 30
        with tarfile.open(path, "w", format=layout) as tar:
            for name, content in samples([5]):
                add(tar, name, content)
            start = tar.offset
        with path.open("r+b") as file:
            file.seek(start)
            file.write(big.tobuf(layout))
            file.seek(big.size, os.SEEK_CUR)
            file.write(b"\0" * 1024)
        members = list(scan(path))
        assert members[-1].name == "big.bin"
        assert members[-1].size == 9 << 30


def test_other_members_directories_and_hidden_names_are_ignored(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "set", type=tarfile.DIRTYPE)
        add(tar, "set/._0001.png", b"mac")
        add(tar, "README", b"text")
        add(tar, "set/0001.PNG", png_bytes((1, 0, 0)))
        add(tar, "set/0001.txt", b"a cat")
        add(tar, "set/0001.seg.png", png_bytes((99, 0, 0)))
        add(tar, "set/0001.json", b'{"label": 5}')
        add(tar, "set/0001.cls", b" 2\n")
        add(tar, "set/0001.pyd", pickle.dumps(3))
        add(tar, "v1.0/0002.png", png_bytes((2, 0, 0)))  # a dot in the name of a directory does not end the key
        add(tar, "v1.0/0002.json", b'{"cls": 1}')
    source = TarShards([tmp_path / "a.tar"])
    assert list(source.labels) == [2, 1]
    assert reds(source) == [1, 2]


def test_class_names_beside_the_shards(tmp_path):
    write_tar(tmp_path / "train" / "0.tar", samples(range(6)))
    write_tar(tmp_path / "val" / "0.tar", samples(range(3)))
    (tmp_path / "classes.txt").write_text("cat\ndog\nfrog\ntoad\n\n")
    train, held_out = open_splits(str(tmp_path), 0.2, 0)
    assert train.classes == held_out.classes == ["cat", "dog", "frog", "toad"]
    (tmp_path / "train" / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match="train has the label 2, and labels outside 0 to 1 belong to no class"):
        open_splits(str(tmp_path), 0.2, 0)
    (tmp_path / "train" / "classes.txt").write_text("cat\ncat\n")
    with pytest.raises(DataError, match=r"classes\.txt must have a name on each line, each different"):
        open_splits(str(tmp_path), 0.2, 0)
    (tmp_path / "train" / "classes.txt").write_bytes(b"\xff\n")
    with pytest.raises(DataError, match=r"classes\.txt cannot be read as UTF-8 text"):
        open_splits(str(tmp_path), 0.2, 0)


def test_two_lists_of_class_names(tmp_path):
    write_tar(tmp_path / "train" / "0.tar", samples(range(6)))
    write_tar(tmp_path / "val" / "0.tar", samples(range(6, 9)))
    for place in (".", "train", "val"):
        (tmp_path / place / "classes.txt").write_text("cat\ndog\nfrog\n")
    assert "classes.txt" not in " ".join(open_splits(str(tmp_path), 0.2, 0)[0].description)
    (tmp_path / "classes.txt").write_text("dog\ncat\nfrog\n")
    train, held_out = open_splits(str(tmp_path), 0.2, 0)
    assert train.classes == held_out.classes == ["cat", "dog", "frog"]
    sentence = f"not used: {tmp_path}/classes.txt (the classes are those of {tmp_path}/train/classes.txt)"
    assert sentence in train.description
    (tmp_path / "val" / "classes.txt").write_text("dog\ncat\nfrog\n")
    known = r"val/classes\.txt names other classes than the training images, or in another order"
    with pytest.raises(DataError, match=known):
        open_splits(str(tmp_path), 0.2, 0)
    with pytest.raises(DataError, match=r"val/classes\.txt names other classes than .*train/classes\.txt, or in"):
        TarShards([tmp_path / "train" / "0.tar", tmp_path / "val" / "0.tar"])


def test_a_held_out_label_that_training_lacks(tmp_path):
    write_tar(tmp_path / "train-0.tar", [("a.png", png_bytes((0, 0, 0))), ("a.cls", b"0")])
    write_tar(tmp_path / "val-0.tar", [("a.png", png_bytes((0, 0, 0))), ("a.cls", b"1")])
    with pytest.raises(DataError, match="has the label 1, and labels outside 0 to 0 belong to no class"):
        open_splits(str(tmp_path), 0.2, 0)


@pytest.mark.parametrize("suffix", ["pyd", "pkl", "pickle", "pth"])
def test_pickled_labels_are_never_opened(tmp_path, suffix):
    write_tar(
        tmp_path / "a.tar",
        [("1.png", png_bytes((1, 0, 0))), (f"1.{suffix}", pickle.dumps(MakesDirectory(tmp_path / "made")))],
    )
    with pytest.raises(DataError, match=rf"a\.tar sample '1' has its label in a pickle \(\.{suffix}\), which"):
        TarShards([tmp_path / "a.tar"])
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ([], r"a\.tar holds no samples: expected members such as"),
        ([("README", b"x")], "holds no samples"),
        (
            [("1.png", b"x"), ("2.cls", b"0")],
            "sample '1' has no label: expected, next to the image, a member ending in .cls",
        ),
        ([("1.cls", b"0"), ("2.png", b"x")], "sample '1' has no image: expected a member ending in .jpg"),
        ([("1.png", b"x"), ("1.jpg", b"x"), ("1.cls", b"0")], r"sample '1' has two images, 1\.png and 1\.jpg"),
        ([("1.png", b"x"), ("1.cls", b"0"), ("1.cls", b"1")], "sample '1' has two members ending in .cls"),
        ([("1.png", b"x"), ("1.cls", b"a\ncat")], r"has the label 'a\\ncat'; expected an integer"),
        ([("1.png", b"x"), ("1.cls", b"\xff")], "has a .cls member that is not UTF-8 text"),
        ([("1.png", b"x"), ("1.cls", b"cat"), ("2.png", b"x"), ("2.cls", b"0")], "integers, and others that are words"),
        ([("1.png", b"x"), ("1.cls", b"")], "has the label ''; expected an integer"),
        ([("1.png", b"x"), ("1.cls", b"9" * 5000)], "has the label '99999999999999999999'; expected an integer"),
        ([("1.png", b"x"), ("1.cls", b"9" * 18)], "has the label 999999999999999999, and labels outside 0 to 999999"),
        ([("1.png", b"x"), ("1.cls", b"-1")], "has images with the label -1"),
        ([("1.png", b"x"), ("1.cls", b"0" * 2_000_000)], "has a label of 2000000 bytes; expected 1048576 at most"),
        ([("1.png", b"x"), ("1.json", b"{")], "has a .json member that is not JSON"),
        ([("1.png", b"x"), ("1.json", b"[" * 100_000)], "has a .json member that is not JSON"),
        ([("1.png", b"x"), ("1.json", b"\xff")], "has a .json member that is not JSON"),
        ([("1.png", b"x"), ("1.json", b"[1]")], "without an integer or a word as 'label' or 'cls'"),
        ([("1.png", b"x"), ("1.json", b'{"label": true}')], "without an integer or a word as 'label' or 'cls'"),
        ([("1.tar", b"x")], "has no image: it holds tar files, so unpack it"),
    ],
)
def test_odd_samples_are_named_with_their_shard(tmp_path, members, sentence):
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=sentence) as caught:
        TarShards([tmp_path / "a.tar"])
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.FIFOTYPE, "a pipe"),
        (tarfile.CHRTYPE, "a dev"),
    ],
)
def test_links_and_devices_are_refused(tmp_path, kind, said):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "1.png", type=kind, linkname="/etc/passwd")
        add(tar, "1.cls", b"0")
    with pytest.raises(DataError, match=rf"a\.tar has {said}.* named '1\.png': only whole files are read"):
        TarShards([tmp_path / "a.tar"])


def test_cut_off_at_any_place(tmp_path):
    path = tmp_path / "a.tar"
    write_tar(path, samples(range(3)))
    content = path.read_bytes()
    end = len(content.rstrip(b"\0"))
    for size in [*range(0, end, 100), 512, 1024, 3072, end, end + 100]:
        path.write_bytes(content[:size])
        with pytest.raises(DataError, match=r"a\.tar (is not a whole tar file: |was cut off: )") as caught:
            TarShards([path])
        assert "\n" not in str(caught.value)


def test_damaged_files_and_files_that_are_not_tar(tmp_path):
    path = tmp_path / "a.tar"
    write_tar(path, samples(range(3)))
    content = path.read_bytes()
    path.write_bytes(content[:1034] + b"?" + content[1035:])
    with pytest.raises(DataError, match=r"a\.tar is not a whole tar file: no header, .* at byte 1024"):
        TarShards([path])
    path.write_bytes(b"text " * 1000)
    with pytest.raises(DataError, match=r"a\.tar is not a whole tar file: "):
        TarShards([path])
    write_tar(path, samples(range(3)), format=tarfile.PAX_FORMAT)
    with tarfile.open(path, "w:gz") as tar:
        add(tar, "1.png", np.random.default_rng(0).bytes(2000))
    with pytest.raises(DataError, match=r"a\.tar is compressed: images are read by their place"):
        TarShards([path])
    path.rename(tmp_path / "a.tar.gz")
    with pytest.raises(DataError, match=r"a\.tar\.gz is compressed: unpack it"):
        open_splits(str(tmp_path), 0.2, 0)
    with pytest.raises(DataError, match=r"none\.tar cannot be read: No such file"):
        TarShards([tmp_path / "none.tar"])


@pytest.mark.parametrize("record", [b"0 path=x\n", b"18 size=-1000000\n", b"9" * 5000 + b" path=x\n"])
def test_damaged_extra_headers(tmp_path, record):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "x", record, type=tarfile.XHDTYPE)
        add(tar, "1.png", b"x")
    with pytest.raises(DataError, match=r"a\.tar is not a whole tar file: "):
        TarShards([tmp_path / "a.tar"])


def header(kind, size, name="x"):
    """A header with a valid checksum and any size: in base 256, so that it may be negative."""
    content = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    content[124:136] = size.to_bytes(12, "big", signed=True) if size < 0 else b"\x80" + size.to_bytes(11, "big")
    content[156:157] = kind
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content)
    return bytes(content)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, b"S", b"V"])
@pytest.mark.parametrize("size", [-1, -512, -5000, 1 << 40, 1 << 62, 1 << 80])
def test_impossible_sizes(tmp_path, kind, size):
    write_tar(tmp_path / "a.tar", samples(range(2)))
    content = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(content[:4096] + header(kind, size) + content[4096:])
    with pytest.raises(DataError, match=r"a\.tar .*(whole|cannot be read)"):
        list(TarShards([tmp_path / "a.tar"]).labels)


def test_an_endless_chain_of_long_names(tmp_path):
    (tmp_path / "a.tar").write_bytes(header(tarfile.GNUTYPE_LONGNAME, 0) * 5000 + bytes(1024))
    with pytest.raises(DataError, match=r"a\.tar is not a whole tar file: "):
        TarShards([tmp_path / "a.tar"])


def test_a_bad_image_is_named_and_the_rest_is_read(tmp_path):
    write_tar(tmp_path / "a.tar", [("1.png", b"text"), ("1.cls", b"0"), *samples([2])])
    source = TarShards([tmp_path / "a.tar"])
    with pytest.raises(DataError, match=r"a\.tar sample '1' is not an image"):
        source.read(0)
    assert source.read(1).getpixel((0, 0)) == (2, 0, 0)
    os.truncate(tmp_path / "a.tar", 1024)
    with pytest.raises(DataError, match=r"a\.tar was cut off: \d+ of the \d+ bytes at 2560 are missing"):
        source.read(1)


def test_other_processes_open_their_own_files(tmp_path):
    from torch.utils.data import DataLoader, Dataset

    for shard in range(70):  # more files than are kept open
        write_tar(tmp_path / f"train-{shard}.tar", samples(range(3 * shard, 3 * shard + 3)))
    source = TarShards(sorted(tmp_path.glob("*.tar")))
    expected = reds(source)
    assert sorted(expected) == list(range(210))
    assert reds(pickle.loads(pickle.dumps(source))) == expected

    class Reds(Dataset):
        def __getitem__(self, index):
            return source.read(index).getpixel((0, 0))[0]

    order = list(np.random.default_rng(0).permutation(210))
    loader = DataLoader(Reds(), batch_size=21, sampler=order, num_workers=1, multiprocessing_context="fork")
    assert [int(red) for batch in loader for red in batch] == [expected[index] for index in order]
    assert len(list(Path("/proc/self/fd").iterdir())) < 200


def test_threads_read_at_once(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    for shard in range(100):
        write_tar(tmp_path / f"{shard:03d}.tar", samples([shard]))
    source = TarShards(sorted(tmp_path.glob("*.tar")))
    order = np.random.default_rng(0).integers(0, 100, 2000).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: source.read(index).getpixel((0, 0))[0], order))
    assert found == order


def test_files_written_by_webdataset(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "train-0.tar")) as writer:
        for number in range(4):
            image = Image.new("RGB", (8, 8), (number, 0, 0))
            writer.write({"__key__": f"a/{number:06d}", "png": image, "cls": number % 2, "json": {"label": 9}})
    source = TarShards([tmp_path / "train-0.tar"])
    assert list(source.labels) == [0, 1, 0, 1]
    assert reds(source) == [0, 1, 2, 3]


@pytest.mark.parametrize("empty", [[0], [1], [3], [0, 2, 3]])
def test_shards_without_samples_are_ignored_and_reported(tmp_path, empty):
    written = iter(range(100))
    for shard in range(4):
        write_tar(tmp_path / f"train-{shard}.tar", [] if shard in empty else samples([next(written), next(written)]))
    source = TarShards(sorted(tmp_path.glob("*.tar")))
    count = 2 * (4 - len(empty))
    assert list(source.labels) == [n % 3 for n in range(count)]
    assert reds(source) == list(range(count))
    names = ", ".join(f"train-{shard}.tar" for shard in empty)
    assert source.description == [f"no samples in {names} of {tmp_path}"]
    assert source.groups == [shard for shard in range(4) if shard not in empty for _ in range(2)]


@pytest.mark.parametrize("data", ["", "/train-{0..1}.tar"])
def test_shards_without_samples_are_reported_for_directories_and_patterns(tmp_path, data):
    write_tar(tmp_path / "train-0.tar", samples(range(6)))
    write_tar(tmp_path / "train-1.tar", [])
    train, _ = open_splits(f"{tmp_path}{data}", 0.5, 0)
    assert f"no samples in train-1.tar of {tmp_path}" in train.description


def test_class_names_after_a_byte_order_mark(tmp_path):
    write_tar(tmp_path / "train-0.tar", samples(range(6)))
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\nfrog\r\n")
    assert TarShards([tmp_path / "train-0.tar"]).classes == ["cat", "dog", "frog"]
