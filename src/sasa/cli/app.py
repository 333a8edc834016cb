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

ModelOption = Annotated[
    str,
    typer.Option("--model", help="Folder of a run or of a saved network, or hf:OWNER/NAME on the Hugging Face Hub."),
]
DeviceOption = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where the network runs.")]
BadImageOption = Annotated[
    str,
    typer.Option(
        "--on-bad-image", metavar="error|skip", help="An image that cannot be read: stop, or leave it out and list it."
    ),
]


def one_of(option: str, value: str | None, choices: tuple[str, ...]) -> str | None:
    """`value`, where it is one of the choices or was not given.

    Raises:
        UsageError: it is not.
    """
    if value is not None and value not in choices:
        raise UsageError(f"{option} must be {' or '.join(choices)}, got {value!r}")
    return value
