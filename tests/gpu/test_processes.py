"""The cache of compiled kernels on a GPU, with other processes, a damaged file and a read-only directory."""

import os
import re

import pytest

from processes import run_python, start_python

ATTEND = """
import sys, torch, sasa
x = torch.ones(1, 16, 5, 5, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last)
y = sasa.ops.local_attention(x, x, x, kernel_size=3, num_heads=2, padding="mask", backend="cuda")
assert (y == 1).all()
print("right")
"""


def attend(**environment: str) -> str:
    return run_python("-c", ATTEND, **environment)


def kernels(directory) -> list:
    return sorted(directory.glob("*.kernel"))


def test_two_processes_at_once_share_a_cache(tmp_path):
    both = [start_python("-c", ATTEND, SASA_CACHE=str(tmp_path)) for _ in range(2)]
    for process in both:
        out, err = process.communicate()
        assert (process.returncode, out) == (0, "right\n"), err
    assert kernels(tmp_path)


def test_a_damaged_file_is_compiled_again(tmp_path):
    attend(SASA_CACHE=str(tmp_path))
    before = {file: file.read_bytes() for file in kernels(tmp_path)}
    for file, content in before.items():
        file.write_bytes(content[: len(content) // 2])
    assert attend(SASA_CACHE=str(tmp_path)) == "right\n"
    assert any(file.read_bytes() == content for file, content in before.items())


def test_a_directory_that_cannot_be_made_is_not_an_error(tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    assert attend(SASA_CACHE=str(file / "cache")) == "right\n"


def test_blocking_launches(tmp_path):
    assert attend(SASA_CACHE=str(tmp_path), CUDA_LAUNCH_BLOCKING="1") == "right\n"


def test_the_doctor_names_the_compiler_and_the_kernels(tmp_path):
    attend(SASA_CACHE=str(tmp_path))
    found = run_python("-c", "from sasa.ops import native; print(native.cuda_compiler())", SASA_CACHE=str(tmp_path))
    assert re.search(r"cached=[1-9]", found), found


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_directory_is_not_an_error(tmp_path):
    tmp_path.chmod(0o500)
    assert attend(SASA_CACHE=str(tmp_path)) == "right\n"
