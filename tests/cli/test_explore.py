"""`sasa explore`: images in, one HTML file out, or one sentence."""

from pathlib import Path

from command import assert_one_sentence
from explore_pages import read_page, save_classifier


def test_images_of_a_run(sasa, run_directory, images, tmp_path):
    page = tmp_path / "page.html"
    status, out, error = sasa("explore", "--model", run_directory, images, "--output", page)
    assert (status, error) == (0, "")
    size = page.stat().st_size
    assert out == f"3 images, 4 layers, {size / 1e6:.2f} MB: open {page} in a browser\n"
    read = read_page(page.read_text())
    assert [image["name"] for image in read.facts["images"]] == ["0.png", "1.png", "2.png"]


def test_validation_images_of_the_run_are_the_default(sasa, run_directory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = sasa("explore", "--model", run_directory)
    assert status == 0
    assert out.startswith("10 images, 4 layers, ")
    read = read_page(Path("attention.html").read_text())
    assert [image["truth"] for image in read.facts["images"]] == list("0123456789")
    assert len({image["name"] for image in read.facts["images"]}) == 10


def test_layers_left_out_are_listed(sasa, run_directory, images, tmp_path):
    page = tmp_path / "page.html"
    arguments = ["explore", "--model", run_directory, images, "--output", page]
    assert sasa(*arguments)[0] == 0
    budget = page.stat().st_size / 1e6 - 1e-6
    status, out, error = sasa(*arguments, "--budget", budget)
    assert status == 0
    assert out.startswith("3 images, 3 layers, ")
    assert error == f"left out to stay within {budget:g} MB: layer2.0 (6 x 6)\n"
    assert page.stat().st_size <= 1e6 * budget


def test_convolution_has_nothing_to_explore(sasa, tmp_path, images):
    network = save_classifier(tmp_path / "network", "resnet26", stem="small_conv")
    result = sasa("explore", "--model", network, images / "0.png", "--output", tmp_path / "page.html")
    assert_one_sentence(result, 1, "the network has no local attention layer")
    assert not (tmp_path / "page.html").exists()


def test_wrong_arguments(sasa, run_directory, images, tmp_path):
    arguments = ["explore", "--model", run_directory]
    image = images / "0.png"
    assert_one_sentence(sasa(*arguments, image, "--output", image), 2, f"--output {image} is one of the images")
    assert_one_sentence(
        sasa(*arguments, image, "--output", tmp_path / "no" / "page.html"), 1, "cannot write", "page.html"
    )
    assert_one_sentence(sasa(*arguments, image, "--layer", "x"), 1, "no attention layer 'x'")
    (tmp_path / "bad.png").write_text("text")
    assert_one_sentence(sasa(*arguments, tmp_path / "bad.png"), 3, "bad.png is not an image")
    network = save_classifier(tmp_path / "network")
    assert_one_sentence(sasa("explore", "--model", network), 1, "is not a run with data of its own: name an image")
