"""Settings of `sasa detect train`: data and recipe, and the files that they are read from."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from sasa.data.detection.transforms import DetectionAugmentation, DetectionPreprocessing
from sasa.training.settings import Config, RecipeConfig, check_range


@dataclass
class DetectionData:
    """The images: their location and preprocessing.

    Args:
        source: a directory with COCO's or Roboflow's JSON or Pascal VOC's XML, or a COCO JSON file.
        held_out: the fraction held out where the data has no validation split of its own.
        image_size: an image is resized so that its longer side has this many pixels.
        mean, std: of each channel, for pixels 0 to 1.
        jitter_min, jitter_max: training resizes the longer side to image_size times a factor between these, and crops
            at most image_size x image_size.
        flip, vertical_flip: whether training flips images at random, left to right or top to bottom.
        colour: how much training changes brightness, contrast and saturation, 0 to 1.
        on_bad_image: an image that cannot be read is an "error", or is left out, counted and listed ("skip").
        workers: processes that read images; 0 reads them in the training process.
    """

    source: str = "coco"
    held_out: float = 0.2
    image_size: int = 640
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    jitter_min: float = 0.8
    jitter_max: float = 1.2
    flip: bool = True
    vertical_flip: bool = False
    colour: float = 0.0
    on_bad_image: str = "error"
    workers: int = 2

    def preprocessing(self) -> DetectionPreprocessing:
        """Return the preprocessing, which evaluation and prediction share."""
        return DetectionPreprocessing(self.image_size, tuple(self.mean), tuple(self.std))

    def augmentation(self) -> DetectionAugmentation:
        """Return the augmentation, which only training uses."""
        return DetectionAugmentation(self.jitter_min, self.jitter_max, self.flip, self.vertical_flip, self.colour)


@dataclass
class DetectionRecipe(RecipeConfig):
    """Settings of the training: those of every task, and these.

    Args:
        box_weight: factor of the box loss; that of the classification loss is 1.
        backbone: "" for random initial weights of the backbone, or the directory of a run of `sasa train` (or
            hf:OWNER/NAME) whose weights it starts from.
    """

    box_weight: float = 1.0
    backbone: str = ""


@dataclass
class DetectionConfig(Config):
    """All settings of a detection run. `model` holds `name` and any option of `sasa.create_model`."""

    TASK: ClassVar[str] = "detection"
    COMMAND: ClassVar[str] = "detect train"
    PATHS: ClassVar[tuple[str, ...]] = ("data.source", "recipe.backbone")

    model: dict[str, Any] = field(default_factory=lambda: {"name": "retinanet_sasa_resnet26_attnheads"})
    data: DetectionData = field(default_factory=DetectionData)
    recipe: DetectionRecipe = field(default_factory=DetectionRecipe)

    def check(self) -> None:
        """Check the values of all settings."""
        super().check()
        check_range("recipe.box_weight", self.recipe.box_weight, 0)


def resolve(path_or_name: str | None, changes: list[tuple[str, Any]]) -> DetectionConfig:
    """Return the config of a file or recipe (by default "small") with changes applied in order."""
    return DetectionConfig.read(path_or_name or "small").apply(changes)
