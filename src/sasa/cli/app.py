"""The typer application, and the options that several commands have."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sasa.cli.output import check_directory_of
from sasa.errors import UsageError

app = typer.Typer(
    help="Stand-alone self-attention in vision models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def one_of(*choices: str) -> dict[str, Any]:
    """Return the arguments of `typer.Option` for an option with these values; another one is a `UsageError`."""

    def check(option: typer.CallbackParam, value: str | None) -> str | None:
        if value is not None and value not in choices:
            raise UsageError(f"{option.opts[0]} must be {' or '.join(choices)}, got {value!r}")
        return value

    return {"metavar": "|".join(choices), "callback": check}


ModelOption = Annotated[
    str,
    typer.Option("--model", help="Directory of a run or of a saved network, or hf:OWNER/NAME on the Hugging Face Hub."),
]
DeviceOption = Annotated[str, typer.Option("--device", help="Device of the network.", **one_of("auto", "cpu", "cuda"))]
TrainingDeviceOption = Annotated[
    str | None, typer.Option("--device", help="Device to train on.", **one_of("auto", "cpu", "cuda", "mps"))
]
BAD_IMAGE = one_of("error", "skip")
BadImageOption = Annotated[
    str,
    typer.Option(
        "--on-bad-image", help="An image that cannot be read: stop, or leave it out and list it.", **BAD_IMAGE
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
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write the results to this file.", callback=check_directory_of)
]
AsJsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
