"""The typer application, and the options that several commands have."""

from typing import Annotated

import typer

from sasa.errors import UsageError

app = typer.Typer(
    help="Stand-alone self-attention in vision models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DEVICES = ("auto", "cpu", "cuda", "mps")

ModelOption = Annotated[
    str,
    typer.Option("--model", help="Directory of a run or of a saved network, or hf:OWNER/NAME on the Hugging Face Hub."),
]
DeviceOption = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Device of the network.")]
BadImageOption = Annotated[
    str,
    typer.Option(
        "--on-bad-image", metavar="error|skip", help="An image that cannot be read: stop, or leave it out and list it."
    ),
]
BatchOption = Annotated[int, typer.Option("--batch-size", min=1, help="Images in a batch.")]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=0, help="Processes that read images (default: as the run had).")
]
ImagesArgument = Annotated[list[str], typer.Argument(help="Files, directories, or patterns (** searches directories).")]
FEW = 20  # classes whose table is printed by default
PerClassOption = Annotated[
    bool, typer.Option("--per-class", help=f"Print the figures of each class even if there are more than {FEW}.")
]


def one_of(option: str, value: str | None, choices: tuple[str, ...]) -> str | None:
    """Return `value` if it is one of the choices, or None.

    Raises:
        UsageError: another value; the message lists the choices.
    """
    if value is not None and value not in choices:
        raise UsageError(f"{option} must be {' or '.join(choices)}, got {value!r}")
    return value


def check_choices(device: str, on_bad_image: str) -> None:
    """Check the options --device and --on-bad-image of a command that uses a trained network.

    Raises:
        UsageError: another value.
    """
    one_of("--device", device, ("auto", "cpu", "cuda"))
    one_of("--on-bad-image", on_bad_image, ("error", "skip"))
