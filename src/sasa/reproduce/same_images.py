"""Whether the runs of a table saw the same images: what they say of themselves, wherever --data was."""

from collections.abc import Sequence

from sasa.errors import SasaError
from sasa.reproduce.plan import Plan
from sasa.reproduce.runs import DONE, Run

COMPARED = {  # keys of summary.json
    "training_pictures": "training images",
    "held_out_pictures": "held-out images",
}
DRAWN = "held_out_drawn"  # whether what was scored is a part of the training images


def check_images(plan: Plan, runs: Sequence[Run]) -> None:
    """Refuse to put runs on different data into one table.

    Raises:
        SasaError: names two runs with their numbers, or one that was scored on the data's own part under --validation.
    """
    done = [(run, run.summary()) for run in runs if run.state == DONE]
    for key, word in COMPARED.items():
        first: dict[int, Run] = {}
        for run, summary in done:
            if key in summary:
                first.setdefault(summary[key], run)
        if len(first) > 1:
            (one, a), (other, b) = list(first.items())[:2]
            raise SasaError(
                f"{a.path} has {one} {word}, {b.path} has {other}: runs of one table need the same data; name another "
                "--output, or move one away"
            )
    drawn = scored_on_drawn(runs)
    if drawn == {True, False} or (plan.validation and drawn == {False}):
        own = next(run for run, summary in done if summary.get(DRAWN) is False)
        raise SasaError(
            f"{own.path} was scored on the data's own held-out images, not on a part of the training images as "
            f"{'--validation says' if plan.validation else 'the others were'}: they do not belong in one table"
        )


def scored_on_drawn(runs: Sequence[Run]) -> set[bool]:
    """What the runs that are done say: scored on a drawn part of the training images, or on the data's own."""
    summaries = [run.summary() for run in runs if run.state == DONE]
    return {summary[DRAWN] for summary in summaries if DRAWN in summary}
