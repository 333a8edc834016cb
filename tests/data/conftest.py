"""Small sets of images with boxes, in COCO's and Pascal VOC's formats."""

import json

import pytest

from image_files import save_image

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]


@pytest.fixture
def coco(tmp_path):
    """Writes tmp_path/set.json and images of 40 x 30 (width x height) in tmp_path/images; returns both paths."""

    def write(annotations, names=("a.png", "b.png"), categories=CATEGORIES, json_path=None, folder=None):
        json_path, folder = json_path or tmp_path / "set.json", folder or tmp_path / "images"
        for name in names:
            save_image(folder / name, size=(40, 30))
        images = [{"id": 10 * n, "file_name": p, "width": 40, "height": 30} for n, p in enumerate(names, 1)]
        json_path.parent.mkdir(parents=True, exist_ok=True)
        document = {"images": images, "annotations": annotations, "categories": categories}
        json_path.write_text(json.dumps(document))
        return json_path, folder

    return write


@pytest.fixture
def voc(tmp_path):
    """Writes a directory in Pascal VOC's layout: {split: {id: [(class, (x1, y1, x2, y2), difficult), ...]}}."""

    def write(splits, root=tmp_path, size="<size><width>40</width><height>30</height></size>", suffix=".jpg"):
        for split, listed in splits.items():
            path = root / "ImageSets" / "Main" / f"{split}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{name}\n" for name in listed))
            for name, objects in listed.items():
                save_image(root / "JPEGImages" / f"{name}{suffix}", size=(40, 30))
                xml = root / "Annotations" / f"{name}.xml"
                xml.parent.mkdir(exist_ok=True)
                drawn = "".join(_object(*one) for one in objects)
                xml.write_text(f"<annotation><filename>elsewhere.jpg</filename>{size}{drawn}</annotation>")
        return root

    return write


def _object(name, box, difficult=0):
    sides = "".join(f"<{side}>{v}</{side}>" for side, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"
