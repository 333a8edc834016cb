"""The page in headless Chromium: pointer, touch and keys move the window, and the numbers shown are the page's own."""

import re

import pytest
import torch

from browser import NEEDS_BROWSER, Browser
from explore_pages import NASTY, read_page
from sasa.explore.data import explore
from sasa.explore.page import make_page
from sasa.tasks.registry import load_trained

pytestmark = NEEDS_BROWSER
READY = "performance.getEntriesByName('first overlay').length"
PIXELS = "return document.getElementById('overlay').toDataURL()"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def pages(networks, image_files, tmp_path_factory):
    """The HTML file and its parsed content, for the classifier and the detector."""
    made = {}
    for kind, directory in networks.items():
        model = load_trained(str(directory), "cpu")
        explored = [explore(model, named) for named in model.images_of(str(directory), image_files)]
        path = tmp_path_factory.mktemp("pages") / f"{kind}.html"
        path.write_text(make_page(directory.name, kind, explored, 8e6).text)
        made[kind] = path, read_page(path.read_text())
    return made


@pytest.fixture
def open_page(browser, pages):
    """Open a page, wait for its first overlay, and return its parsed content; the console must stay empty."""

    def do(kind="classifier", width=1280, height=800, scheme="light"):
        path, read = pages[kind]
        browser.open(path, width, height, scheme)
        browser.wait(READY)
        return read

    yield do
    assert browser.complaints() == []


def shown(browser):
    """(row, column) from 0, and the numbers of the table in percent."""
    text, *cells = browser.run(
        "return [document.querySelector('#readout dd').textContent, "
        "...Array.from(document.querySelectorAll('#window td'), (cell) => cell.textContent)]"
    )
    row, column = (int(number) - 1 for number in re.match(r"row (\d+), column (\d+)", text).groups())
    return (row, column), torch.tensor([float(cell) for cell in cells], dtype=torch.float64)


def chosen(browser):
    """The checked image, layer and head."""
    return [browser.run(f"return document.querySelector('#{name} input:checked').value") for name in NAMES]


NAMES = ("images", "layers", "heads")


def assert_shows(browser, read, place, image=0, layer=0, head=None):
    """The pixel, and in the table the weights of the page, to the digit that is shown."""
    got, numbers = shown(browser)
    assert got == place
    weights_NKK = read.weights(image, layer)[:, :, :, place[0], place[1]]
    want = weights_NKK.mean(0) if head is None else weights_NKK[head]
    assert (numbers - 100 * want.flatten()).abs().max() <= 0.05 + 1e-6


def point_at(browser, y, x, **how):
    """Point at a place of the image, as fractions of it."""
    left, top, width, height = browser.run(
        "const box = document.getElementById('view').getBoundingClientRect();"
        "return [box.left, box.top, box.width, box.height]"
    )
    browser.point(left + x * width, top + y * height, **how)


def test_the_first_overlay(browser, open_page, record_property):
    read = open_page()
    milliseconds = browser.run("return performance.getEntriesByName('first overlay')[0].startTime")
    record_property("first_overlay_ms", milliseconds)
    assert_shows(browser, read, (4, 4))
    assert chosen(browser) == ["0", "0", "-1"]
    labels = browser.run("return Array.from(document.querySelectorAll('#answers .label'), (part) => part.textContent)")
    assert sorted(labels) == sorted(NASTY)


def test_hovering_moves_the_window(browser, open_page):
    read = open_page()
    before = browser.run(PIXELS)
    point_at(browser, 0.07, 0.95)
    assert_shows(browser, read, (0, 7))
    assert browser.run(PIXELS) != before
    assert browser.run("return document.querySelectorAll('#window td.outside').length") == 25 - 9
    point_at(browser, 0.55, 0.3)
    assert_shows(browser, read, (4, 2))


def test_a_click_pins_and_another_releases(browser, open_page):
    read = open_page()
    point_at(browser, 0.3, 0.3, press=True)
    point_at(browser, 0.9, 0.9)
    assert_shows(browser, read, (2, 2))
    assert "Pinned" in browser.run("return document.getElementById('caption').textContent")
    point_at(browser, 0.9, 0.9, press=True)
    assert_shows(browser, read, (7, 7))
    point_at(browser, 0.1, 0.1)
    assert_shows(browser, read, (0, 0))


def test_keys_move_and_choose(browser, open_page):
    read = open_page()
    browser.run("document.getElementById('view').focus()")
    browser.press("left", "left", "up")
    assert_shows(browser, read, (3, 2))
    browser.press("shift+down", "right")
    assert_shows(browser, read, (7, 3))  # no further than the border
    browser.press("2")
    assert_shows(browser, read, (7, 3), head=1)
    browser.press("h")
    assert_shows(browser, read, (7, 3))  # rounded to the mean
    browser.press("shift+h", "l")
    browser.wait("document.querySelector('#layers input:checked').value === '1'")
    assert_shows(browser, read, (7, 3), layer=1, head=1)
    browser.press("l")
    browser.wait("document.querySelector('#layers input:checked').value === '2'")
    height, width = read.facts["images"][0]["maps"][2]
    assert (height, width) == (4, 4)
    assert_shows(browser, read, (3, 1), layer=2, head=1)  # the same place on a map of half the size
    browser.press("n", "0")
    browser.wait("document.querySelector('#images input:checked').value === '1'")
    assert_shows(browser, read, (3, 1), image=1, layer=2)
    browser.press("shift+n", "shift+l", "shift+l")
    browser.wait("document.querySelector('#layers input:checked').value === '0'")
    assert chosen(browser) == ["0", "0", "-1"]


def test_choices_are_radio_buttons_that_keep_the_focus(browser, open_page):
    read = open_page()
    browser.run("document.querySelector('#heads input:checked').focus()")
    browser.press("right")
    assert_shows(browser, read, (4, 4), head=0)
    assert browser.run("return document.activeElement.getAttribute('aria-label')") == "head 1"
    browser.run("document.querySelector('#layers input:checked').focus()")
    browser.press("right", "right")
    browser.wait("document.querySelector('#layers input:checked').value === '2'")
    assert (
        browser.run("return document.activeElement.getAttribute('aria-label')") == "layer3.0, 4\N{MULTIPLICATION SIGN}4"
    )


def test_touch_moves_the_window_on_a_phone(browser, open_page):
    read = open_page(width=390, height=844)
    point_at(browser, 0.2, 0.8, kind="touch", press=True)
    assert_shows(browser, read, (1, 6))
    point_at(browser, 0.8, 0.2, kind="touch", press=True)
    assert_shows(browser, read, (6, 1))
    assert browser.run("return document.documentElement.scrollWidth") <= 390


def test_the_overlay_follows_the_scheme(browser, open_page):
    open_page()
    light = browser.run("return getComputedStyle(document.documentElement).backgroundColor"), browser.run(PIXELS)
    open_page(scheme="dark")
    dark = browser.run("return getComputedStyle(document.documentElement).backgroundColor"), browser.run(PIXELS)
    assert light[0] != dark[0]
    assert light[1] != dark[1]


def test_announcements_to_a_screen_reader(browser, open_page):
    open_page()
    point_at(browser, 0.07, 0.95)
    spoken = "document.getElementById('spoken').textContent"
    assert browser.wait(f"{spoken}.includes('row 1, column 8') && {spoken}").startswith(
        "Pixel: row 1, column 8 of 8\N{MULTIPLICATION SIGN}8;"
    )
    missing = browser.run(
        "return Array.from(document.querySelectorAll('input, button, [tabindex]')).filter((part) => "
        "!part.getAttribute('aria-label') && !part.textContent.trim() && !part.closest('label')).length"
    )
    assert missing == 0


def test_boxes_of_a_detector(browser, open_page):
    read = open_page("detector")
    answers = read.facts["images"][0]["answers"]
    buttons = "document.querySelectorAll('#answers button')"
    assert browser.run(f"return {buttons}.length") == len(answers) > 5
    with_boxes = browser.run(PIXELS)
    browser.run("document.getElementById('view').focus()")
    browser.press("b")
    assert browser.run(PIXELS) != with_boxes
    browser.run(f"{buttons}[3].click()")
    left, top, right, bottom = answers[3]["box"]
    down, across = read.facts["images"][0]["cover"]
    height, width = read.facts["images"][0]["maps"][0]
    place = (int((top + bottom) / 2 * down * height), int((left + right) / 2 * across * width))
    assert_shows(browser, read, place)


def test_padding_is_beyond_the_border(browser, open_page):
    """An image of 150 x 90 is fitted into 80 x 48 and padded to 96 x 64: the last rows and columns are not shown."""
    read = open_page("detector")
    browser.run("document.getElementById('view').focus()")
    browser.press("shift+n")
    browser.wait("document.querySelector('#images input:checked').value === '2'")
    height, width = read.facts["images"][2]["maps"][0]
    point_at(browser, 0.999, 0.999)
    place = (height * 48 // 64 - 1, width * 80 // 96 - 1)
    assert_shows(browser, read, place, image=2)
    assert browser.run("return document.querySelectorAll('#window td.outside').length") == 9 - 4
