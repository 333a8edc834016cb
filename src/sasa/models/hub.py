"""Networks on the Hugging Face Hub: fetched by name, and published with a model card. Needs the extra `hub`.

Three files travel and no other: model.safetensors, config.json and README.md, as `save_pretrained` names them. Pickles
are neither fetched nor sent.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sasa.errors import ArgumentError, SasaError
from sasa.models.card import CARD_NAME, model_card
from sasa.models.weights import CONFIG_NAME, WEIGHTS_NAME

PREFIX = "hf:"
FILES = [WEIGHTS_NAME, CONFIG_NAME, CARD_NAME]
NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def on_hub(name: str | Path) -> bool:
    """Whether the name means a network on the Hub: hf:OWNER/NAME, or hf:OWNER/NAME@REVISION."""
    return str(name).startswith(PREFIX)


def locate(name: str | Path) -> Path:
    """The local folder of a saved network: the path itself, or where the Hub's files of hf:OWNER/NAME were put."""
    if not on_hub(name):
        return Path(name)
    repo_id, at, revision = str(name).removeprefix(PREFIX).partition("@")
    return download(repo_id, revision if at else None)


def download(repo_id: str, revision: str | None = None) -> Path:
    """Fetch a network, or find it in the local cache; the folder with its files.

    Args:
        repo_id: OWNER/NAME.
        revision: a branch, a tag or a commit; by default the main branch.

    Raises:
        ArgumentError: a name of another form.
        SasaError: the extra is missing; the Hub does not answer; the repository is unknown, private or gated; it holds
            no network.
    """
    check_name(repo_id)
    with _one_sentence(repo_id, revision, "download"):
        folder = Path(_library().snapshot_download(repo_id, revision=revision, allow_patterns=FILES))
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise SasaError(f"{PREFIX}{repo_id} holds no network of sasa: it has no {name} (pickles are not fetched)")
    return folder


def upload(directory: str | Path, repo_id: str, private: bool = False, message: str | None = None) -> str:
    """Publish the network that `save_pretrained` or training wrote; the address of its page.

    A README.md in the directory is sent as it is; without one a model card is written from what the directory holds.

    Args:
        directory: with model.safetensors and config.json, which must fit each other.
        repo_id: OWNER/NAME; made if it is not there.
        private: only the owner may see it. A public repository is not made private, but refused.
        message: of the commit.

    Raises:
        ArgumentError: a name of another form.
        SasaError: no whole network in the directory; the extra is missing; the Hub does not answer or refuses.
    """
    from sasa.models.create import load_pretrained  # which fetches from the Hub by this module

    check_name(repo_id)
    directory, api = Path(directory), _library().HfApi(library_name="sasa")
    network = load_pretrained(directory)
    with tempfile.TemporaryDirectory() as staged:
        for name in (WEIGHTS_NAME, CONFIG_NAME):
            shutil.copyfile(directory / name, Path(staged) / name)
        own = directory / CARD_NAME
        card = own.read_text(encoding="utf-8") if own.is_file() else model_card(network, directory, repo_id)
        (Path(staged) / CARD_NAME).write_text(card, encoding="utf-8")
        with _one_sentence(repo_id, None, "upload"):
            address = str(api.create_repo(repo_id, repo_type="model", private=private or None, exist_ok=True))
            if private and not api.model_info(repo_id).private:
                raise SasaError(f"{PREFIX}{repo_id} is there already and public: nothing was sent")
            api.upload_folder(
                repo_id=repo_id,
                repo_type="model",
                folder_path=staged,
                allow_patterns=FILES,
                commit_message=message or f"{network.name}, saved by sasa",
            )
    return address


def check_name(repo_id: str) -> None:
    """Refuse what is not OWNER/NAME, before anything is loaded or sent.

    Raises:
        ArgumentError: it is not.
    """
    if not NAME.fullmatch(repo_id):
        raise ArgumentError(f"a network on the Hub is named OWNER/NAME, got {repo_id!r}")


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise SasaError("networks on the Hugging Face Hub need huggingface_hub: pip install 'sasa[hub]'") from error
    return huggingface_hub


@contextmanager
def _one_sentence(repo_id: str, revision: str | None, what: str) -> Iterator[None]:
    """Turn whatever the library raises into one sentence."""
    try:
        yield
    except SasaError:
        raise
    except Exception as error:  # its network library, and so the type of a failed connection, differs by version
        raise SasaError(f"cannot {what} {PREFIX}{repo_id}: {_reason(repo_id, revision, error)}") from error


def _reason(repo_id: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return f"it is gated: ask for access at https://huggingface.co/{repo_id}, then log in with 'hf auth login'"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the Hub has no such model, or it is private: then log in with 'hf auth login'"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {revision!r}"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return "the Hub cannot be reached (no network, or HF_HUB_OFFLINE is set)" + (
            "" if isinstance(error, errors.OfflineModeIsEnabled) else ", and the local cache does not hold it"
        )
    if status in (401, 403):
        return f"the Hub refused (status {status}): log in with 'hf auth login' and a token that may do this"
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}".removesuffix(": ")
