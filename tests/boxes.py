"""Helpers of the tests of detection: a tiny COCO data set of rectangles, and tiny runs on it."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from sasa.tasks.detection.config import DetectionConfig

WIDTH, HEIGHT = 64, 48
COLOURS = {"red": (220, 40, 40), "blue": (40, 60, 220)}
CATEGORIES = [{"id": 3, "name": "red"}, {"id": 7, "name": "blue"}]  # ids with a gap
SPLITS = {"train": 16, "val": 4, "test": 4}

TINY = [
    ("model.name", "retinanet_sasa_resnet26_attnheads"),
    ("model.width", 0.05),
    ("model.num_heads", 2),
    ("model.kernel_size", 3),
    ("model.layers", [1, 1, 1, 1]),
    ("model.head_layers", 1),
    ("data.image_size", 64),
    ("data.workers", 0),
    ("recipe.epochs", 2),
    ("recipe.batch_size", 4),
    ("recipe.warmup_epochs", 1.0),
    ("run.log_steps", 1),
    ("run.tensorboard", False),
    ("run.accelerator", "cpu"),
]

# Settings with which 12 epochs, 4 seconds, are enough to find some boxes.
LEARNS = [
    ("model.width", 0.1),
    ("data.jitter_min", 1.0),
    ("data.jitter_max", 1.0),
    ("recipe.epochs", 12),
    ("recipe.optimizer", "adamw"),
    ("recipe.learning_rate", 0.005),
    ("recipe.ema_decay", 0.0),
]


def tiny(source, *changes):
    """The default config, but 2 epochs of 4 steps of 4 images."""
    config = DetectionConfig()
    for key, value in (*TINY, ("data.source", str(source)), *changes):
        config.set(key, value)
    return config


def settings(*changes):
    """`tiny` without its data, as arguments of the command line."""
    return [word for key, value in (*TINY, *changes) for word in ("--set", f"{key}={value}")]


def write_boxes(root):
    """24 images with one to three rectangles, in COCO's layout; return the directory.

    The first training image is empty, and the second has a crowd.
    """
    root, random, number = Path(root), np.random.default_rng(0), 0
    for split, count in SPLITS.items():
        images, annotations = [], []
        for place in range(count):
            number += 1
            image = {"id": number, "file_name": f"{number:03}.png", "width": WIDTH, "height": HEIGHT}
            images.append(image)
            boxes = [] if split == "train" and place == 0 else _rectangles(random)
            _draw(root / split / image["file_name"], boxes, random)
            for label, (x, y, width, height) in boxes:
                annotation = {"id": 100 * number + len(annotations), "image_id": number, "category_id": label}
                annotation |= {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}
                annotations.append(annotation)
            if split == "train" and place == 1:
                annotations[-1]["iscrowd"] = 1
        write_json(root, split, {"images": images, "annotations": annotations, "categories": CATEGORIES})
    return root


def _rectangles(random):
    found = []
    for _ in range(random.integers(1, 4)):
        width, height = (int(side) for side in random.integers(12, 33, 2))
        x, y = int(random.integers(0, WIDTH - width + 1)), int(random.integers(0, HEIGHT - height + 1))
        found.append((CATEGORIES[random.integers(2)]["id"], (x, y, width, height)))
    return found


def _draw(path, boxes, random):
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = Image.fromarray(random.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    names = {category["id"]: category["name"] for category in CATEGORIES}
    for label, (x, y, width, height) in boxes:
        ImageDraw.Draw(drawn).rectangle((x, y, x + width - 1, y + height - 1), COLOURS[names[label]])
    drawn.save(path)


def annotation_file(root, split):
    """The path of a split's boxes."""
    return Path(root) / "annotations" / f"instances_{split}.json"


def annotation(id, image, box, category=3, **more):
    """An object in COCO's format."""
    return {"id": id, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0, **more}


def write_json(root, split, document):
    """Replace a split's boxes."""
    path = annotation_file(root, split)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def change(root, split, how):
    """Rewrite a split's boxes by a function that changes the document in place."""
    document = json.loads(annotation_file(root, split).read_text())
    how(document)
    write_json(root, split, document)
