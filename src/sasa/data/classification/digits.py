"""The built-in data set: handwritten digits that are installed with scikit-learn."""

import numpy as np

from sasa.data.classification.source import Pixels


class Digits(Pixels):
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 gray, installed with it: no download."""

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        labels = [int(label) for label in digits.target]  # pyright: ignore[reportAttributeAccessIssue]
        images = digits.images  # pyright: ignore[reportAttributeAccessIssue]
        # Stored as 0 to 16; in 8 bits, 16 becomes white.
        pixels = np.minimum(images * 16, 255).astype(np.uint8)
        super().__init__(pixels, labels, [str(digit) for digit in range(10)], "digit")
