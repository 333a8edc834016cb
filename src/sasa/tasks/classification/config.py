"""Settings of `sasa train`: data and recipe, and the files that they are read from."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from sasa.data.classification.transforms import Augmentation, Preprocessing
from sasa.errors import UsageError
from sasa.training.settings import Config, RecipeConfig, check_range


@dataclass
class DataConfig:
    """The images: their location and preprocessing.

    Args:
        source: "digits"; a directory of class directories, of parquet files, of WebDataset shards, or as torchvision
            stores CIFAR and MNIST; a parquet file.
        held_out: the fraction of each class that is held out where the data has no split of its own: at least one
            image, but none of a class of one image.
        limit: train on this many images, the first of a seeded order; 0 for all.
        image_size: side of the square that the network sees, in pixels.
        channels: 3 (RGB) or 1 (gray).
        mean, std: of each channel, for pixels 0 to 1.
        crop_fraction: evaluation resizes the shorter side to image_size / crop_fraction and crops the centre.
        crop: "resized", "pad" or "none" (see `Augmentation`).
        crop_padding: pixels, for crop "pad".
        crop_scale: smallest fraction of the image's area, for crop "resized".
        flip: whether training flips images left to right at random.
        auto_augment: "" for none, or a policy by timm's name such as "rand-m9-mstd0.5-inc1" (RandAugment).
        erasing: fraction of the training images in which a rectangle is erased.
        in_memory: decode all images once and augment them in batches on the device.
        on_bad_image: an image that cannot be read is an "error", or is left out, counted and listed ("skip").
        workers: processes that read images; 0 reads them in the training process.
    """

    source: str = "digits"
    held_out: float = 0.2
    limit: int = 0
    image_size: int = 224
    channels: int = 3
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    crop_fraction: float = 0.875
    crop: str = "resized"
    crop_padding: int = 4
    crop_scale: float = 0.08
    flip: bool = True
    auto_augment: str = ""
    erasing: float = 0.0
    in_memory: bool = False
    on_bad_image: str = "error"
    workers: int = 2

    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing, which evaluation and prediction share."""
        return Preprocessing(self.image_size, self.channels, tuple(self.mean), tuple(self.std), self.crop_fraction)

    def augmentation(self) -> Augmentation:
        """Return the augmentation, which only training uses."""
        return Augmentation(self.crop, self.crop_padding, self.crop_scale, self.flip, self.auto_augment, self.erasing)


@dataclass
class ClassificationRecipe(RecipeConfig):
    """Settings of the training: those of every task, and these.

    Args:
        label_smoothing: share of the target that is spread over all classes.
        mixup, cutmix: parameter of the beta distribution that mixes pairs of images, 0 for none.
    """

    label_smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0


@dataclass
class TrainConfig(Config):
    """All settings of a classification run. `model` holds `name` and any option of `sasa.create_model`."""

    TASK: ClassVar[str] = "classification"
    COMMAND: ClassVar[str] = "train"

    model: dict[str, Any] = field(default_factory=lambda: {"name": "sasa_resnet26"})
    data: DataConfig = field(default_factory=DataConfig)
    recipe: ClassificationRecipe = field(default_factory=ClassificationRecipe)

    def check(self) -> None:
        """Check the values of all settings."""
        super().check()
        check_range("data.limit", self.data.limit, 0)
        check_range("recipe.mixup", self.recipe.mixup, 0)
        check_range("recipe.cutmix", self.recipe.cutmix, 0)
        smoothing = self.recipe.label_smoothing
        if not 0 <= smoothing < 1:
            raise UsageError(f"recipe.label_smoothing must be at least 0 and below 1, got {smoothing}")
        if self.data.crop == "pad" and self.data.crop_padding >= self.data.image_size:
            raise UsageError(
                f"data.crop_padding ({self.data.crop_padding}) must be smaller than data.image_size "
                f"({self.data.image_size}): crops of padding alone show nothing of the image"
            )


def resolve(path_or_name: str | None, changes: list[tuple[str, Any]]) -> TrainConfig:
    """Return the config of a file or recipe with changes applied in order.

    Without a file or recipe it is the recipe "digits" if the data is "digits", else the defaults above.
    """
    data = dict(changes).get("data.source", "digits")
    config = TrainConfig.read(path_or_name or "digits") if path_or_name or data == "digits" else TrainConfig()
    return config.apply(changes)
