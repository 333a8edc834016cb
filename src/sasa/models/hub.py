"""Networks on the Hugging Face Hub: download by name. Needs the extra `hub`; `sasa.models.publish` uploads.

Only three files are transferred: model.safetensors, config.json and README.md, as `save_pretrained` names them. Pickles
are neither downloaded nor uploaded.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sasa.errors import ArgumentError, SasaError
from sasa.models.weights import CONFIG_NAME, WEIGHTS_NAME

PREFIX = "hf:"
CARD_NAME = "README.md"
FILES = [WEIGHTS_NAME, CONFIG_NAME, CARD_NAME]
NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def on_hub(name: str | Path) -> bool:
    """Return whether the name is hf:OWNER/NAME or hf:OWNER/NAME@REVISION, a network on the Hub."""
    return str(name).startswith(PREFIX)


def locate(name: str | Path) -> Path:
    """The local directory of a saved network: the path itself, or the download of hf:OWNER/NAME."""
    if not on_hub(name):
        return Path(name)
    repo_id, at, revision = str(name).removeprefix(PREFIX).partition("@")
    return download(repo_id, revision if at else None)


def download(repo_id: str, revision: str | None = None) -> Path:
    """Download a network, or find it in the local cache; return the directory with its files.

    Args:
        repo_id: OWNER/NAME.
        revision: a branch, a tag or a commit; by default the main branch.

    Raises:
        ArgumentError: repo_id has another form.
        SasaError: the extra is missing; the Hub does not answer; the repository is unknown, private or gated, or holds
            no network.
    """
    check_name(repo_id)
    with one_sentence("download", repo_id, revision):
        directory = Path(library().snapshot_download(repo_id, revision=revision, allow_patterns=FILES))
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (directory / name).is_file():
            raise SasaError(
                f"{PREFIX}{repo_id} holds no network of sasa: {name} is missing (pickles are not downloaded)"
            )
    return directory


def check_name(repo_id: str) -> None:
    """Raise an `ArgumentError` unless repo_id has the form OWNER/NAME."""
    if not NAME.fullmatch(repo_id):
        raise ArgumentError(f"the name of a network on the Hub must be OWNER/NAME, got {repo_id!r}")


def library() -> Any:
    """Import huggingface_hub, or raise the sentence that says how to install it."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise SasaError("networks on the Hugging Face Hub need huggingface_hub: pip install 'sasa[hub]'") from error
    return huggingface_hub


@contextmanager
def one_sentence(what: str, repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Turn any error of the library into one sentence: cannot `what` the network, and the reason."""
    try:
        yield
    except SasaError:
        raise
    except Exception as error:  # the type of a connection error depends on the version
        raise SasaError(f"cannot {what} {PREFIX}{repo_id}: {_reason(repo_id, revision, error)}") from error


def _reason(repo_id: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return f"it is gated: ask for access at https://huggingface.co/{repo_id}, then log in with 'hf auth login'"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the Hub has no such model, or it is private: if so, log in with 'hf auth login'"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {revision!r}"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return "the Hub cannot be reached (no connection, or HF_HUB_OFFLINE is set)" + (
            "" if isinstance(error, errors.OfflineModeIsEnabled) else ", and it is not in the local cache"
        )
    if status in (401, 403):
        return f"the Hub refused (status {status}): log in with 'hf auth login' and a token with the permission"
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}".removesuffix(": ")
