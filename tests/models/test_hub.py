"""The Hugging Face Hub without a connection: the library's cache on disk, and an API that records calls."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, errors

from pickles import MakesDirectory
from sasa.errors import ArgumentError, SasaError
from sasa.models import create_model, hub
from sasa.models.publish import Figures, model_card, upload

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PREPROCESSING = {"image_size": 16, "channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3, "crop_fraction": 1.0}


@pytest.fixture
def saved(tmp_path):
    """A directory with a network, and files of a run that must not be uploaded."""
    torch.manual_seed(0)
    model = create_model("sasa_resnet26", width=0.05, num_heads=1, num_classes=2, layers=(1, 1, 1, 1), kernel_size=3)
    model.save_pretrained(tmp_path / "run", labels=["cats", "dogs"], preprocessing=PREPROCESSING)
    (tmp_path / "run" / "summary.json").write_text("{}")
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"private")
    (tmp_path / "run" / "config.yaml").write_text("data: {source: /home/somebody/secret/pets}")
    return tmp_path / "run"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache of snapshot_download, without a connection."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(cache, name, files):
    """Files as the library lays them out: content in blobs, links to it in snapshots, the branch's commit in refs."""
    root = cache / f"models--{name.replace('/', '--')}"
    for folder in ("blobs", "refs", f"snapshots/{COMMIT}"):
        (root / folder).mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    for number, (file, content) in enumerate(files.items()):
        (root / "blobs" / str(number)).write_bytes(content)
        (root / "snapshots" / COMMIT / file).symlink_to(Path("../../blobs") / str(number))
    return root / "snapshots" / COMMIT


def content(folder):
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "config.json")}


def test_a_network_from_the_cache(cache, saved):
    folder = put(cache, "owner/pets", content(saved))
    assert hub.download("owner/pets") == folder
    x = torch.randn(2, 3, 16, 16)
    want = create_model(saved).eval()(x)
    for name in ("hf:owner/pets", "hf:owner/pets@main", f"hf:owner/pets@{COMMIT}"):
        model = create_model(name)
        torch.testing.assert_close(model.eval()(x), want)
    assert model.metadata["labels"] == ["cats", "dogs"]
    with pytest.raises(ArgumentError, match="num_classes=2, not 3"):
        create_model("hf:owner/pets", num_classes=3)


def test_only_three_files_are_asked_for(monkeypatch, saved):
    asked = {}

    def snapshot_download(repo_id, **options):
        asked.update(options, repo_id=repo_id)
        return str(saved)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert hub.locate("hf:owner/pets@v1") == saved
    files = ["model.safetensors", "config.json", "README.md"]
    assert asked == {"repo_id": "owner/pets", "revision": "v1", "allow_patterns": files}


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("model.safetensors", "is a pickle .* it was not opened"),
        ("pytorch_model.bin", r"hf:owner/bad holds no network of sasa: model.safetensors is missing \(pickles are not"),
    ],
)
def test_pickles_are_refused_and_not_run(cache, saved, tmp_path, file, sentence):
    marker = tmp_path / "marker"
    torch.save(MakesDirectory(marker), tmp_path / "evil")
    config = (saved / "config.json").read_bytes()
    put(cache, "owner/bad", {file: (tmp_path / "evil").read_bytes(), "config.json": config})
    with pytest.raises(SasaError, match=sentence):
        create_model("hf:owner/bad")
    assert not marker.exists()


def test_networks_of_other_libraries(cache, saved):
    put(cache, "owner/bert", {**content(saved), "config.json": b'{"model_type": "bert"}'})
    with pytest.raises(SasaError, match="is not a network's config: it has no format"):
        create_model("hf:owner/bert")


def test_files_missing_from_the_cache_without_a_connection(cache):
    with pytest.raises(SasaError, match=r"hf:owner/no: the Hub cannot be reached .* not in the local cache"):
        create_model("hf:owner/no")


@pytest.mark.parametrize("name", ["hf:", "hf:pets", "hf:a/b/c", "hf:../x", "hf:owner/..", "hf:owner/p t"])
def test_invalid_names(name):
    with pytest.raises(ArgumentError, match="must be OWNER/NAME, got"):
        create_model(name)


def test_without_the_extra(monkeypatch, saved):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: create_model("hf:owner/pets"), lambda: upload(saved, "owner/pets")):
        with pytest.raises(SasaError, match=r"need huggingface_hub: pip install 'sasa\[hub\]'"):
            call()


def refusal(kind, status):
    """An error of the library as it is after an answer of the Hub; its constructor differs by version."""
    error = kind.__new__(kind)
    OSError.__init__(error, "page\nof text")
    error.response = SimpleNamespace(status_code=status, headers={})
    return error


@pytest.mark.parametrize(
    ("kind", "status", "sentence"),
    [
        (errors.GatedRepoError, 403, "it is gated: ask for access at https://huggingface.co/owner/x, then log in"),
        (errors.RepositoryNotFoundError, 404, "the Hub has no such model, or it is private"),
        (errors.RevisionNotFoundError, 404, "it has no revision 'v9'"),
        (errors.HfHubHTTPError, 401, r"the Hub refused \(status 401\)"),
        (errors.HfHubHTTPError, 500, "HfHubHTTPError"),
    ],
)
def test_refusals_are_one_sentence(monkeypatch, kind, status, sentence):
    def snapshot_download(*args, **options):
        raise refusal(kind, status)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(SasaError, match=f"cannot download hf:owner/x: {sentence}") as caught:
        hub.download("owner/x", "v9")
    assert "\n" not in str(caught.value)


@pytest.fixture
def api(monkeypatch):
    """Records what would be uploaded."""
    notes = SimpleNamespace(files={}, made=[], private=True, uploads=[])

    def create_repo(self, repo_id, **options):
        notes.made.append((repo_id, options))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, folder_path, allow_patterns, **options):
        notes.uploads.append(options)
        notes.files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        assert set(notes.files) <= set(allow_patterns)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(
        huggingface_hub.HfApi, "model_info", lambda self, repo_id: SimpleNamespace(private=notes.private)
    )
    return notes


def test_only_three_files_are_uploaded(api, saved):
    assert upload(saved, "owner/pets", private=True) == "https://huggingface.co/owner/pets"
    assert set(api.files) == {"model.safetensors", "config.json", "README.md"}
    assert {name: api.files[name] for name in ("model.safetensors", "config.json")} == content(saved)
    assert api.made == [("owner/pets", {"repo_type": "model", "private": True, "exist_ok": True})]
    assert api.uploads[0]["repo_id"] == "owner/pets"
    assert not (saved / "README.md").exists()


def test_the_card(saved):
    figures = Figures("Measured by hand.", [("top-1 accuracy", 0.75)])
    card = model_card(create_model(saved), "owner/pets", figures)
    assert card.startswith("---\nlibrary_name: sasa\n")
    rows = ("Measured by hand.", "| top-1 accuracy | 0.75 |")
    for words in ("# pets", "`cats`, `dogs`", *rows, 'create_model("hf:owner/pets")'):
        assert words in card
    for none in (None, Figures("Measured by hand.", [])):
        assert "Figures" not in model_card(create_model(saved), "owner/pets", none)


def test_an_existing_model_card_is_uploaded(api, saved):
    (saved / "README.md").write_text("mine")
    upload(saved, "owner/pets")
    assert api.files["README.md"] == b"mine"
    assert api.made[0][1]["private"] is None


def test_nothing_private_goes_to_a_public_repository(api, saved):
    api.private = False
    with pytest.raises(SasaError, match="hf:owner/pets exists already and is public: nothing was uploaded"):
        upload(saved, "owner/pets", private=True)
    assert not api.files


def test_directories_without_a_network_are_not_uploaded(api, saved, tmp_path):
    with pytest.raises(SasaError, match=r"config\.json is missing"):
        upload(tmp_path / "nowhere", "owner/pets")
    shutil.copy(saved / "checkpoint.pt", saved / "model.safetensors")
    with pytest.raises(SasaError, match="is not a whole safetensors file"):
        upload(saved, "owner/pets")
    assert not api.made


def test_upload_without_a_network(saved, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SasaError, match="cannot upload hf:owner/pets: ") as caught:
        upload(saved, "owner/pets")
    assert "\n" not in str(caught.value)
