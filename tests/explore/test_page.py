"""The page holds the network's own weights and answers, is valid and self-contained, and stays within its budget."""

import base64
import hashlib
import re
from pathlib import Path

import pytest
import torch

from boxes import tiny, write_boxes
from explore_pages import NASTY, read_page, save_detector
from processes import run_python
from sasa.data.detection.batch import pad_batch
from sasa.data.images import read_image
from sasa.draw.attention import attention_layers, layer_weights
from sasa.errors import SasaError
from sasa.explore.data import explore, pack
from sasa.explore.page import make_page
from sasa.tasks.registry import load_trained
from sasa.tasks.trained import NamedImage


def page_of(directory, paths, budget=8e6, layers=(), score=0.0):
    """(model, page, the page as a browser parses it)."""
    model = load_trained(str(directory), "cpu")
    explored = [explore(model, named, layers, score) for named in model.images_of(str(directory), paths)]
    page = make_page(directory.name, model.KIND, explored, budget)
    return model, page, read_page(page.text)


@pytest.fixture(scope="module")
def classifier(networks, image_files):
    return page_of(networks["classifier"], image_files)


@pytest.fixture(scope="module")
def detector(networks, image_files):
    return page_of(networks["detector"], image_files)


def assert_within_quantisation(got, want):
    """Within half a step of 1/255 of each window's largest weight (whose scale is rounded up to 1/65535)."""
    step = (want.amax((1, 2), keepdim=True) + 1 / 65535) / 255
    assert got.shape == want.shape
    assert ((got - want).abs() <= 0.5 * step + 1e-7).all()


def test_weights_are_those_of_the_network(classifier, image_files):
    model, _, read = classifier
    names = list(attention_layers(model.network))
    assert [layer["name"] + ".spatial" for layer in read.facts["layers"]] == names
    for number, path in enumerate(image_files):
        tensor = model.preprocessing.evaluation(read_image(path, channels=1))
        for place, name in enumerate(names):
            assert_within_quantisation(read.weights(number, place), layer_weights(model.network, tensor, name).double())


def test_weights_of_a_detector(detector, image_files):
    """The backbone's weights are compared; a head runs on each of five levels, and its weights sum to one."""
    model, _, read = detector
    names = [layer["name"] for layer in read.facts["layers"]]
    assert names.count("classify.layers.0") == names.count("locate.layers.0") == 5
    for number, path in enumerate(image_files):
        tensor = model.preprocessing.evaluation(read_image(path))
        padded = pad_batch([tensor])[0]
        assert read.facts["images"][number]["cover"] == [tensor.shape[s] / padded.shape[s] for s in (1, 2)]
        for name in attention_layers(model.network):
            place = names.index(name.removeprefix("backbone.body.").removesuffix(".spatial"))
            if not name.startswith(("classify", "locate")):
                want = layer_weights(model.network, padded, name).double()
                assert_within_quantisation(read.weights(number, place), want)
        for place in range(len(names)):
            sums = read.weights(number, place).sum((1, 2))
            assert ((sums - 1).abs() < 9 / 510 + 1e-4).all()


def test_peaked_windows_keep_their_small_weights_near():
    weights = torch.full((1, 3, 3, 1, 2), 1e-9)
    weights[0, 1, 1] = 1 - 8e-9
    weights[0, :, :, 0, 1] = 0
    weights[0, 0, 2, 0, 1] = 1
    content = pack(weights)
    assert pack(weights) == content
    model_free = read_page(
        '<script id="facts">{"layers": [{"heads": 1, "kernel": 3}], "images": [{"maps": [[1, 2]]}]}</script>'
        f'<script id="weights-0-0">{base64.b64encode(content).decode()}</script>'
    )
    assert_within_quantisation(model_free.weights(0, 0), weights.double())


def test_answers_are_the_predictor_s(classifier, image_files):
    model, _, read = classifier
    for number, (shown, path) in enumerate(zip(read.facts["images"], image_files, strict=True)):
        (want,) = model.predict([("", read_image(path, channels=1))])
        assert [answer["label"] for answer in shown["answers"]] == want.labels
        assert [answer["probability"] for answer in shown["answers"]] == pytest.approx(want.shares, abs=1e-5)
        assert shown["name"] == path.name
        assert (shown["truth"], shown["gray"]) == (None, True)
        side = [16, 16, 90][number]  # the square at the centre, in as many pixels as the file has
        assert (shown["width"], shown["height"], shown["sharp"]) == (side, side, side < 64)


def test_boxes_are_the_detector_s(detector, image_files):
    model, _, read = detector
    for shown, path in zip(read.facts["images"], image_files, strict=True):
        image = read_image(path)
        want = model.best(image, 0.0)
        assert len(want) > 5
        assert [answer["box"] for answer in shown["answers"]] == [pytest.approx(a.box, abs=1e-3) for a in want]
        assert all(0 <= side <= 1 + 1e-4 for answer in shown["answers"] for side in answer["box"])
        assert (shown["width"], shown["height"], shown["gray"]) == (*image.size, False)


def test_a_score_leaves_out_weaker_boxes(networks, image_files):
    read = page_of(networks["detector"], image_files[:1], score=0.999)[2]
    assert read.facts["images"][0]["answers"] == []


@pytest.mark.parametrize("kind", ["classifier", "detector"])
def test_the_page_is_valid_and_requests_nothing(kind, request):
    _, page, read = request.getfixturevalue(kind)
    assert page.text.startswith("<!doctype html>")
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for name, attributes in read.elements:
        for key in ("aria-labelledby", "aria-describedby", "for"):
            assert attributes.get(key, ids[0]) in ids
        for key in ("src", "href", "action", "data", "srcset"):
            assert attributes.get(key, "data:").startswith("data:"), f"<{name} {key}> leads out of the file"
    code = [text for name, attributes, text in read.raw if name == "style" or attributes.get("type") == "module"]
    for text in code:
        assert not re.search(
            r"https?:|//\w+\.|@import|url\(|\bfetch\b|XMLHttp|WebSocket|import\(|eval\(|innerHTML", text
        )


def test_the_policy_allows_the_script_and_no_request(classifier):
    read = classifier[2]
    (policy,) = (a["content"] for _, a in read.elements if a.get("http-equiv") == "Content-Security-Policy")
    (script,) = (text for _, attributes, text in read.raw if attributes.get("type") == "module")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.split("; ")[0] == "default-src 'none'"
    assert f"script-src 'sha256-{digest}'" in policy.split("; ")


PAGE_IN_ASCII = """
import locale
from PIL import Image
from sasa.explore.data import Explored, LayerCall
from sasa.explore.page import make_page

assert locale.getencoding() != "utf-8", locale.getencoding()
image = Explored("x.png", Image.new("L", (4, 4)), None, [], [LayerCall("layer", 1, 1, (1, 1), b"")], (1, 1))
assert "\\u2190" in make_page("network", "classifier", [image], 1e6).text  # an arrow in page.html
"""


def test_the_files_of_the_page_are_utf8_in_any_locale():
    run_python("-c", PAGE_IN_ASCII, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")


def test_names_stay_text(classifier, networks):
    """No class, file or directory can add an element, or be inserted where the template is filled."""
    _, page, read = classifier
    assert {answer["label"] for answer in read.facts["images"][0]["answers"]} == set(NASTY)
    assert read.facts["images"][1]["name"] == "<i>two & 'three'.png"
    assert read.facts["title"] == "a <b> & c"
    scripts = [attributes["type"] for name, attributes in read.elements if name == "script"]
    count = len(read.facts["images"]) * len(read.facts["layers"])
    assert scripts == ["application/json", *["text/plain"] * count, "module"]
    assert not {"i", "b"} & {name for name, _ in read.elements}
    assert "alert(1)</script>" not in page.text
    assert str(Path(networks["classifier"]).parent) not in page.text  # names of directories are not sent along


def test_a_budget_leaves_out_the_largest_layers(classifier, networks, image_files):
    whole, read = classifier[1:]
    assert whole.left_out == read.facts["leftOut"] == []
    areas = [h * w for h, w in read.facts["images"][0]["maps"]]
    assert areas[0] == max(areas)
    assert areas[0] > areas[-1]
    _, page, less = page_of(networks["classifier"], image_files, budget=len(whole.text.encode()) - 1)
    assert len(page.text.encode()) < len(whole.text.encode())
    assert page_of(networks["classifier"], image_files, budget=len(whole.text.encode()))[1] == whole
    assert page.left_out == less.facts["leftOut"]
    assert page.layers + len(page.left_out) == whole.layers
    assert page.left_out == ["layer2.0 (8 x 8)"]  # as large as the first: of equal layers the later ones are left out
    assert [layer["name"] for layer in less.facts["layers"]] == ["layer1.0", "layer3.0", "layer4.0"]
    assert torch.equal(less.weights(2, 1), read.weights(2, 2))
    with pytest.raises(
        SasaError, match=r"no attention layer fits into a page of 0\.02 MB: the smallest takes 0\.0\d MB"
    ):
        page_of(networks["classifier"], image_files, budget=2e4)


def test_chosen_layers_only(networks, image_files):
    read = page_of(networks["classifier"], image_files[:1], layers=["layer3.0", "layer2.0.spatial"])[2]
    assert [layer["name"] for layer in read.facts["layers"]] == ["layer2.0", "layer3.0"]
    with pytest.raises(SasaError, match=r"no attention layer 'layer9'; it has layer1\.0\.spatial"):
        page_of(networks["classifier"], image_files[:1], layers=["layer9"])


def test_the_network_is_left_as_it_was(networks, image_files):
    model = load_trained(str(networks["classifier"]), "cpu")
    explore(model, NamedImage("x", read_image(image_files[0], channels=1)))
    assert not any(module._forward_pre_hooks for module in model.network.modules())


def test_weights_that_are_not_finite(networks, image_files):
    model = load_trained(str(networks["classifier"]), "cpu")
    next(iter(attention_layers(model.network).values())).qkv.weight.data.fill_(torch.nan)
    with pytest.raises(SasaError, match=r"layer1\.0\.spatial gives attention weights that are not finite"):
        explore(model, NamedImage("x", read_image(image_files[0], channels=1)))


def test_validation_images_of_a_detection_run(tmp_path):
    config = tiny(write_boxes(tmp_path / "data"))
    directory = save_detector(tmp_path / "run")
    (directory / "config.yaml").write_text(config.to_yaml())
    read = page_of(directory, [])[2]
    names = sorted(path.name for path in (tmp_path / "data" / "val").iterdir())
    assert [image["name"] for image in read.facts["images"]] == names
