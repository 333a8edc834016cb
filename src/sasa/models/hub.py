"""Networks on the Hugging Face Hub: download by name, and upload with a model card. Needs the extra `hub`.

Only three files are transferred: model.safetensors, config.json and README.md, as `save_pretrained` names them. Pickles
are neither downloaded nor uploaded.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sasa.errors import ArgumentError, SasaError
from sasa.models.card import CARD_NAME, Figures, model_card
from sasa.models.weights import CONFIG_NAME, WEIGHTS_NAME

PREFIX = "hf:"
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
    with _one_sentence(repo_id, revision, "download"):
        directory = Path(_library().snapshot_download(repo_id, revision=revision, allow_patterns=FILES))
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (directory / name).is_file():
            raise SasaError(
                f"{PREFIX}{repo_id} holds no network of sasa: {name} is missing (pickles are not downloaded)"
            )
    return directory


def upload(
    directory: str | Path,
    repo_id: str,
    private: bool = False,
    message: str | None = None,
    figures: Figures | None = None,
) -> str:
    """Publish the network that `save_pretrained` or training wrote; return the address of its page.

    A README.md in the directory is uploaded as it is; without one a model card is written.

    Args:
        directory: with model.safetensors and config.json, which must fit each other.
        repo_id: OWNER/NAME; created if missing.
        private: whether only the owner may see it. A repository that is already public is refused.
        message: of the commit.
        figures: of the network, for the model card.

    Raises:
        ArgumentError: repo_id has another form.
        SasaError: the directory holds no complete network; the extra is missing; the Hub does not answer or refuses.
    """
    from sasa.models.create import load_pretrained  # create imports this module

    check_name(repo_id)
    directory, api = Path(directory), _library().HfApi(library_name="sasa")
    network = load_pretrained(directory)
    with tempfile.TemporaryDirectory() as staged:
        for name in (WEIGHTS_NAME, CONFIG_NAME):
            shutil.copyfile(directory / name, Path(staged) / name)
        own = directory / CARD_NAME
        card = own.read_text(encoding="utf-8") if own.is_file() else model_card(network, repo_id, figures)
        (Path(staged) / CARD_NAME).write_text(card, encoding="utf-8")
        with _one_sentence(repo_id, None, "upload"):
            address = str(api.create_repo(repo_id, repo_type="model", private=private or None, exist_ok=True))
            if private and not api.model_info(repo_id).private:
                raise SasaError(f"{PREFIX}{repo_id} exists already and is public: nothing was uploaded")
            api.upload_folder(
                repo_id=repo_id,
                repo_type="model",
                folder_path=staged,
                allow_patterns=FILES,
                commit_message=message or f"{network.name}, saved by sasa",
            )
    return address


def check_name(repo_id: str) -> None:
    """Raise unless repo_id has the form OWNER/NAME.

    Raises:
        ArgumentError: it has another form.
    """
    if not NAME.fullmatch(repo_id):
        raise ArgumentError(f"the name of a network on the Hub must be OWNER/NAME, got {repo_id!r}")


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise SasaError("networks on the Hugging Face Hub need huggingface_hub: pip install 'sasa[hub]'") from error
    return huggingface_hub


@contextmanager
def _one_sentence(repo_id: str, revision: str | None, what: str) -> Iterator[None]:
    """Turn any error of the library into one sentence."""
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
