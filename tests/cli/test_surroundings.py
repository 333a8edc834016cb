"""Commands in unusual surroundings: streams, working directory, variables, memory, empty arguments."""

import errno
import io
import json
import resource
import shutil
import signal
import sys

import pytest

from command import assert_one_sentence
from processes import run_python, start_python
from sasa.cli.output import write_json
from sasa.errors import SasaError
from sasa.files import expand_user


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["predict", "x.png", "--model", ""], "'' after '--model'"),
        (["train", "--output="], "'--output=' after 'train'"),
        (["data", ""], "'' after 'data'"),
    ],
)
def test_an_empty_argument_does_not_mean_the_working_directory(sasa, arguments, part):
    assert_one_sentence(sasa(*arguments), 2, f"the argument {part} is empty")


def test_settings_may_be_empty(sasa):
    status, out, _ = sasa("train", "--print-config", "--set=model.groups=")
    assert status == 0
    assert "groups: null" in out


def test_a_working_directory_that_was_removed(sasa, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert_one_sentence(sasa("models"), 1, "the working directory was removed")


def test_a_full_disk_under_stdout(sasa, monkeypatch):
    class Full(io.StringIO):
        def flush(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sasa.cli.networks.typer.echo", lambda text: print(text, file=Full(), flush=True))
    assert_one_sentence(sasa("models"), 1, "No space left on device")


def test_a_full_disk_leaves_the_earlier_json_file(tmp_path):
    path = tmp_path / "score.json"
    write_json(path, ["first"])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
        with pytest.raises(SasaError, match=r"^cannot write .*: File too large$"):
            write_json(path, ["second"] * 1_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert json.loads(path.read_text()) == ["first"]
    assert [file.name for file in tmp_path.iterdir()] == ["score.json"]


def test_json_through_a_link_reaches_its_target(tmp_path):
    """As /dev/stdout does where a shell sends it into a file."""
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_json(tmp_path / "link", [1])
    assert json.loads((tmp_path / "target").read_text()) == [1]
    assert (tmp_path / "link").is_symlink()


def test_too_little_memory_is_one_sentence(sasa):
    """The images would not fit into 128 TiB, the address space of a process."""
    assert_one_sentence(sasa("bench", "--model", "sasa_resnet26", "--size", 10**7, "--rounds", 1), 1, "out of memory")


def test_a_name_that_no_file_can_have(sasa, run_directory):
    assert_one_sentence(sasa("predict", "a" * 300, "--model", run_directory), 1, "File name too long")


def test_a_home_directory_that_is_not_known(sasa, run_directory, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(expand_user("~/a.png")) == "/home/somebody/a.png"
    result = sasa("predict", "~no-such-user/a.png", "--model", run_directory)
    assert_one_sentence(result, 3, "~no-such-user/a.png is neither a file nor a directory")


@pytest.mark.parametrize("path", ["$HOME/photos", "${HOME}/photos", "${DATA}/train-{0000..0003}.tar"])
def test_variables_that_no_shell_expanded(sasa, tmp_path, path):
    for command in (["train"], ["detect", "train"]):
        result = sasa(*command, "--data", path, "--output", tmp_path / "run")
        assert_one_sentence(result, 3, f"{path!r} does not exist: variables such as $HOME are expanded by a shell")


def test_an_interrupt_is_one_sentence(sasa, monkeypatch):
    def interrupted(text):
        raise KeyboardInterrupt

    monkeypatch.setattr("sasa.cli.networks.typer.echo", interrupted)
    assert_one_sentence(sasa("models"), 130, "interrupted")


def test_closed_streams_do_not_leave_their_numbers_to_files(tmp_path):
    """The exit status is the number of the next file that is opened."""
    code = (
        "import os; [os.close(number) for number in (0, 1, 2)]\n"
        f"os.execv({sys.executable!r}, [{sys.executable!r}, '-c', '''\n"
        "import sys; from sasa.cli.main import open_closed_streams\n"
        "open_closed_streams(); print(1); sys.stderr.write(str(2))\n"
        f"sys.exit(open({str(tmp_path / 'file')!r}, \"w\").fileno())''' ])\n"
    )
    process = start_python("-c", code)
    process.communicate()
    assert process.returncode > 2
    assert (tmp_path / "file").read_text() == ""


def test_figures_need_no_backend_of_the_notebook_that_started_the_command():
    code = (
        "import sys; sys.argv = ['sasa', '--help']\nfrom sasa.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: import matplotlib; print(matplotlib.get_backend())"
    )
    out = run_python("-c", code, MPLBACKEND="module://no_such_package.backend_inline")
    assert out.splitlines()[-1].lower() == "agg"


def test_a_damaged_summary_is_as_none(sasa, run_directory, tmp_path):
    shutil.copytree(run_directory, tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text("[1")
    status, out, _ = sasa("bench", "--model", tmp_path / "run", "--rounds", 1)
    assert status == 0
    assert "batch size 32" in out
