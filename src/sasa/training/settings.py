"""Settings of a run: plain values, read from YAML, changed by key=value, and written back with every default.

The sections `data` and `recipe` of a task are in its `config.py`. Neither pydantic nor OmegaConf is used: both would
replace `same_type` alone (20 lines), and their messages would have to be translated into sentences with the setting's
name, its nearest spelling and both values.
"""

import copy
import dataclasses
import difflib
import re
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Self

from sasa.data.loader import check_on_bad_image
from sasa.data.text import with_unique_keys
from sasa.errors import UsageError
from sasa.files import expand_user

AUTOMATIC = ("recipe.ema_decay", "recipe.batch_norm_momentum")  # numbers, or "auto"
TYPES = {float: "a number", int: "a whole number", bool: "true or false", str: "text", list: "a list of numbers"}
OPTIMIZERS = ("sgd", "adamw")
LARGEST = 1e38  # a number of the config is below it, so that float32 can hold it
LIMITS = {"data.image_size": 2**16, "data.workers": 2**12}  # mistyped, they would take all memory and processes


@dataclass
class RecipeConfig:
    """Settings of the training that every task has: linear warm-up, cosine decay to zero.

    Args:
        epochs: passes over the training images.
        batch_size: images a step, over all processes and all micro-batches that a process accumulates.
        accumulate: micro-batches of a step that a process goes through one after the other, to save memory.
        optimizer: "sgd" (with Nesterov momentum) or "adamw".
        learning_rate: the highest of the schedule, for this batch size.
        momentum: of SGD.
        weight_decay: on weights of convolutions and linear layers; norms, biases and position embeddings are exempt.
        warmup_epochs: epochs in which the learning rate rises from zero; half of the run if that is less.
        clip_grad_norm: largest norm of the gradient, 0 for no limit.
        ema_decay: decay of the moving average of the weights, which is scored and saved: a number, 0 for none, or
            "auto": over the last fiftieth of the run, none below 500 steps (see `sasa.training.averages`).
        batch_norm_momentum: share of a step in batch norm's running statistics (torch's default is 0.1), or
            "auto": over as many steps as the weights, at least ten.
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
    """Settings of where and how a run executes.

    Args:
        seed: of initialisation, order and augmentation.
        accelerator: "auto", "cpu", "cuda", "mps": Lightning Fabric's names.
        precision: "32-true", "bf16-mixed", or "16-mixed" on GPUs: Lightning Fabric's names. The weights are float32.
        channels_last: the memory layout of feature maps; convolutions are faster with it.
        compile: whether to use torch.compile.
        gradient_checkpointing: keep only the inputs of blocks and compute each block again in the backward pass:
            less memory, about a third more time.
        checkpoint_steps: steps between checkpoints, 0 for one at the end of each epoch.
        log_steps: steps between rows of steps.csv; an epoch if that is less.
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
    """All settings of a run. `model` holds `name` and any option of `sasa.create_model`.

    Each task has a subclass, with its own sections `data` and `recipe`; its recipes are the YAML files in `recipes/`
    beside the module of the subclass.
    """

    TASK: ClassVar[str]  # name of the task in the registry and in config.yaml
    COMMAND: ClassVar[str]  # its training command: "train" for `sasa train`
    PATHS: ClassVar[tuple[str, ...]] = ("data.source",)  # settings that may be paths

    model: dict[str, Any]
    data: Any
    recipe: Any
    run: RunConfig = field(default_factory=RunConfig)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as YAML and checkpoints hold them."""
        return {"task": self.TASK, **dataclasses.asdict(self)}

    def check(self) -> None:
        """Check the values of all settings.

        Raises:
            UsageError, ArgumentError: names the setting and its value.
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
            ("recipe.momentum", recipe.momentum, 0),
            ("recipe.weight_decay", recipe.weight_decay, 0),
            ("recipe.warmup_epochs", recipe.warmup_epochs, 0),
            ("recipe.clip_grad_norm", recipe.clip_grad_norm, 0),
            ("run.checkpoint_steps", run.checkpoint_steps, 0),
            ("run.log_steps", run.log_steps, 1),
        ):
            check_range(key, value, least)
        if run.seed >= 2**63:
            raise UsageError(f"run.seed must be below 2^63, got {run.seed}")
        if recipe.momentum >= 1:
            raise UsageError(f"recipe.momentum must be below 1, got {recipe.momentum}")
        if not 0 <= self.data.held_out < 1:
            raise UsageError(f"data.held_out must be at least 0 and below 1, got {self.data.held_out}")
        for key in AUTOMATIC:
            value = getattr(recipe, key.partition(".")[2])
            if not isinstance(value, str) and not 0 <= value <= 1:
                raise UsageError(f"{key} must be 0 to 1 or auto, got {value}")
        if recipe.optimizer not in OPTIMIZERS:
            raise UsageError(f"recipe.optimizer must be {' or '.join(OPTIMIZERS)}, got {recipe.optimizer!r}")
        check_on_bad_image(self.data.on_bad_image)
        self.data.preprocessing()
        self.data.augmentation()

    def to_yaml(self) -> str:
        """Return the settings as a YAML document."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Make a config from what `to_dict` returned; missing settings have their defaults.

        Raises:
            UsageError: the config of another task, an unknown setting, or a value of another type.
        """
        config, task = cls(), values.get("task", "classification")  # pyright: ignore[reportCallIssue]
        if task != cls.TASK:
            raise UsageError(f"this is a config of {task!r}, and sasa {cls.COMMAND} is for {cls.TASK!r}")
        for key, value in flatten({name: section for name, section in values.items() if name != "task"}):
            config.set(key, value)
        return config

    def apply(self, changes: list[tuple[str, Any]]) -> Self:
        """Set values in order; a saved network as model.name drops the other model options.

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
            UsageError: an unknown name (the message suggests the nearest), or a value of another type.
        """
        section_name, _, name = key.partition(".")
        if section_name == "model" and name:
            self.model[name] = value
            return
        known = [f"{s}.{f.name}" for s in ("data", "recipe", "run") for f in dataclasses.fields(getattr(self, s))]
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0.5)
            raise UsageError(f"{key!r} is not a setting" + (f"; did you mean {near[0]!r}?" if near else ""))
        section = getattr(self, section_name)
        setattr(section, name, same_type(key, value, getattr(section, name)))

    def with_absolute_paths(self) -> Self:
        """Return a copy with absolute paths, valid in any working directory; names such as "digits" stay."""
        from sasa.models import list_models

        changed = copy.deepcopy(self)
        for key in self.PATHS:
            section, _, name = key.partition(".")
            setattr(getattr(changed, section), name, absolute(getattr(getattr(changed, section), name)))
        if isinstance(name := self.model.get("name"), str) and name not in list_models():
            changed.model["name"] = absolute(name)
        return changed

    def without_initial_weights(self) -> Self:
        """Return a copy without initial weights, for a network that has its own: those files may be gone."""
        return self._copy_with("recipe.backbone", "")

    def without_images_in_memory(self) -> Self:
        """Return a copy that reads images on demand, for uses that need only a few of them."""
        return self._copy_with("data.in_memory", False)

    def _copy_with(self, key: str, value: Any) -> Self:
        """Return a copy with another value of a setting, if the task has that setting."""
        changed, (section, _, name) = copy.deepcopy(self), key.partition(".")
        if hasattr(getattr(changed, section), name):
            changed.set(key, value)
        return changed

    @classmethod
    def recipe_names(cls) -> list[str]:
        """Return the names of the task's recipes."""
        return sorted(file.name.removesuffix(".yaml") for file in cls._recipes().iterdir() if ".yaml" in file.name)

    @classmethod
    def _recipes(cls) -> Any:
        return resources.files(cls.__module__.rpartition(".")[0]) / "recipes"

    @classmethod
    def read(cls, path_or_name: str) -> Self:
        """Read a config from a YAML file, or a recipe of the package by its name.

        Raises:
            UsageError: no such file or recipe, YAML that is damaged or holds tags (no code in it is run).
        """
        path = Path(path_or_name)
        return (
            cls.from_dict(parse_yaml(path.read_bytes(), path_or_name))
            if path.is_file()
            else cls.read_recipe(path_or_name)
        )

    @classmethod
    def read_recipe(cls, name: str) -> Self:
        """Read a recipe of the package, ignoring files of that name in the working directory.

        Raises:
            UsageError: no such recipe.
        """
        names = cls.recipe_names()
        if name not in names:
            sentence = f"{name!r} is neither a file nor a recipe of the package ({', '.join(names)})"
            raise UsageError(sentence + _replacement(name))
        return cls.from_dict(parse_yaml((cls._recipes() / f"{name}.yaml").read_bytes(), name))


def check_range(key: str, value: float, least: int) -> None:
    """Raise a `UsageError` unless a number is at least `least` and below its limit, or what float32 can hold."""
    limit = LIMITS.get(key, LARGEST)
    if not least <= value < limit:  # NaN is not
        below = "" if value < least else f" and below {limit:g}"
        raise UsageError(f"{key} must be at least {least}{below}, got {value}")


def parse_yaml(content: bytes, name: str) -> dict[str, Any]:
    """Parse the content of a config file, in UTF-8 or UTF-16 whatever the locale; `name` is for messages.

    Raises:
        UsageError: not plain YAML, a key twice, or not a mapping; empty, as after a full disk, which must not mean
            the defaults.
    """
    import yaml

    try:
        values = yaml.load(content, with_unique_keys(yaml.SafeLoader))  # noqa: S506
    except yaml.YAMLError as error:
        raise UsageError(f"{name} is not plain YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict) or not values:
        raise UsageError(f"{name} must hold sections model, data, recipe, run")
    return values


def absolute(path: str) -> str:
    """Return a path that exists, or a pattern of files such as DIR/train-{0000..0012}.tar, as an absolute path.

    Anything else (a name) is returned as it is, and so is "digits", which always means the built-in data set.
    """
    place = expand_user(path)
    is_path = place.exists() or ("{" in path and place.parent.is_dir())
    return str(place.absolute()) if path not in ("", "digits") and is_path else path


def _replacement(path: str) -> str:
    """Return the command that prints a config that used to be a file in configs/; "" for any other path."""
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
    """Convert the value to the type of `like` if that loses nothing; "auto" is allowed where it is the default."""
    if key in AUTOMATIC and value == "auto":
        return value
    wanted = float if key in AUTOMATIC else type(like)
    if wanted is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-4 as a string
        except ValueError:
            pass
    if wanted is list and isinstance(value, list | tuple) and not any(isinstance(item, bool) for item in value):
        try:
            return [float(item) for item in value]
        except (TypeError, ValueError):
            pass
    if type(value) is not wanted or wanted is list:
        raise UsageError(f"{key} must be {TYPES[wanted]}{' or auto' * (key in AUTOMATIC)}, got {value!r}")
    return value


def flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return [("recipe.epochs", 90), ...] for nested dictionaries."""
    flat = []
    for key, value in values.items():
        if isinstance(value, dict):
            flat += flatten(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", value))
    return flat


def parse_setting(text: str) -> tuple[str, Any]:
    """Return ("recipe.epochs", 5) for "recipe.epochs=5"; the value is read as YAML."""
    import yaml

    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set takes key=value, got {text!r}")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {text}: the value is not plain YAML") from error
