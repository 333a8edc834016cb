"""The recipe of each data set and scale, as the YAML that its configs hold: written once, here.

What the paper gives (Appendices A.2 and A.3) is marked so. Everything else is our choice, and every line of it says so:
weight decay, augmentation, label smoothing, precision. No line was measured by us at full scale.
"""

from typing import Any

from sasa.errors import UsageError
from sasa.reproduce.measures import BOXES

IMAGENET = """\
data:
  source: imagenet # --data DIR says where it is
  held_out: 0.04 # A.2: for tuning; drawn class by class with run.seed where the data has no split of its own
  image_size: 224
  crop: resized # ours, this line to erasing: the paper does not give its augmentation
  crop_scale: 0.08
  flip: true
  auto_augment: ""
  erasing: 0.0
  crop_fraction: 0.875
  workers: 8 # of each process
recipe:
  epochs: 130 # A.2
  batch_size: 4096 # A.2, over all processes
  accumulate: 8 # parts of 64 images on 8 GPUs; how much memory a part takes is not measured by us
  optimizer: sgd
  momentum: 0.9 # A.2 names Nesterov momentum, and no number: 0.9 is usual
  learning_rate: 1.6 # A.2
  warmup_epochs: 10 # A.2: linear; then cosine decay
  batch_norm_momentum: 1.0e-4 # A.2: a decay of 0.9999
  ema_decay: 0.9999 # A.2
  weight_decay: 1.0e-4 # ours: the paper gives none
  label_smoothing: 0.1 # ours
run:
  precision: bf16-mixed # ours
"""

CIFAR10 = """\
data:
  source: cifar10 # --data DIR says where it is
  image_size: 32
  crop: pad
  crop_padding: 4
  crop_fraction: 1.0
  flip: true
  mean: [0.491, 0.482, 0.447]
  std: [0.247, 0.243, 0.262]
  in_memory: true # decoded once, augmented on the device
  workers: 0
recipe: # ours, one for all networks: usual for ResNets on CIFAR-10, with a warm-up, which attention wants
  epochs: 100
  batch_size: 128
  learning_rate: 0.1
  weight_decay: 5.0e-4
  warmup_epochs: 5
  label_smoothing: 0.1
run:
  precision: bf16-mixed
  tensorboard: false
"""

CIFAR10_SMALL = """\
data:
  source: cifar10 # --data DIR says where it is
  image_size: 32
  crop: pad
  crop_padding: 4
  crop_fraction: 1.0
  flip: true
  mean: [0.491, 0.482, 0.447]
  std: [0.247, 0.243, 0.262]
  in_memory: true
  workers: 0
recipe: # ours, one for all networks; the rate chosen on validation for both kinds: docs/choices.md
  epochs: 3
  batch_size: 64
  learning_rate: 0.2
  weight_decay: 5.0e-4
  warmup_epochs: 0.5
  label_smoothing: 0.0
  ema_decay: 0.99 # a hundred steps: a quarter of so short a run ("auto") looks back too far
  batch_norm_momentum: 0.01
run:
  tensorboard: false
"""

DIGITS = """\
data:
  source: digits
  held_out: 0.2
  image_size: 16
  channels: 1
  mean: [0.3]
  std: [0.35]
  crop: pad
  crop_padding: 1
  crop_fraction: 1.0
  flip: false
  in_memory: true
  workers: 0
recipe:
  epochs: 10
  batch_size: 64
  learning_rate: 0.05
  weight_decay: 5.0e-4
  warmup_epochs: 1
  label_smoothing: 0.0
  ema_decay: 0.98
  batch_norm_momentum: 0.02
run:
  tensorboard: false
"""

COCO = """\
data:
  source: coco # --data DIR says where it is: annotations/instances_{train,val}2017.json, train2017/, val2017/
  image_size: 640 # A.3: crops of at most 640
  jitter_min: 0.8 # ours, this line and the next: A.3 has multi-scale jitter, and no numbers
  jitter_max: 1.2
  flip: true # A.3
  vertical_flip: false
  colour: 0.0
  workers: 8 # of each process
recipe:
  epochs: 150 # A.3
  batch_size: 64 # A.3, over all processes
  optimizer: sgd
  momentum: 0.9 # A.3 names none: 0.9 is usual
  learning_rate: 0.12 # A.3
  warmup_epochs: 1 # A.3: linear from 0; then cosine decay
  weight_decay: 1.0e-4 # ours: the paper gives none
  box_weight: 1.0 # ours, as the losses of torchvision's RetinaNet
  clip_grad_norm: 10.0 # ours: A.3 starts from random weights at this learning rate
run:
  precision: bf16-mixed # ours
"""

BCCD = """\
data:
  source: bccd # --data DIR says where it is
  image_size: 416
  jitter_min: 0.7
  jitter_max: 1.4
  flip: true
  vertical_flip: true # cells have no upper side
  colour: 0.2
  workers: 0
recipe:
  epochs: 45
  batch_size: 4
  optimizer: adamw
  learning_rate: 1.0e-3
  weight_decay: 0.05
  warmup_epochs: 1
  clip_grad_norm: 10.0
  ema_decay: 0.99 # two epochs
  batch_norm_momentum: 0.02
"""

RECIPES = {
    ("imagenet", "full"): IMAGENET,
    ("cifar10", "full"): CIFAR10,
    ("cifar10", "small"): CIFAR10_SMALL,
    ("digits", "small"): DIGITS,
    ("coco", "full"): COCO,
    ("bccd", "small"): BCCD,
}
DATASETS = tuple(dict.fromkeys(dataset for dataset, _ in RECIPES))
SCALES = ("full", "small")


def choose_scale(dataset: str, scale: str | None) -> str:
    """The scale asked for, or the first that the data set has.

    Raises:
        UsageError: an unknown data set, or a scale that it does not have.
    """
    if dataset not in DATASETS:
        raise UsageError(f"--dataset must be {', '.join(DATASETS)}; got {dataset!r}")
    there = [name for of, name in RECIPES if of == dataset]
    if scale is not None and scale not in there:
        raise UsageError(f"--scale of {dataset} must be {' or '.join(there)}, got {scale!r}")
    return scale or there[0]


def recipe(dataset: str, scale: str) -> dict[str, Any]:
    """The sections data, recipe and run, and of what task they are where it is not classification."""
    import yaml

    task = {"task": "detection"} if dataset in BOXES else {}
    return {**task, **yaml.safe_load(RECIPES[dataset, scale])}
