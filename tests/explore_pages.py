"""Helpers of the tests of the explorer: small networks on disk, and a page parsed into Python values."""

import base64
import json
import zlib
from dataclasses import asdict, dataclass
from html.parser import HTMLParser

import numpy as np
import torch

import sasa
from sasa.data.classification.transforms import Preprocessing
from sasa.data.detection.transforms import DetectionPreprocessing

NASTY = ["</script><script>alert(1)</script>", "a \"quoted\" & <b>bold</b> 'name'", "@facts@", "ünïcode —"]
VOID = {"meta", "link", "img", "input", "br"}


def save_classifier(directory, name="sasa_resnet26", **options):
    """A classifier of four blocks with random weights, for gray images of 16 x 16; some windows exceed the map."""
    torch.manual_seed(1)
    small = {"layers": (1, 1, 1, 1), "width": 0.25, "num_heads": 2, "kernel_size": 5, "stem_block": 2, "in_chans": 1}
    network = sasa.create_model(name, num_classes=len(NASTY), **{**small, **options})
    channels = network.config.in_chans
    preprocessing = Preprocessing(16, channels, (0.3,) * channels, (0.4,) * channels)
    network.save_pretrained(directory, labels=NASTY, preprocessing=asdict(preprocessing))
    return directory


def save_detector(directory):
    """A detector with attention everywhere and random weights, for images fitted into 80 pixels."""
    torch.manual_seed(2)
    small = {"layers": (1, 1, 1, 1), "width": 0.05, "num_heads": 2, "kernel_size": 3, "head_layers": 1}
    network = sasa.create_model("retinanet_sasa_resnet26_attn", num_classes=2, **small)
    preprocessing = asdict(DetectionPreprocessing(80))
    network.save_pretrained(directory, labels=["red", "blue"], preprocessing=preprocessing)
    return directory


class _Elements(HTMLParser):
    """The elements of a page: (name, attributes), and the texts of scripts and styles. Fails where tags do not pair."""

    def __init__(self):
        super().__init__()
        self.open, self.elements, self.raw = [], [], []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            self.raw.append((self.open[-1], self.elements[-1][1], data))


@dataclass(frozen=True)
class ReadPage:
    """A page as read by HTML's rules.

    Args:
        elements: (name, attributes) of each.
        raw: (name, attributes, text) of scripts and styles.
        facts: the page's JSON.
    """

    elements: list
    raw: list
    facts: dict

    def weights(self, image, layer):
        """(N, K, K, H, W), float64: the attention weights of a layer for an image, by their numbers in the page."""
        (text,) = (text for _, attributes, text in self.raw if attributes.get("id") == f"weights-{image}-{layer}")
        content = zlib.decompress(base64.b64decode(text))
        n, k = self.facts["layers"][layer]["heads"], self.facts["layers"][layer]["kernel"]
        h, w = self.facts["images"][image]["maps"][layer]
        scales = np.frombuffer(content, "<u2", n * h * w).reshape(n, h, w) / 65535
        windows = np.frombuffer(content, np.uint8, offset=2 * n * h * w).reshape(n, h, w, k, k) / 255
        return torch.from_numpy(windows * scales[..., None, None]).permute(0, 3, 4, 1, 2)


def read_page(text):
    """Parse a page.

    Raises:
        AssertionError: tags that do not pair, attributes given twice.
    """
    parser = _Elements()
    parser.feed(text)
    parser.close()
    assert parser.open == [], f"left open: {parser.open}"
    (facts,) = (text for _, attributes, text in parser.raw if attributes.get("id") == "facts")
    return ReadPage(parser.elements, parser.raw, json.loads(facts))
