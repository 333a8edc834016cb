"""Figures of a run for its model card."""

import json

import pytest

from sasa.tasks.train import run_figures


def test_rows_and_the_name_of_the_data_set(tmp_path):
    summary = {"held_out_top1": 0.75, "held_out_pictures": 8, "data": "/home/somebody/secret/pets", "other": 1}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    figures = run_figures(tmp_path)
    assert figures.rows == [("top-1 accuracy", 0.75), ("held-out images", 8)]
    assert figures.heading == "Measured by `sasa train` on held-out images of `pets`."


@pytest.mark.parametrize("text", [None, "no JSON", "[]"])
def test_a_summary_that_cannot_be_read_is_left_out(tmp_path, text):
    if text is not None:
        (tmp_path / "summary.json").write_text(text)
    assert run_figures(tmp_path) is None
