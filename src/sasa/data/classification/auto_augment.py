"""timm's augmentation policies (RandAugment, AutoAugment, 3-Augment, AugMix) by name, which is checked."""

import re
from typing import Any

from PIL import Image, ImageOps

from sasa.errors import ArgumentError

_WHOLE, _NUMBER = r"\d+", r"\d+(\.\d+)?"

# The options that may follow the first word of a name, as timm 1.0 parses them. timm silently ignores some unknown
# options ("rand-foo", "rand-tfoo"), so a typing mistake would train with another policy.
_SECTIONS = {
    "rand": {
        "m": _WHOLE,
        "n": "[1-9]|1[0-4]",  # at most the number of operations in the weighted sets
        "p": r"0(\.\d+)?|1(\.0+)?",
        "mstd": _NUMBER,
        "mmax": _WHOLE,
        "inc": "[01]",
        "t": "weights|3a|3aw",
    },
    "augmix": {"m": _WHOLE, "w": r"[1-9]\d*", "d": r"[1-9]\d*", "b": "[01]", "a": _NUMBER, "mstd": _NUMBER},
    **{first: {"mstd": _NUMBER} for first in ("original", "originalr", "v0", "v0r", "3a")},
}


def check_policy(name: str) -> None:
    """Raise an `ArgumentError` if timm, which is not imported, has no such policy, or would ignore a part of it."""
    first, *rest = name.split("-")
    if first not in _SECTIONS:
        raise ArgumentError(f'auto_augment must be "" or start with one of {", ".join(_SECTIONS)}; got {name!r}')
    known = _SECTIONS[first]
    for word in rest:
        if not any(re.fullmatch(f"{key}({value})", word) for key, value in known.items()):
            raise ArgumentError(
                f"auto_augment {name!r} has the part {word!r}; after {first!r} timm knows {', '.join(known)}, "
                "each with its value"
            )


class Policy:
    """A policy of timm, for 8-bit RGB and gray images. Its random numbers come from `random` and `numpy.random`.

    Args:
        name: such as "rand-m9-mstd0.5-inc1".
        image_size: side in pixels; absolute translations reach up to 0.45 of it.
        mean: of each channel, 0 to 1: the colour of areas that a rotation or translation uncovers.

    Raises:
        ArgumentError: timm has no such policy.
    """

    def __init__(self, name: str, image_size: int, mean: tuple[float, ...]) -> None:
        from timm.data import auto_augment as timm

        check_policy(name)
        fill = tuple(min(255, round(255 * value)) for value in mean)
        options: dict[str, Any] = {"translate_const": int(0.45 * image_size), "img_mean": fill * (3 // len(fill))}
        if name.startswith("augmix"):
            options["translate_pct"] = 0.3
            make = timm.augment_and_mix_transform
        elif name.startswith("rand"):
            make = timm.rand_augment_transform
        else:
            make = timm.auto_augment_transform
        try:
            self.transform = make(name, options)
        except (AssertionError, ValueError) as error:
            raise ArgumentError(f"auto_augment {name!r} is not a policy of the installed timm: {error}") from error
        for operation in _operations(self.transform):
            if operation.name.startswith("Posterize"):
                operation.aug_fn = _posterize

    def __call__(self, image: Image.Image) -> Image.Image:
        """Augment an image; the result has the same size and mode."""
        if image.mode == "RGB":
            return self.transform(image)
        # Geometric operations need a fill of three channels and fail with one; gray to RGB and back is lossless.
        return self.transform(image.convert("RGB")).convert(image.mode)


def _operations(transform: Any) -> list[Any]:
    """List timm's operations of a policy: AutoAugment stores them in pairs, the others in one list."""
    pairs = getattr(transform, "policy", None)
    return [operation for pair in pairs for operation in pair] if pairs else transform.ops


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keep the highest bits of each pixel, at least one: timm may ask for 0, which newer versions of Pillow refuse."""
    return image if bits >= 8 else ImageOps.posterize(image, max(1, bits))
