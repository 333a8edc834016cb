"""A tiny network exported in every format."""

import pytest
import torch

import sasa
from export_networks import make_network
from helpers import normal


@pytest.fixture(scope="session")
def network():
    return make_network()


@pytest.fixture(scope="session")
def images():
    return normal(2, 3, 24, 24, seed=1, dtype=torch.float32)


@pytest.fixture(scope="session")
def exported(network, images, tmp_path_factory):
    """Export in a format, once: the result."""
    directory, done = tmp_path_factory.mktemp("exported"), {}

    def export(format):
        if format not in done:
            path = directory / f"{format}{sasa.export.FORMATS[format].suffix}"
            done[format] = sasa.export.export(network, images, format, path)
        return done[format]

    return export
