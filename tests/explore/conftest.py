"""Networks and images for the explorer."""

import pytest
from PIL import Image

from explore_pages import save_classifier, save_detector


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    """Directories of a classifier and of a detector."""
    root = tmp_path_factory.mktemp("networks")
    return {"classifier": save_classifier(root / "a <b> & c"), "detector": save_detector(root / "detector")}


@pytest.fixture(scope="session")
def image_files(tmp_path_factory):
    """Three images of other shapes and names, one of which is markup."""
    root = tmp_path_factory.mktemp("images")
    paths = [root / name for name in ("one.png", "<i>two & 'three'.png", "four.png")]
    for path, size in zip(paths, ((20, 16), (16, 31), (150, 90)), strict=True):
        Image.effect_noise(size, 90).convert("RGB").save(path)
    return paths
