"""One XML file of Pascal VOC: the size of an image and what was drawn in it."""

import math

# Entities of a file that was made to do harm need a DOCTYPE, which is refused; nothing is fetched from elsewhere.
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from sasa.data.classification.names import printable
from sasa.errors import DataError

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Drawn:
    """One object: its class, its box (left, top, right, bottom in pixels from 0) or what is wrong with it."""

    name: str
    box: Box | str
    difficult: bool


@dataclass(frozen=True)
class Record:
    """One file: (height, width) or None where it does not say, and the objects."""

    size: tuple[int, int] | None
    objects: list[Drawn]


class _NoDoctype(ET.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        raise DataError("has a DOCTYPE, which annotations do not need")


def read_record(path: Path) -> Record:
    """What an XML file says.

    Raises:
        DataError: it cannot be read, is no XML or no annotation, or has a DOCTYPE.
    """
    where = printable(path)
    try:
        root = ET.fromstring(path.read_bytes(), ET.XMLParser(target=_NoDoctype()))  # noqa: S314 - see the import
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error.strerror}") from error
    except ET.ParseError as error:
        raise DataError(f"{where} is damaged: no XML ({error})") from error
    except (ValueError, LookupError) as error:  # an encoding that is unknown, or not the one the file says
        raise DataError(f"{where} is damaged: {error}") from error
    except DataError as error:
        raise DataError(f"{where} {error}") from None
    if root.tag != "annotation":
        raise DataError(f"{where} is not Pascal VOC's: it holds <{root.tag}> instead of <annotation>")
    return Record(_size(root), [_drawn(element) for element in root.findall("object")])


def _size(root: ET.Element) -> tuple[int, int] | None:
    """None where it is missing or 0, as some tools write it."""
    height, width = (_number(root.findtext(f"size/{side}")) for side in ("height", "width"))
    if height is None or width is None or not (1 <= height < 2**31 and 1 <= width < 2**31):
        return None
    return int(height), int(width)


def _drawn(element: ET.Element) -> Drawn:
    name = (element.findtext("name") or "").strip()
    difficult = (element.findtext("difficult") or "").strip() == "1"
    return Drawn(name, _box(element) if name else "has no name and is left out", difficult)


def _box(element: ET.Element) -> Box | str:
    if element.find("bndbox") is None:
        return "has no bndbox and is left out"
    texts = [element.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    x1, y1, x2, y2 = map(_number, texts)
    if x1 is None or y1 is None or x2 is None or y2 is None:
        said = ", ".join(repr(text)[:20] for text in texts)
        return f"has a bndbox that is not four finite numbers ({said}) and is left out"
    return x1 - 1, y1 - 1, x2, y2


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
