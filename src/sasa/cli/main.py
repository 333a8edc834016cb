"""The entry point of the command `sasa`: an error is one sentence on stderr and an exit status.

The commands are in the files beside this one. They need the extra `train`; `sasa doctor` needs torch only, so that it
can report missing packages.
"""

import os
import sys
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import NoReturn

from sasa import threads
from sasa.errors import SasaError, UsageError, out_of_memory

INTERRUPTED = 130  # exit status after Ctrl-C


def main() -> None:
    """Run the command in sys.argv."""
    open_closed_streams()
    threads.prepare()
    os.environ["MPLBACKEND"] = "agg"  # figures are only written to files; notebooks leave names of their own here
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")  # torch's notes to its own users
    warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
    try:
        check_surroundings(sys.argv[1:])
        command()()
    except SasaError as error:
        stop(str(error), error.exit_status)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "sasa"):  # an error in sasa itself: keep the traceback
            raise
        stop(f"this command needs {package}, which is not installed: pip install 'sasa[train]'", 1)
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != INTERRUPTED:  # typer exits with it, and says nothing
            raise
        stop("interrupted", INTERRUPTED)
    except OSError as error:  # of the machine, such as a full disk under stdout
        stop(str(error), 1)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        stop(f"out of memory: {(str(error).splitlines() or ['a smaller batch or image may fit'])[0]}", 1)


def open_closed_streams() -> None:
    """Open /dev/null for each standard stream that is closed, as under some daemons.

    Otherwise the next file that is opened, a checkpoint for instance, would take the stream's number and receive what
    libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115


def check_surroundings(arguments: list[str]) -> None:
    """Check what would otherwise fail later, or silently mean the working directory.

    Raises:
        SasaError: the working directory was removed.
        UsageError: an argument is empty.
    """
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        raise SasaError("the working directory was removed: change to another one") from None
    for before, argument in pairwise(["sasa", *arguments]):
        name, equals, value = argument.partition("=")
        if not argument or (name.startswith("--") and equals and not value):
            raise UsageError(f"the argument {argument!r} after {before!r} is empty: is a shell variable not set?")


def stop(sentence: str, status: int) -> NoReturn:
    """Print a sentence and exit."""
    sys.stderr.write(f"sasa: {sentence}\n")
    sys.exit(status)


def command() -> Callable[[], object]:
    """Return the application; if typer is not installed, `sasa doctor` or an error that names the extra."""
    try:
        import typer  # noqa: F401
    except ModuleNotFoundError:
        return plain_doctor
    from sasa.cli.commands import app

    return app


def plain_doctor() -> None:
    """Run `sasa doctor [--json]` without typer.

    Raises:
        SasaError: sys.argv is another command.
    """
    if sys.argv[1:] not in (["doctor"], ["doctor", "--json"]):
        raise SasaError(
            "the command line needs typer, which is not installed: pip install 'sasa[train]' "
            "('sasa doctor' runs without)"
        )
    from sasa.cli.doctor_report import report

    sys.stdout.write(report(as_json="--json" in sys.argv) + "\n")


if __name__ == "__main__":
    main()
