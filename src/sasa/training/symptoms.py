"""Signs in metrics.csv that a run is going wrong, each with what to change."""

import math
from collections.abc import Sequence
from typing import Any

from sasa.training.settings import RecipeConfig

Rows = Sequence[dict[str, Any]]

ACCURACIES = ("top1", "map50")  # columns that are shares of 1
OVERFIT, OVERFIT_EPOCHS = 0.3, 3  # difference of such shares, in successive epochs
FEWEST = 2  # held-out images by which two scores must differ: of few images, a single one is chance
STAGNANT = 0.02  # that held-out accuracy gains meanwhile; early in a run it follows training accuracy by jumps
BEHIND = 0.03  # in two successive epochs
PATIENCE_EPOCHS, PATIENCE_STEPS = 3, 50  # after the warm-up, for a loss that does not fall
PATIENCE_AT_END = 20  # steps, after the last epoch: a few images make no 50 steps
ROSE_BY = 0.1  # training accuracy since the first epoch: the rate moves the network, whatever the loss says
FELL = 0.97  # of the first epoch's loss; with few images an epoch's loss varies by one or two percent
ROSE, JUMPED = 1.5, 10  # times the first epoch's loss: of training, of held-out images
HARMLESS = 1.0  # loss up to which no run is called diverging: a trained network starts near 0


def symptoms(rows: Rows, recipe: RecipeConfig, held_out: int = 0, chance: float = 0.0) -> dict[str, str]:
    """Return warnings about the last epoch, by kind; empty for a run that looks sound.

    Args:
        rows: of metrics.csv, at least one; columns that a task does not have are not looked at.
        recipe: of the run.
        held_out: number of held-out images; 0 for many.
        chance: training accuracy of the same answer for every image; 0 for many classes.
    """
    noise = FEWEST / held_out if held_out else 0.0
    found = {
        "overfit": overfitting(rows, max(OVERFIT, noise)),
        "average": average_behind(rows, recipe, max(BEHIND, noise)),
        "constant": constant_loss(rows, recipe, chance),
        "diverging": diverging(rows, recipe),
    }
    return {kind: sentence for kind, sentence in found.items() if sentence}


def overfitting(rows: Rows, difference: float = OVERFIT) -> str | None:
    """Compare accuracy on the training set with that on held-out images."""
    late = [row for row in rows[-OVERFIT_EPOCHS:] if "train_top1" in row]
    held_out = [_held_out(row, "top1") for row in late]
    if len(late) < OVERFIT_EPOCHS or held_out[-1] > held_out[0] + STAGNANT:
        return None
    if any(row["train_top1"] - score < difference for row, score in zip(late, held_out, strict=True)):
        return None
    row = rows[-1]
    return (
        f"{row['train_top1']:.0%} of the training images are classified correctly, but only "
        f"{_held_out(row, 'top1'):.0%} of the held-out ones (epoch {row['epoch']}): if they should be alike, compare "
        "them with `sasa data`; otherwise use more images, more augmentation (data.auto_augment, data.erasing) or a "
        "smaller network (model.width)"
    )


def average_behind(rows: Rows, recipe: RecipeConfig, difference: float = BEHIND) -> str | None:
    """Compare averaged weights with those of the last step, in the second half of the run."""
    if len(rows) < min(2, recipe.epochs) or 2 * rows[-2:][0]["epoch"] < recipe.epochs:
        return None
    for name in ACCURACIES:
        pairs = [(row.get(f"held_out_{name}"), row.get(f"last_{name}")) for row in rows[-2:]]
        if all(average is not None and last is not None and last - average > difference for average, last in pairs):
            average, last = pairs[-1]
            settings = recipe.ema_decay, recipe.batch_norm_momentum
            better = "0 and 0.1" if settings == ("auto", "auto") else "auto"
            return (
                f"the averaged weights reach {average:.1%}, those of the last step {last:.1%} (epoch "
                f"{rows[-1]['epoch']}): the average is too long for this run; set recipe.ema_decay and "
                f"recipe.batch_norm_momentum to {better} (they are {settings[0]} and {settings[1]})"
            )
    return None


def constant_loss(rows: Rows, recipe: RecipeConfig, chance: float = 0.0) -> str | None:
    """Look for a training loss that has not fallen since the first epoch, of a network that has not learned either."""
    first, last = rows[0], rows[-1]
    ended = last["epoch"] == recipe.epochs
    waited = last["epoch"] - max(first["epoch"], min(recipe.warmup_epochs, recipe.epochs / 2))
    if waited < PATIENCE_EPOCHS or last["step"] - first["step"] < (PATIENCE_AT_END if ended else PATIENCE_STEPS):
        return None
    compared = len(rows) // 2 if ended else 1  # halves of a run: the epochs of a few images vary
    before, now = _means(rows, "train_loss", compared)
    accuracy_before, accuracy = _means(rows, "train_top1", compared)
    learned = max(accuracy, last.get("held_out_map50", 0.0)) > (1 + chance) / 2
    if learned or accuracy > accuracy_before + ROSE_BY or now < FELL * before:
        return None
    return (
        f"the training loss has not fallen in {last['epoch']} epochs ({before:.4g}, now {now:.4g}): try "
        f"recipe.learning_rate ten times higher or lower (it is {recipe.learning_rate:g})"
    )


def _means(rows: Rows, name: str, count: int) -> tuple[float, float]:
    """Return the mean of a column over the first and over the last epochs; 0 where there is none."""
    values = [row.get(name, 0.0) for row in rows]
    return sum(values[:count]) / count, sum(values[-count:]) / count


def diverging(rows: Rows, recipe: RecipeConfig) -> str | None:
    """Look for losses far above where they began, or that are not finite."""
    row, first = rows[-1], rows[0]["train_loss"]
    losses = {"training": row["train_loss"], "held-out": row.get("last_loss", row.get("held_out_loss", 0.0))}
    limits = {"training": ROSE * first, "held-out": JUMPED * max(first, row["train_loss"])}
    for name, loss in losses.items():
        if not math.isfinite(loss) or loss > max(HARMLESS, limits[name]):
            return (
                f"the {name} loss is {loss:.4g} after epoch {row['epoch']}, and training began at {first:.4g}: the run "
                f"is close to diverging; lower recipe.learning_rate (it is {recipe.learning_rate:g}) or set "
                "recipe.clip_grad_norm=1"
            )
    return None


def _held_out(row: dict[str, Any], name: str) -> float:
    """Return the better of averaged and last weights: an average that lags is not overfitting."""
    return max(row[f"held_out_{name}"], row.get(f"last_{name}", 0.0))
