"""`sasa export`: a run in, one file out, or one sentence."""

import re

import sasa as package
from command import assert_one_sentence
from sasa.cli.export import FORMATS


def test_formats_are_those_of_the_package():
    assert tuple(package.export.FORMATS) == FORMATS


def test_a_run_on_its_validation_images(sasa, run_directory, tmp_path):
    path = tmp_path / "digits.pt2"
    status, out, error = sasa("export", "--model", run_directory, "--format", "pt2", "--output", path)
    assert (status, error) == (0, "")
    lines = dict(re.split("  +", line, maxsplit=1) for line in out.splitlines())
    assert lines["file"] == f"{path}, {path.stat().st_size / 1e6:.2f} MB, pt2"
    assert lines["input"] == "float32 (batch, 1, 24, 24)"
    assert lines["values"].startswith(
        "gray, shorter side resized to 24, centre crop of 24 x 24; pixels / 255, minus mean"
    )
    assert lines["compared on"] == "4 validation images, in a new process"
    assert re.fullmatch(r"\d\.\de-\d\d of the largest output \(allowed: 1e-04\)", lines["largest difference"])
    assert re.fullmatch(r"\d+\.\d\d ms; eager \d+\.\d\d ms", lines["time per image"])
    assert package.export.load(path).description["labels"] == list("0123456789")


def test_images_by_path(sasa, run_directory, images, tmp_path):
    path = tmp_path / "digits.safetensors"
    arguments = ["export", "--model", run_directory, images, "--format", "safetensors", "--output", path]
    status, out, _ = sasa(*arguments)
    assert status == 0
    assert re.search(r"compared on +3 images, in a new process\n", out)
    assert re.search(r"largest difference +0.0e\+00 ", out)


def test_a_saved_network_without_data_is_compared_on_noise(sasa, run_directory, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((run_directory / name).read_bytes())
    output = tmp_path / "x.safetensors"
    status, out, _ = sasa("export", "--model", tmp_path, "--format", "safetensors", "--output", output)
    assert status == 0
    assert "4 generated images, in a new process" in out


def test_wrong_arguments(sasa, run_directory, images, tmp_path):
    def run(*more, model=run_directory, output=tmp_path / "x.onnx"):
        return sasa("export", "--model", model, "--output", output, *more)

    onnx = ("--format", "onnx")
    assert_one_sentence(run("--format", "tflite"), 2, "--format must be pt2 or aoti or onnx or safetensors")
    assert_one_sentence(run(*onnx, output=tmp_path / "none" / "x.onnx"), 1, "cannot write", "is not a directory")
    assert_one_sentence(run(*onnx, output=tmp_path), 1, "cannot write", "it is a directory")
    assert_one_sentence(run(*onnx, output=""), 2, "the argument '' after '--output' is empty")
    assert_one_sentence(run(*onnx, output=tmp_path / "x.pt2"), 1, "must end in .onnx")
    assert_one_sentence(run(*onnx, model=tmp_path), 1, "config.json is missing")
    assert_one_sentence(run(*onnx, model="no_such_network"), 1, "'no_such_network' is not the directory of a run")
    assert_one_sentence(run(*onnx, images / "0.png", model="resnet26"), 1, "resnet26 is untrained and has no preproc")
    assert_one_sentence(run(*onnx, "--boxes"), 1, "boxes are found by detectors")
    image = images / "0.png"
    assert_one_sentence(run(*onnx, image, output=image), 2, f"--output {image} is one of the images")
    assert list(tmp_path.iterdir()) == []
