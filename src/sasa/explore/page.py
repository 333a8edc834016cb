"""The page: template, style, script, images and weights in one HTML file that makes no network requests."""

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from PIL import Image

from sasa.errors import SasaError
from sasa.explore.data import Explored, LayerCall

SMALL = 64  # pixels: an image with no side longer than this is stored losslessly, and shown with sharp pixels
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Page:
    """A finished page, and the layers that did not fit into it: names with the sizes of their maps."""

    text: str
    layers: int
    left_out: list[str]


def make_page(title: str, kind: str, images: Sequence[Explored], budget: float) -> Page:
    """Put images and weights into one HTML file of at most `budget` bytes.

    Layers are the same for all images. They are taken by their number of weights, fewest first, while they fit.

    Args:
        title: name of the network.
        kind: "classifier" or "detector".
        images: at least one, all of one network.
        budget: bytes.

    Raises:
        SasaError: not even one layer fits.
    """
    sources = [_data_url(one.image) for one in images]
    chunks = [[base64.b64encode(layer.packed).decode() for layer in one.layers] for one in images]
    sizes = [sum(map(len, of_layer)) for of_layer in zip(*chunks, strict=True)]
    first = images[0].layers
    empty = _fill(title, kind, images, sources, [[""] * len(first)] * len(images), range(len(first)), [])
    kept = _affordable(first, sizes, budget - len(empty.encode()))
    if not kept:
        raise SasaError(
            f"no attention layer fits into a page of {budget / MEGABYTE:g} MB: the smallest takes "
            f"{min(sizes) / MEGABYTE:.2f} MB for {len(images)} images; raise --budget, or name fewer images"
        )
    left_out = ["{} ({} x {})".format(one.name, *one.size) for n, one in enumerate(first) if n not in kept]
    return Page(_fill(title, kind, images, sources, chunks, kept, left_out), len(kept), left_out)


def _affordable(layers: Sequence[LayerCall], sizes: Sequence[int], budget: float) -> list[int]:
    """Return the indices, in order, of as many layers as fit the budget together, smallest first."""
    kept: list[int] = []
    for place in sorted(range(len(layers)), key=lambda place: layers[place].weights):
        budget -= sizes[place]
        if budget < 0:
            break
        kept.append(place)
    return sorted(kept)


def _fill(
    title: str,
    kind: str,
    images: Sequence[Explored],
    sources: Sequence[str],
    chunks: Sequence[Sequence[str]],
    kept: Sequence[int],
    left_out: Sequence[str],
) -> str:
    """Return the text of the HTML file."""
    template, style, script = (
        files("sasa.explore").joinpath(f"page.{end}").read_text("utf-8") for end in ("html", "css", "js")
    )
    layers = images[0].layers
    facts = {
        "title": title,
        "kind": kind,
        "layers": [{"name": layers[n].name, "heads": layers[n].heads, "kernel": layers[n].kernel_size} for n in kept],
        "leftOut": list(left_out),
        "images": [_facts(image, source, kept) for image, source in zip(images, sources, strict=True)],
    }
    weights = "\n".join(
        f'<script type="text/plain" id="weights-{image}-{place}">{chunks[image][n]}</script>'
        for image in range(len(chunks))
        for place, n in enumerate(kept)
    )
    parts = {
        "policy": _policy(script),
        "title": html.escape(title),
        "style": style,
        "script": script,
        "facts": json.dumps(facts).replace("<", "\\u003c"),  # so that no text can close the element
        "weights": weights,
    }
    return re.sub(r"@(\w+)@", lambda match: parts[match[1]], template)


def _facts(image: Explored, source: str, kept: Sequence[int]) -> dict[str, Any]:
    return {
        "name": image.name,
        "truth": image.truth,
        "source": source,
        "width": image.image.width,
        "height": image.image.height,
        "gray": image.image.mode == "L",
        "sharp": max(image.image.size) <= SMALL,
        "cover": image.cover,
        "maps": [image.layers[n].size for n in kept],
        "answers": [
            {"label": answer.label, "probability": round(answer.probability, 6), "box": answer.box}
            for answer in image.answers
        ],
    }


def _data_url(image: Image.Image) -> str:
    kind = "png" if max(image.size) <= SMALL else "jpeg"
    content = io.BytesIO()
    image.save(content, kind, quality=85, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


def _policy(script: str) -> str:
    """Return the Content-Security-Policy: only the script, the style and the images of this file; no requests."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
