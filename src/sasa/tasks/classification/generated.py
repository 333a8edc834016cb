"""Generated images of the sizes of known classification sets, for dry runs without the data."""

from PIL import Image

from sasa.data.classification import Source
from sasa.tasks.base import KnownSet, noise
from sasa.tasks.classification.config import TrainConfig

KNOWN_SETS = {"imagenet": KnownSet(1000, 1_281_167, 50_000), "cifar10": KnownSet(10, 50_000, 10_000)}
CPU_PART = 8  # images a step of a dry run without a GPU, whose memory a part for one of 8 GPUs would fill


class GeneratedImages(Source):
    """Square noise; the labels repeat in order."""

    def __init__(self, classes: int, count: int, side: int) -> None:
        self.classes = [str(number) for number in range(classes)]
        self.labels = [number % classes for number in range(count)]
        self.side = side

    def read(self, index: int, channels: int = 3) -> Image.Image:
        """Return the noise, shifted by `index`."""
        return noise(self.side, self.side, index).convert("L" if channels == 1 else "RGB")

    def name(self, index: int) -> str:
        """Return a name for messages."""
        return f"generated image {index}"


def generate(known: KnownSet, config: TrainConfig) -> tuple[GeneratedImages, GeneratedImages]:
    """Return training and held-out images of the size that the config's network sees."""
    side, count = config.data.image_size, min(known.training, config.data.limit or known.training)
    return GeneratedImages(known.classes, count, side), GeneratedImages(known.classes, known.held_out, side)
