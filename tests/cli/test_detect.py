"""`sasa detect`: what it prints and writes, and one sentence for each error."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boxes import LEARNS, annotation_file, change, settings, write_boxes
from command import assert_one_sentence, run_command
from sasa.models import RetinaNet
from sasa.tasks.detection.predictor import Detector

FIGURES = ("map", "map50", "map75", "small", "medium", "large")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_boxes(tmp_path_factory.mktemp("boxes") / "data")


@pytest.fixture(scope="module")
def detector(data, tmp_path_factory):
    """The run directory of a finished `sasa detect train`."""
    path = tmp_path_factory.mktemp("runs") / "run"
    run_command("detect", "train", "--data", data, "--output", path, *settings(*LEARNS))
    return path


@pytest.fixture
def own(tmp_path):
    """A data set that a test may change."""
    return write_boxes(tmp_path / "data")


def by_pycocotools(path, results):
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO(str(path))
        evaluation = cocoeval.COCOeval(truth, truth.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:6]


@pytest.mark.parametrize("split", ["val", "test"])
def test_results_score_the_same_with_pycocotools(sasa, data, detector, tmp_path, split):
    results, figures = tmp_path / "results.json", tmp_path / "figures.json"
    arguments = ["--split", split, "--results", results, "--json", figures]
    status, out, _ = sasa("detect", "eval", "--model", detector, *arguments)
    assert status == 0
    values = json.loads(figures.read_text())
    ours = [-1 if values[name] is None else values[name] for name in FIGURES]
    assert values["map50"] > 0
    np.testing.assert_allclose(ours, by_pycocotools(annotation_file(data, split), results), rtol=0, atol=1e-6)
    assert values["pictures"] == 4
    assert set(values["per_class"]) == {"red", "blue"}
    assert {found["category_id"] for found in json.loads(results.read_text())} <= {3, 7}
    lines = out.splitlines()
    assert lines[0].split() == ["map", str(round(values["map"], 6))]
    table = out.split("\n\n")[1].splitlines()
    assert table[0].split() == ["class", "boxes", "mAP", "mAP", "50"]
    assert [line.split()[0] for line in table[1:]] == ["red", "blue"]


def test_eval_repeats_the_summary(sasa, detector, tmp_path):
    assert sasa("detect", "eval", "--model", detector, "--json", tmp_path / "e.json")[0] == 0
    values, summary = json.loads((tmp_path / "e.json").read_text()), json.loads((detector / "summary.json").read_text())
    assert values["map50"] == pytest.approx(summary["held_out_map50"], abs=1e-4)
    assert sasa("detect", "eval", "--model", detector / "best", "--json", tmp_path / "b.json")[0] == 0
    assert json.loads((tmp_path / "b.json").read_text())["map"] == pytest.approx(summary["best_map"], abs=1e-4)


def test_eval_of_other_data(sasa, detector, own, tmp_path):
    arguments = ["detect", "eval", "--model", detector, "--data", own]
    bad = own / "val" / "017.png"
    bad.write_text("no image")
    assert_one_sentence(sasa(*arguments), 3, "017.png is not an image")
    status, out, error = sasa(*arguments, "--on-bad-image", "skip")
    assert status == 0
    assert error == f"skipped: {bad} cannot be read\n"
    assert "skipped images" in out
    for path in (own / "val").iterdir():
        path.write_text("no image")
    assert_one_sentence(sasa(*arguments, "--on-bad-image", "skip"), 3, "none of the 4 images can be read")
    change(own, "val", lambda document: document["categories"][0].update(name="green"))
    written = [tmp_path / "r.json", tmp_path / "e.json"]
    assert_one_sentence(
        sasa(*arguments, "--results", written[0], "--json", written[1]), 3, "has a class 'green' that the training"
    )
    assert not any(path.exists() for path in written)


def test_bench_times_a_detector_beside_its_twin(sasa, detector):
    status, out, _ = sasa("bench", "--model", detector, "--rounds", 3)
    assert status == 0
    assert "retinanet_sasa_resnet26_attnheads and its convolutional twin, batch size 4" in out
    written = json.loads((detector / "speed.json").read_text())
    assert set(written["passes"]) == {"training step", "inference"}
    assert written["parameters"]["this network"] < written["parameters"]["convolutional twin"]


def test_wrong_arguments_of_eval(sasa, detector, tmp_path):
    arguments = ["detect", "eval", "--model"]
    assert_one_sentence(sasa(*arguments, detector, "--split", "all"), 2, "--split must be train or val or test")
    assert_one_sentence(sasa(*arguments, detector, "--results", tmp_path / "no" / "r.json"), 1, "is not a directory")
    both = ["--json", tmp_path / "x.json", "--results", tmp_path / "x.json"]
    assert_one_sentence(sasa(*arguments, detector, *both), 2, "--json and --results are both", "name two files")
    assert_one_sentence(sasa(*arguments, detector, "--data", tmp_path / "no"), 3, "does not exist")
    assert_one_sentence(sasa(*arguments, tmp_path / "no"), 1, "is not the directory of a run")
    shutil.copytree(detector, tmp_path / "alone")
    (tmp_path / "alone" / "config.yaml").unlink()
    assert_one_sentence(
        sasa(*arguments, tmp_path / "alone"), 1, "is not a run with data of its own: name some with --data"
    )


def test_a_network_of_the_other_task_is_an_error(sasa, data, detector, run_directory, tmp_path):
    image = data / "val" / "017.png"
    for arguments in (["eval"], ["predict", image], ["attend", image, "--output", tmp_path / "a.png"]):
        assert_one_sentence(sasa(*arguments, "--model", detector), 1, "holds a detector: use sasa detect eval")
    for arguments in (["detect", "eval"], ["detect", "predict", image, "--draw", tmp_path / "drawn"]):
        assert_one_sentence(sasa(*arguments, "--model", run_directory), 1, "holds a classifier: use sasa eval")
    assert not list(tmp_path.iterdir())
    config = ["--config", detector / "config.yaml"]
    assert_one_sentence(sasa("train", *config), 2, "this is a config of 'detection', and sasa train is for")
    config = ["--config", run_directory / "config.yaml"]
    assert_one_sentence(sasa("detect", "train", *config), 2, "is a config of 'classification', and sasa detect train")


def test_predict_files_directories_patterns(sasa, data, detector, tmp_path):
    arguments = ["detect", "predict", "--model", detector, "--score", 0.2]
    status, out, _ = sasa(*arguments, data / "val", "--json", tmp_path / "p.json", "--draw", tmp_path / "drawn")
    assert status == 0
    *lines, drawn = out.splitlines()
    assert drawn == f"drawn: 4 images in {tmp_path / 'drawn'}"
    names = [line.partition("  ")[0] for line in lines]
    assert names == sorted(str(path) for path in (data / "val").iterdir())
    written = json.loads((tmp_path / "p.json").read_text())
    assert [p["picture"] for p in written] == names
    found = [box for image in written for box in image["found"]]
    assert found
    for box in found:
        x1, y1, x2, y2 = box["box"]
        assert 0 <= x1 < x2 <= 64
        assert 0 <= y1 < y2 <= 48
        assert box["label"] in ("red", "blue")
        assert 0.2 <= box["score"] <= 1
    for image, line in zip(written, lines, strict=True):
        assert sum(int(word) for word in line.partition("  ")[2].split() if word.isdigit()) == len(image["found"])
        path = Path(image["picture"])
        with Image.open(path) as before, Image.open(tmp_path / "drawn" / path.name) as after:
            assert after.size == before.size
            assert (after.tobytes() != before.tobytes()) == bool(image["found"])
    one = sasa(*arguments, data / "val" / "017.png")[1]
    assert one.splitlines() == lines[:1]
    assert sasa(*arguments, data / "val" / "01*.png", data / "val" / "017.png")[1].splitlines() == lines[:3]
    nothing = sasa("detect", "predict", "--model", detector, data / "val", "--score", 1.0)[1]
    assert all(line.endswith("  nothing") for line in nothing.splitlines())


def test_predict_in_batches_agrees_with_single_images(sasa, detector, tmp_path, monkeypatch):
    """Also for images of different sizes: each is padded as it would be alone."""
    random = np.random.default_rng(0)
    for number, size in enumerate([(64, 48)] * 5 + [(48, 64), (40, 60), (64, 20)] + [(64, 48)] * 3):
        Image.fromarray(random.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)).save(tmp_path / f"{number:02}.png")
    arguments = ["detect", "predict", "--model", detector, tmp_path, "--score", 0.05]
    sizes, forward = [], RetinaNet.forward
    monkeypatch.setattr(RetinaNet, "forward", lambda network, x: sizes.append(len(x)) or forward(network, x))
    status, out, _ = sasa(*arguments, "--json", tmp_path / "together.json")
    assert status == 0
    assert sum(sizes) == 11
    assert max(sizes) > 4
    monkeypatch.setattr(Detector, "BATCH", 1)
    assert sasa(*arguments, "--json", tmp_path / "alone.json")[1] == out
    together, alone = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("together", "alone"))
    assert any(image["found"] for image in alone)
    for one, other in zip(together, alone, strict=True):
        assert one["picture"] == other["picture"]
        assert [box["label"] for box in one["found"]] == [box["label"] for box in other["found"]]
        for x, y in zip(one["found"], other["found"], strict=True):
            assert x["score"] == pytest.approx(y["score"], abs=1e-4)
            assert x["box"] == pytest.approx(y["box"], abs=0.05)


def test_inputs_are_not_overwritten(sasa, own, detector, tmp_path):
    """Drawings in the inputs' directory and JSON leave the inputs as they are."""
    before = {path: path.read_bytes() for path in (own / "val").iterdir()}
    arguments = ["detect", "predict", own / "val", "--model", detector]
    status, out, _ = sasa(*arguments, "--draw", own / "val")
    assert status == 0
    assert out.splitlines()[-1] == f"drawn: 4 images in {own / 'val'}"
    assert sum(path.name.endswith("-2.png") for path in (own / "val").iterdir()) == 4
    first = own / "val" / "017.png"
    assert_one_sentence(sasa(*arguments, "--json", first), 2, f"--json {first} is one of the images")
    assert {path: path.read_bytes() for path in before} == before


def test_images_that_cannot_be_predicted(sasa, data, detector, tmp_path):
    arguments = ["detect", "predict", "--model", detector]
    (tmp_path / "bad.png").write_text("text")
    (tmp_path / "sub").mkdir()
    assert_one_sentence(
        sasa(*arguments, tmp_path / "no.png"), 3, "no.png is neither a file nor a directory, and matches nothing"
    )
    assert_one_sentence(sasa(*arguments, tmp_path / "sub"), 3, "sub holds no images")
    assert_one_sentence(sasa(*arguments, tmp_path / "bad.png"), 3, "bad.png is not an image")
    assert_one_sentence(sasa(*arguments, data / "val", "--json", tmp_path / "no" / "p.json"), 1, "is not a directory")
    assert_one_sentence(sasa(*arguments, data / "val", "--draw", tmp_path / "bad.png"), 1, "cannot write")
    skip = [*arguments, "--on-bad-image", "skip", tmp_path / "bad.png"]
    status, out, error = sasa(*skip, data / "val", "--json", tmp_path / "p.json")
    assert status == 0
    assert error == f"skipped: {tmp_path / 'bad.png'} is not an image that can be read\n"
    assert len(json.loads((tmp_path / "p.json").read_text())) == len(out.splitlines()) == 4
    status, _, error = sasa(*skip, "--json", tmp_path / "q.json")
    assert status == 3
    assert error.endswith("sasa: none of the 1 images can be read\n")
    assert not (tmp_path / "q.json").exists()


def test_shortcuts_of_train_are_settings(sasa):
    arguments = ["--device", "cpu", "--workers", 3, "--backbone", "runs/x", "--on-bad-image", "skip", "--epochs", 5]
    status, out, _ = sasa("detect", "train", "--print-config", *arguments, "--model", "retinanet_resnet50")
    assert status == 0
    assert out.startswith("task: detection\n")
    wanted = ("accelerator: cpu", "workers: 3", "backbone: runs/x", "on_bad_image: skip", "epochs: 5")
    for line in (*wanted, "name: retinanet_resnet50"):
        assert f"  {line}\n" in out


def test_dry_run_writes_nothing(sasa, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = sasa("detect", "train", "--data", data, "--dry-run", *settings())
    assert status == 0
    assert "seconds per step" in out
    assert not list(tmp_path.iterdir())


def test_divergence_is_status_4(sasa, data, tmp_path):
    arguments = settings(("recipe.learning_rate", 1e30), ("recipe.warmup_epochs", 0), ("recipe.clip_grad_norm", 0))
    result = sasa("detect", "train", "--data", data, "--output", tmp_path / "run", *arguments)
    assert result[0] == 4
    assert "lower recipe.learning_rate or set recipe.clip_grad_norm" in result[2].splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "status", "parts"),
    [
        (["--model", "sasa_resnet26"], 2, ["sasa_resnet26 is not a detector: detectors are called retinanet_"]),
        (["--model", "retinanet_resnet51"], 1, ["'retinanet_resnet51' is neither", "try one of: retinanet_resnet50"]),
        (["--set", "model.num_classes=7"], 2, ["model.num_classes is 7, but the data has 2 classes"]),
        (["--set", "model.anchor=7"], 1, ["'anchor' is not an option of a detector", "did you mean 'anchors'"]),
        (["--set", "data.image_sise=64"], 2, ["'data.image_sise' is not a setting", "data.image_size"]),
        (["--set", "data.jitter_min=0"], 1, ["jitter_min (0.0) must be above 0"]),
        (["--set", "recipe.box_weight=-1"], 2, ["recipe.box_weight must be at least 0"]),
        (["--batch-size", "5", "--set", "recipe.accumulate=2"], 2, ["recipe.batch_size (5) must be divisible"]),
        (["--backbone", "nowhere"], 1, ["nowhere"]),
        (["--config", "nothing.yaml"], 2, ["'nothing.yaml' is neither a file nor a recipe", "small"]),
        (["--data", "nowhere"], 3, ["nowhere does not exist"]),
        (["--device", "tpu"], 2, ["--device must be auto or cpu or cuda or mps, got 'tpu'"]),
        (["--on-bad-image", "ignore"], 2, ["--on-bad-image must be error or skip"]),
        (["--set", "data.on_bad_image=ignore"], 1, ["on_bad_image must be error or skip"]),
        (["--resume", "x", "--epochs", "3"], 2, ["--resume continues the run as it was"]),
        (["--resume", "x", "--dry-run"], 2, ["--resume continues the run as it was"]),
        (["--resume", "nowhere"], 1, ["nowhere holds no checkpoint"]),
        (["--set", "model.in_chans=1"], 2, ["model.in_chans is 1, but detection reads images in 3 colours"]),
        (["--set", "model.name=[a]"], 1, ["is neither the name of a network"]),
        (["--set", "data.mean=[0.5]"], 1, ["mean"]),
        (["--set", "run.seed=-1"], 2, ["run.seed must be at least 0"]),
        (["--set", "data.held_out=.nan"], 2, ["data.held_out must be at least 0 and below 1, got nan"]),
    ],
)
def test_wrong_arguments_of_train(sasa, data, tmp_path, monkeypatch, arguments, status, parts):
    monkeypatch.chdir(tmp_path)
    own = [] if "--data" in arguments or "--resume" in arguments else ["--data", data]
    assert_one_sentence(sasa("detect", "train", *own, *arguments), status, *parts)
    assert not list(tmp_path.iterdir())


def empty(root):
    shutil.rmtree(root)
    root.mkdir()


def labels_without_images(root):
    empty(root)
    (root / "labels" / "train").mkdir(parents=True)
    (root / "labels" / "train" / "1.txt").write_text("0 0.5 0.5 0.2 0.2\n")


def truncated(root):
    path = annotation_file(root, "train")
    path.write_bytes(path.read_bytes()[:300])


def results(root):
    found = [{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}]
    annotation_file(root, "train").write_text(json.dumps(found))


def without_area(root):
    change(root, "train", lambda document: [a.update(bbox=[5, 5, 0, 4]) for a in document["annotations"]])


def other_class_in_val(root):
    change(root, "val", lambda document: document["categories"].append({"id": 9, "name": "green"}))


def crowds_alone(root):
    change(root, "train", lambda document: [a.update(iscrowd=1) for a in document["annotations"]])


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (empty, ["holds nothing, it is empty", "looked for annotations/instances_train.json"]),
        (labels_without_images, ["labels/train holds no images"]),
        (truncated, ["instances_train.json is damaged: no JSON at line 1"]),
        (results, ["is a list of results (boxes with scores), not COCO annotations"]),
        (lambda root: (root / "train" / "005.png").unlink(), ["of which 1 are not in", "train: 005.png"]),
        (without_area, ["boxes and none has an area"]),
        (other_class_in_val, ["instances_val.json has a class 'green' that the training images lack"]),
        (crowds_alone, ["none of the 16 training images has a box"]),
        (lambda root: (root / "train" / "005.png").write_text("no image"), ["005.png is not an image"]),
        (lambda root: Image.new("RGB", (48, 64)).save(root / "train" / "005.png"), ["was annotated as 48 x 64"]),
    ],
)
def test_wrong_data_of_train(sasa, own, tmp_path, damage, parts):
    damage(own)
    read = ["--dry-run", "--set", "recipe.batch_size=16"]  # an image is decoded only when its batch is read
    assert_one_sentence(sasa("detect", "train", "--data", own, *settings(), *read), 3, *parts)
    assert not (tmp_path / "runs").exists()


def test_a_batch_larger_than_the_data(sasa, data):
    """As in classification, all images then form one batch."""
    status, out, _ = sasa("detect", "train", "--data", data, "--dry-run", *settings(("recipe.batch_size", 999)))
    assert status == 0
    assert ["steps", "2"] in [line.split() for line in out.splitlines()]


def test_a_run_is_not_overwritten(sasa, data, detector):
    arguments = ["detect", "train", "--data", data, "--output", detector, *settings()]
    assert_one_sentence(sasa(*arguments), 1, "already holds a run: continue it with --resume")


def test_a_finished_run_resumed_writes_the_same_again(sasa, detector):
    before = {name: (detector / name).read_bytes() for name in ("model.safetensors", "metrics.csv")}
    (detector / "model.safetensors").unlink()
    status, out, _ = sasa("detect", "train", "--resume", detector)
    assert status == 0
    assert "detections.png" in out
    assert {name: (detector / name).read_bytes() for name in before} == before
