"""Parquet files by row groups: their images are those in memory, each group is read once, and workers read alone."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader, Dataset

from image_files import noisy_png, number_of, png_bytes, write_many
from sasa.data import sampler
from sasa.data.classification import ImageParquet, Subset
from sasa.data.classification.parquet import RowGroups
from sasa.data.sampler import EpochBatches
from sasa.errors import DataError

WRITERS = {
    "plain": {"use_dictionary": False},
    "dictionary first, then plain": {"dictionary_pagesize_limit": 3000},
    "one entry": {"repeat": True},
    "another codec": {"compression": "zstd"},
    "second version of pages": {"data_page_version": "2.0"},
    "one row group": {"row_group_size": 1 << 20},
    "plain bytes": {"binary": True},
    "delta": {"column_encoding": {"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"}, "use_dictionary": False},
}


@pytest.mark.parametrize("writer", WRITERS)
def test_row_groups_agree_with_images_in_memory(tmp_path, writer):
    path = tmp_path / "x.parquet"
    write_many(path, **WRITERS[writer])
    held, by_groups = ImageParquet([path]), ImageParquet([path], held=0)
    order = np.random.default_rng(0).permutation(len(held)).tolist()
    for index in order:
        expected = index % 3 if WRITERS[writer].get("repeat") else index
        assert number_of(by_groups.read(index)) == number_of(held.read(index)) == expected
    assert held.groups is None
    assert by_groups.groups == ([0] * 300 if writer == "one row group" else [n // 100 for n in range(300)])
    assert list(Subset(by_groups, order[:5]).groups or []) == [by_groups.groups[index] for index in order[:5]]


@pytest.fixture
def loads(monkeypatch):
    """The row groups that were read from the disk, in order."""
    found, load = [], RowGroups._load
    monkeypatch.setattr(RowGroups, "_load", lambda self, group: found.append(group) or load(self, group))
    return found


def open_kept(paths, groups):
    """A large data set, and a limit of memory for a number of row groups of 20 rows, and two more."""
    source = ImageParquet(paths, held=0)
    largest = max(source._row_groups[group].nbytes for group in range(len(source._row_groups._parts)))
    source._row_groups = RowGroups(source._row_groups._parts, "image", hold=False, kept=groups * largest)
    return source


def test_an_epoch_reads_each_row_group_once(tmp_path, monkeypatch, loads):
    monkeypatch.setattr(sampler, "WINDOW", 60)
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path in paths:
        write_many(path, row_group_size=20)
    source, held = open_kept(paths, 3), ImageParquet(paths)
    loads.clear()
    batches = list(EpochBatches(600, 30, 2, 0, groups=source.groups))
    for epoch in (batches[:20], batches[20:]):
        indices = [index for batch in epoch for _, index in batch]
        assert [number_of(source.read(index)) for index in indices] == [number_of(held.read(i)) for i in indices]
        assert sorted(indices) == list(range(600))
        assert len(loads) == len(set(loads)) >= 27  # the second finds three in the cache of the first
        loads.clear()


def test_large_row_groups_across_windows(tmp_path, monkeypatch, loads):
    """A window smaller than a row group may overlap two of them; each is still read once for the window."""
    monkeypatch.setattr(sampler, "WINDOW", 80)
    write_many(tmp_path / "x.parquet", 600)
    source = ImageParquet([tmp_path / "x.parquet"], held=0)
    source._row_groups._kept = 1
    for batch in EpochBatches(600, 20, 1, 0, groups=source.groups):
        for _, index in batch:
            assert number_of(source.read(index)) == index
    assert len(loads) == 6


def test_row_groups_larger_than_pyarrow_reads(tmp_path, monkeypatch):
    write_many(tmp_path / "x.parquet")
    monkeypatch.setattr("sasa.data.classification.parquet.LARGEST", 1000)
    with pytest.raises(DataError, match=r"x\.parquet has a row group of \d+ bytes.*; expected 1000 at most"):
        ImageParquet([tmp_path / "x.parquet"])


def test_cached_row_groups_are_bounded_and_the_oldest_is_dropped_first(tmp_path, loads):
    images = [png_bytes((n, 0, 0)).ljust(2000, b"\0") for n in range(10)]
    pq.write_table(pa.table({"image": images, "label": [0] * 10}), tmp_path / "x.parquet", row_group_size=1)
    source = ImageParquet([tmp_path / "x.parquet"], held=0)
    kept = source._row_groups._kept = 2100
    for index in (0, 1, 2, 0, 3, 0, 1, 4, 5):  # 0 is read again before 3, so 1 is dropped
        assert source.read(index).getpixel((0, 0)) == (index, 0, 0)
        assert source._row_groups._size <= kept + 2 * source._row_groups[index].nbytes
    assert loads == [0, 1, 2, 3, 1, 4, 5]
    assert [*source._row_groups._recent] == [1, 4, 5]


def test_cached_row_groups_are_not_pickled(tmp_path, loads):
    write_many(tmp_path / "x.parquet")
    for held in (1 << 30, 0):
        source = ImageParquet([tmp_path / "x.parquet"], held=held)
        source.read(0)
        content = pickle.dumps(source)
        assert noisy_png(0) not in content
        again = pickle.loads(content)
        loads.clear()
        assert [number_of(again.read(index)) for index in (299, 298, 5)] == [299, 298, 5]
        assert loads == ([] if held else [2, 0])


@pytest.mark.parametrize("held", [1 << 30, 0])
def test_several_files_are_one_source_and_are_named(tmp_path, held):
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path in paths:
        write_many(path, 120)
    source = ImageParquet(paths, held=held)
    assert len(source) == 240
    assert number_of(source.read(120 + 77)) == 77
    assert source.name(120 + 77) == f"{paths[1]} row 77"
    again = pickle.loads(pickle.dumps(source))
    assert number_of(again.read(239)) == 119
    assert source.groups in (None, [0] * 100 + [1] * 20 + [2] * 100 + [3] * 20)


class Numbers(Dataset):
    """(number of the image, row groups that this process keeps, whether it began with none)."""

    def __init__(self, source):
        self.source = source

    def __getitem__(self, index):
        number = number_of(self.source.read(index))
        return number, len(self.source._row_groups._recent), self.source._row_groups._process == os.getpid()


@pytest.mark.parametrize("held", [1 << 30, 0])
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_read_by_themselves(tmp_path, held, method):
    write_many(tmp_path / "x.parquet")
    source = ImageParquet([tmp_path / "x.parquet"], held=held)
    for index in (0, 100, 200):
        source.read(index)
    order = list(np.random.default_rng(0).permutation(300))
    loader = DataLoader(
        Numbers(source), batch_size=10, sampler=order, num_workers=2, multiprocessing_context=method, collate_fn=list
    )
    rows = [row for batch in loader for row in batch]
    assert [number for number, _, _ in rows] == order
    if not held:
        assert rows[0][1] == 1  # a forked worker starts with an empty cache
        assert all(own for _, _, own in rows)


def test_threads_read_at_once(tmp_path):
    write_many(tmp_path / "x.parquet", row_group_size=20)
    source = open_kept([tmp_path / "x.parquet"], 2)
    order = np.random.default_rng(0).integers(0, 300, 500).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda index: number_of(source.read(index)), order)) == order
