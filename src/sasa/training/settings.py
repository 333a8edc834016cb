"""What every training run has for settings: plain values, read from YAML, changed by key=value, written back resolved.

The sections of classification stand in config.py, those of detection in detection_config.py.
"""

import dataclasses
import difflib
import re
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Self

from sasa.errors import UsageError

AUTOMATIC = ("recipe.ema_decay", "recipe.batch_norm_momentum")  # numbers, or "auto"
TYPES = {float: "a number", int: "a whole number", bool: "true or false", str: "text", list: "a list of numbers"}
OPTIMIZERS = ("sgd", "adamw")


@dataclass
class RecipeConfig:
    """How anything is learned: linear warm-up, cosine decay to zero.

    Args:
        epochs: passes over the training images.
        batch_size: images of a step, over all processes and all parts that a process accumulates.
        accumulate: parts of a step that a process goes through one after the other, to save memory.
        optimizer: "sgd" (with Nesterov momentum) or "adamw".
        learning_rate: at the top of the schedule, for this batch size.
        momentum: of SGD.
        weight_decay: on weights of convolutions and linear layers; norms, biases and positions are spared.
        warmup_epochs: epochs in which the learning rate rises from zero.
        clip_grad_norm: largest norm of the gradient, 0 for none.
        ema_decay: of the moving average of the weights, which is what is scored and saved: a number, 0 for none, or
            "auto": the paper's 0.9999 scaled to the length of the run (see `sasa.training.averages`).
        batch_norm_momentum: share of a batch in batch norm's running statistics (torch's default is 0.1), or
            "auto": the paper's 1 - 0.9999 scaled likewise.
    """

    epochs: int = 90
    batch_size: int = 64
    accumulate: int = 1
    optimizer: str = "sgd"
    learning_rate: float = 0.025
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_epochs: float = 5.0
    clip_grad_norm: float = 0.0
    ema_decay: float | str = "auto"
    batch_norm_momentum: float | str = "auto"


@dataclass
class RunConfig:
    """Where and how it runs.

    Args:
        seed: of initialisation, order and augmentation.
        accelerator: "auto", "cpu", "cuda", "mps": Lightning Fabric's names.
        precision: "32-true", "bf16-mixed", "16-mixed", ...: Lightning Fabric's names.
        channels_last: keep maps with the channels of a pixel side by side, which convolutions like.
        compile: whether torch.compile makes the training step's code.
        gradient_checkpointing: keep only the inputs of blocks and compute each block again in the backward pass:
            less memory, about a third more time.
        checkpoint_steps: steps between checkpoints, 0 for one at the end of each epoch.
        log_steps: steps between rows of steps.csv.
        tensorboard: whether to write TensorBoard's event files as well.
    """

    seed: int = 0
    accelerator: str = "auto"
    precision: str = "32-true"
    channels_last: bool = True
    compile: bool = False
    gradient_checkpointing: bool = False
    checkpoint_steps: int = 0
    log_steps: int = 50
    tensorboard: bool = True


@dataclass
class Config:
    """Everything that decides a run. `model` holds `name` and any option of `sasa.create_model`.

    A kind of run has its own class, with its own sections `data` and `recipe`.
    """

    TASK: ClassVar[str]  # what it learns
    COMMAND: ClassVar[str]  # of the command line
    RECIPES: ClassVar[str]  # folder of the package with recipes

    model: dict[str, Any]
    data: Any
    recipe: Any
    run: RunConfig = field(default_factory=RunConfig)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as YAML and checkpoints hold them."""
        return {"task": self.TASK, **dataclasses.asdict(self)}

    def check(self) -> None:
        """Refuse values that no run can have.

        Raises:
            UsageError: says which.
        """
        recipe, run = self.recipe, self.run
        for key, value, least in (
            ("run.seed", run.seed, 0),
            ("data.image_size", self.data.image_size, 1),
            ("data.workers", self.data.workers, 0),
            ("recipe.epochs", recipe.epochs, 1),
            ("recipe.batch_size", recipe.batch_size, 1),
            ("recipe.accumulate", recipe.accumulate, 1),
            ("recipe.learning_rate", recipe.learning_rate, 0),
            ("recipe.clip_grad_norm", recipe.clip_grad_norm, 0),
            ("run.checkpoint_steps", run.checkpoint_steps, 0),
            ("run.log_steps", run.log_steps, 1),
        ):
            if value < least:
                raise UsageError(f"{key} must be at least {least}, got {value}")
        if not 0 <= self.data.held_out < 1:
            raise UsageError(f"data.held_out must be at least 0 and below 1, got {self.data.held_out}")
        for key in AUTOMATIC:
            value = getattr(recipe, key.partition(".")[2])
            if not isinstance(value, str) and not 0 <= value <= 1:
                raise UsageError(f"{key} must be 0 to 1 or auto, got {value}")
        if recipe.optimizer not in OPTIMIZERS:
            raise UsageError(f"recipe.optimizer must be {' or '.join(OPTIMIZERS)}, got {recipe.optimizer!r}")

    def to_yaml(self) -> str:
        """The resolved config as a document."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; what is left out keeps its default.

        Raises:
            UsageError: settings of another kind of run, an unknown name, or a value of another type.
        """
        config, task = cls(), values.get("task", "classification")  # pyright: ignore[reportCallIssue]
        if task != cls.TASK:
            raise UsageError(f"this is a config of {task!r}, and sasa {cls.COMMAND} is for {cls.TASK!r}")
        for key, value in flatten({name: section for name, section in values.items() if name != "task"}):
            config.set(key, value)
        return config

    def apply(self, changes: list[tuple[str, Any]]) -> Self:
        """Set values in order. Where they name a network that was saved, the config's own options of it fall away.

        A saved network has its options already: those of the recipe were meant for another one.

        Raises:
            UsageError: as `set`.
        """
        from sasa.models import list_models

        name = dict(changes).get("model.name")
        if name is not None and name not in list_models():
            self.model = {}
        for key, value in changes:
            self.set(key, value)
        return self

    def set(self, key: str, value: Any) -> None:
        """Set one value by its dotted name, such as recipe.epochs or model.width.

        Raises:
            UsageError: an unknown name (the nearest is told), or a value of another type.
        """
        section_name, _, name = key.partition(".")
        section = getattr(self, section_name, None)
        if section_name == "model" and name:
            self.model[name] = value
            return
        known = [f"{s}.{f.name}" for s in ("data", "recipe", "run") for f in dataclasses.fields(getattr(self, s))]
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0.5)
            raise UsageError(f"{key!r} is no setting" + (f"; did you mean {near[0]!r}?" if near else ""))
        setattr(section, name, same_type(key, value, getattr(section, name)))

    @classmethod
    def recipe_names(cls) -> list[str]:
        """Recipes of this kind that come with the package, by name."""
        entries = _recipes(cls.RECIPES).iterdir()
        return sorted(entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml"))

    @classmethod
    def read(cls, path_or_name: str) -> Self:
        """A config from a YAML file, or from a recipe that comes with the package.

        Raises:
            UsageError: no such file or recipe, YAML that is broken or holds tags (nothing in it is run).
        """
        path = Path(path_or_name)
        return cls._parse(path.read_text(), path_or_name) if path.is_file() else cls.read_recipe(path_or_name)

    @classmethod
    def read_recipe(cls, name: str) -> Self:
        """The recipe of that name that comes with the package, whatever files the current directory holds.

        Raises:
            UsageError: no such recipe; lists those that there are.
        """
        names = cls.recipe_names()
        if name not in names:
            sentence = f"{name!r} is neither a file nor a recipe of the package ({', '.join(names)})"
            raise UsageError(sentence + _replacement(name))
        return cls._parse((_recipes(cls.RECIPES) / f"{name}.yaml").read_text(), name)

    @classmethod
    def _parse(cls, text: str, name: str) -> Self:
        import yaml

        try:
            values = yaml.safe_load(text) or {}
        except yaml.YAMLError as error:
            raise UsageError(f"{name} is not plain YAML: {str(error).splitlines()[0]}") from error
        if not isinstance(values, dict):
            raise UsageError(f"{name} must hold sections model, data, recipe, run")
        return cls.from_dict(values)


def _recipes(folder: str) -> Any:
    return resources.files("sasa.tasks") / folder


def _replacement(path: str) -> str:
    """The command that prints what used to be a file in configs/; "" for any other path."""
    path = re.sub(r"bccd/attention\.yaml$", "bccd/table2_attention_full.yaml", path)
    path = re.sub(r"bccd/convolution\.yaml$", "bccd/table2_conv_baseline.yaml", path)
    found = re.search(r"(imagenet|cifar10|coco|bccd)(/small)?/(?:table(\d)|(figure5))_(\w+)\.yaml$", path)
    if not found:
        return ""
    dataset, small, table, figure, row = found.groups()
    scale = " --scale small" if small else ""
    return (
        f"; its config is now printed by: sasa reproduce {table or figure} --dataset {dataset}{scale} --row {row} "
        f"--print-config > {row}.yaml"
    )


def same_type(key: str, value: Any, like: Any) -> Any:
    """The value as the type that `like` has, where that loses nothing; "auto" stays where it is a default."""
    if key in AUTOMATIC and value == "auto":
        return value
    wanted = float if key in AUTOMATIC else type(like)
    if wanted is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-4 as a string
        except ValueError:
            pass
    if wanted is list and isinstance(value, list | tuple):
        try:
            return [float(item) for item in value]
        except (TypeError, ValueError):
            pass
    if type(value) is not wanted or wanted is list:
        raise UsageError(f"{key} must be {TYPES[wanted]}{' or auto' * (key in AUTOMATIC)}, got {value!r}")
    return value


def flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """[("recipe.epochs", 90), ...] of nested dictionaries."""
    flat = []
    for key, value in values.items():
        if isinstance(value, dict):
            flat += flatten(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", value))
    return flat


def parse_setting(text: str) -> tuple[str, Any]:
    """("recipe.epochs", 5) of "recipe.epochs=5"; the value is read as YAML."""
    import yaml

    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set takes key=value, got {text!r}")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {text}: the value is not plain YAML") from error
