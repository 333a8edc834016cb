"""The built-in data set: handwritten digits that are installed with scikit-learn."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from sasa.data.classification.source import Pixels


class Digits(Pixels):
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 gray, installed with it: no download."""

    def __init__(self) -> None:
        table = read_table()
        # Stored as 0 to 16; in 8 bits, 16 becomes white.
        pixels = np.minimum(table[:, :64].reshape(-1, 8, 8) * 16, 255).astype(np.uint8)
        super().__init__(pixels, table[:, 64].astype(int).tolist(), [str(digit) for digit in range(10)], "digit")


def read_table() -> np.ndarray:
    """Return the digits, (1797, 65): 64 pixels from 0 to 16, and the label.

    The file is read as it is, because importing scikit-learn takes a second.
    """
    package = find_spec("sklearn")
    if package and package.origin:
        file = Path(package.origin).with_name("datasets") / "data" / "digits.csv.gz"
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])  # pyright: ignore[reportAttributeAccessIssue]
