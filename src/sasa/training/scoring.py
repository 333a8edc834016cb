"""`sasa eval`: a trained network on held-out pictures."""

import time
from pathlib import Path
from typing import Any

from sasa.data.loader import EvaluationPictures, evaluation_loader
from sasa.data.sources import open_splits
from sasa.errors import DataError, SasaError
from sasa.training.config import read_config
from sasa.training.evaluate import evaluate
from sasa.training.predictor import Predictor


def score_directory(predictor: Predictor, directory: Path, data: str | None) -> dict[str, Any]:
    """Loss, top-1 and top-5 on the held-out part of `data`, or of the data that the run in `directory` had.

    Raises:
        SasaError: no data named, and the directory is no run.
        DataError: the data has other classes than the network.
    """
    if data is None and not (directory / "config.yaml").is_file():
        raise SasaError(f"{directory} is no run with data of its own: name some with --data")
    config = read_config(str(directory / "config.yaml")) if (directory / "config.yaml").is_file() else None
    seed, held_out = (config.run.seed, config.data.held_out) if config else (0, 0.2)
    _, source = open_splits(data or (config.data.source if config else ""), held_out, seed)
    if source.classes != predictor.labels:
        raise DataError(
            f"the data has {len(source.classes)} classes ({', '.join(source.classes[:3])}, ...), the network knows "
            f"{len(predictor.labels)} ({', '.join(predictor.labels[:3])}, ...)"
        )
    began = time.monotonic()
    loader = evaluation_loader(EvaluationPictures(source, predictor.preprocessing), 64, 0)
    score = evaluate(predictor.network, loader, predictor.device)
    return {
        "held_out_top1": round(score.top1, 6),
        "held_out_top5": round(score.top5, 6),
        "held_out_loss": round(score.loss, 6),
        "held_out_pictures": score.count,
        "images_per_second": round(score.count / (time.monotonic() - began), 1),
    }
