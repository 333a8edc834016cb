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
