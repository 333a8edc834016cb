"""Helpers of the tests of data sets: image files of one colour, and Hugging Face's parquet files of them."""

import io
import json

from PIL import Image


def save_image(path, colour=(200, 30, 30), size=(20, 12)):
    """Write an image of width x height pixels; directories are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def png_bytes(colour):
    """The bytes of a PNG file of 8 x 8 pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path, labels, names=None, image="img", label="label"):
    """Write a parquet file of one image for each label; the red of an image is 25 times its label."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    encoded = [{"bytes": png_bytes((25 * n, 0, 0)), "path": f"{n}.png"} for n in labels]
    table = pa.table({image: encoded, label: labels})
    if names:
        features = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, path)


def noisy_png(number):
    """A PNG with a size of file of its own, so that wrong offsets are detected; its first pixel is the number."""
    import numpy as np

    pixels = np.random.default_rng(number).integers(0, 255, (4 + number % 5, 6, 3), np.uint8)
    pixels[0, 0] = (number % 256, number // 256, 7)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def number_of(decoded):
    """The number of an image by `noisy_png`."""
    red, green, blue = decoded.getpixel((0, 0))
    assert blue == 7
    return red + 256 * green


def write_many(path, count=300, repeat=False, binary=False, **options):
    """Write a parquet file of noisy images (one of three again and again with `repeat`) in row groups of 100."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    encoded = [noisy_png(n % 3 if repeat else n) for n in range(count)]
    column = encoded if binary else [{"bytes": one, "path": f"{n}.png"} for n, one in enumerate(encoded)]
    table = pa.table({"image": column, "label": [n % 4 for n in range(count)]})
    pq.write_table(table, path, **{"row_group_size": 100, "data_page_size": 1500, "write_batch_size": 10, **options})
