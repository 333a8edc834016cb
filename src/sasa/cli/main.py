"""The entry point of the command `sasa`: an error is one sentence on stderr and an exit status.

The commands are in the files beside this one. They need the extra `train`; `sasa doctor` needs torch only, so that it
can report missing packages.
"""

import sys
import warnings
from collections.abc import Callable
from typing import NoReturn

from sasa import threads
from sasa.errors import SasaError


def main() -> None:
    """Run the command in sys.argv."""
    threads.prepare()
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")  # torch's notes to its own users
    warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
    try:
        command()()
    except SasaError as error:
        stop(str(error), error.exit_status)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "sasa"):  # an error in sasa itself: keep the traceback
            raise
        stop(f"this command needs {package}, which is not installed: pip install 'sasa[train]'", 1)
    except KeyboardInterrupt:
        stop("interrupted", 130)


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
