"""The site of the documents: it builds without warnings, answers newcomers in two clicks, and needs no network."""

import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

import sasa
from browser import NEEDS_BROWSER, Browser
from processes import HANGING

pytest.importorskip("mkdocs")
ROOT = Path(__file__).parents[1]
FIRST = "index.html"
QUESTIONS = {
    "How do I install it?": "docs/start.html#install",
    "How do I train on my photos?": "docs/training.html#five-minutes",
    "How do I read my COCO boxes?": "docs/data.html#what-is-read",
    "How do I replace nn.Conv2d?": "docs/start.html#use-the-layer",
    "Is it faster on my GPU?": "docs/speed.html#on-gpus",
    "How do I deploy a trained network?": "docs/deploy.html",
    "What does this option mean?": "docs/commands.html",
    "How do I resume a run?": "docs/training.html#stop-and-resume",
    "What differs from the paper?": "docs/choices.html",
    "How do I cite it, and what is the licence?": "docs/questions.html#licence-and-citation",
}


class Page(HTMLParser):
    """The links in the text of a page (not in its menus), the ids, and the files that a browser loads with it."""

    def __init__(self, site: Path, path: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.loaded: set[str] = set()
        self.site, self.path, self.in_text = site, path, False
        self.feed((site / path).read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.in_text = self.in_text or tag == "article"
        if values.get("id"):
            self.ids.add(values["id"])
        if tag == "a" and self.in_text and values.get("href"):
            self.links.add(self.within_site(values["href"]))
        if tag in ("img", "script", "iframe") and values.get("src"):
            self.loaded.add(values["src"])
        if tag == "link" and values.get("rel") != "canonical":
            self.loaded.add(values["href"])

    def handle_endtag(self, tag: str) -> None:
        self.in_text = self.in_text and tag != "article"

    def within_site(self, link: str) -> str:
        """Return a link relative to the first page."""
        file, anchor = urldefrag(link)
        if "://" in file:
            return link
        target = os.path.normpath(Path(self.path).parent / unquote(file)) if file else self.path
        return f"{target}#{anchor}" if anchor else target


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    target = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANGING,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return target


def test_questions_of_newcomers_are_two_clicks_from_the_first_page(site):
    clicked_once = Page(site, FIRST).links
    pages = {urldefrag(link).url for link in clicked_once if link.partition("#")[0].endswith(".html")}
    clicked_twice = clicked_once.union(*(Page(site, page).links for page in pages))
    for question, answer in QUESTIONS.items():
        assert answer in clicked_twice, question
        page, anchor = urldefrag(answer)
        assert not anchor or anchor in Page(site, page).ids, question


def test_every_public_name_is_documented(site):
    public = {name: getattr(sasa, name) for name in sasa.__all__}
    modules = {name: value for name, value in public.items() if inspect.ismodule(value)}
    names = public.keys() - modules.keys() | {name for module in modules.values() for name in module.__all__}
    documented = {name.rpartition(".")[2] for name in Page(site, "docs/api.html").ids if name.startswith("sasa.")}
    assert names <= documented


def test_pages_load_nothing_from_the_network(site):
    for path in site.rglob("*.html"):
        loaded = Page(site, path.relative_to(site).as_posix()).loaded
        assert not [link for link in loaded if "//" in link], path
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", path.read_text()), path


@NEEDS_BROWSER
@pytest.mark.parametrize(("width", "scheme", "scheme_name"), [(1280, "light", "default"), (390, "dark", "slate")])
def test_pages_work_from_the_disk(site, tmp_path, width, scheme, scheme_name):
    browser = Browser(tmp_path)
    try:
        for page in (FIRST, "docs/how_it_works.html", "docs/api.html", "docs/gallery.html"):
            browser.open(site / page, width=width, scheme=scheme)
            browser.wait("document.body.dataset.mdColorScheme")
            assert browser.run("return document.body.dataset.mdColorScheme") == scheme_name
            assert browser.run("return document.documentElement.scrollWidth") <= width, f"{page} is too wide"
            broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
            assert browser.run(f"return {broken}") == []
        browser.run("document.querySelector('[for=__search]').click()")
        browser.run("document.querySelector('[data-md-component=search-query]').focus()")
        browser.press(*"mixture")
        browser.wait("document.querySelector('.md-search-result__link[href*=how_it_works]') !== null")
        assert browser.complaints() == []
    finally:
        browser.close()
