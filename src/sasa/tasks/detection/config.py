"""A run of `sasa detect train`: its data, its recipe, and where both are read from."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from sasa.data.detection.transforms import DetectionAugmentation, DetectionPreprocessing
from sasa.errors import UsageError
from sasa.training.settings import Config, RecipeConfig


@dataclass
class DetectionData:
    """What is learned from.

    Args:
        source: a folder with COCO's or Roboflow's JSON or Pascal VOC's XML, or a JSON file of COCO's.
        held_out: the fraction held out where the data has no validation split of its own.
        image_size: pixels into whose square an image is fitted: its longer side.
        mean, std: of each channel, pixels being 0 to 1.
        jitter_min, jitter_max: training fits an image into image_size times a factor between these, and cuts a part
            of at most image_size x image_size out of it.
        flip, vertical_flip: whether training mirrors images at random.
        colour: how much training changes brightness, contrast and saturation, 0 to 1.
        on_bad_image: what to do with an image that cannot be read: "error", or "skip" (left out, counted, listed).
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
        """The part that evaluation and prediction need as well."""
        return DetectionPreprocessing(self.image_size, tuple(self.mean), tuple(self.std))

    def augmentation(self) -> DetectionAugmentation:
        """The part that only training does."""
        return DetectionAugmentation(self.jitter_min, self.jitter_max, self.flip, self.vertical_flip, self.colour)


@dataclass
class DetectionRecipe(RecipeConfig):
    """How boxes are learned: the settings of every recipe, and these.

    Args:
        box_weight: factor of the boxes' loss beside the classes'.
        backbone: "" to start from random weights, or the folder of a run of `sasa train` (or hf:OWNER/NAME) whose
            weights the backbone starts from.
    """

    box_weight: float = 1.0
    backbone: str = ""


@dataclass
class DetectionConfig(Config):
    """Everything that decides a run of detection. `model` holds `name` and any option of `sasa.create_model`."""

    TASK: ClassVar[str] = "detection"
    COMMAND: ClassVar[str] = "detect train"
    RECIPES: ClassVar[str] = "detection/recipes"

    model: dict[str, Any] = field(default_factory=lambda: {"name": "retinanet_sasa_resnet26_attnheads"})
    data: DetectionData = field(default_factory=DetectionData)
    recipe: DetectionRecipe = field(default_factory=DetectionRecipe)

    def check(self) -> None:
        """Refuse values that no run can have."""
        super().check()
        if self.recipe.box_weight < 0:
            raise UsageError(f"recipe.box_weight must be at least 0, got {self.recipe.box_weight}")


def resolve(path_or_name: str | None, changes: list[tuple[str, Any]]) -> DetectionConfig:
    """The config of a file or recipe, by default the recipe "small", with changes applied in order."""
    return DetectionConfig.read(path_or_name or "small").apply(changes)
