"""Hooks of MkDocs that build the site.

- Pages have the paths that they have in the repository. So README.md and benchmarks/README.md can be pages, too, and a
  relative link works in both places.
- The line `[commands]` becomes the reference of the command line.
- Formulas become MathML, which browsers show without a script.
"""

import html
import re
import subprocess
import sys
from pathlib import Path

import latex2mathml.converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
OUTSIDE_DOCS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "benchmarks/results/*")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Give the documents their paths in the repository, and add those outside docs/."""
    documents = [file for file in files if file.src_dir == config.docs_dir]
    for file in documents:
        files.remove(file)
    paths = [f"docs/{file.src_uri}" for file in documents]
    paths += [path.relative_to(ROOT).as_posix() for pattern in OUTSIDE_DOCS for path in sorted(ROOT.glob(pattern))]
    for path in paths:
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, **_) -> str:
    """Insert the reference of the command line where a page asks for it."""
    return re.sub(r"^\[commands\]$", lambda _: commands(), markdown, flags=re.MULTILINE)


def commands() -> str:
    """Return the help of every command as Markdown, without that of `sasa` itself and the option --help."""
    call = [sys.executable, "-m", "typer", "sasa.cli.commands", "utils", "docs", "--name", "sasa"]
    text = subprocess.run(call, check=True, capture_output=True, text=True).stdout  # noqa: S603
    text = re.sub("^\\* `--help`.*\n", "", text, flags=re.MULTILINE)
    return text[text.index("\n## ") :].replace("**Options**:\n\n#", "#")


def on_page_content(content: str, **_) -> str:
    """Turn the formulas that pymdownx.arithmatex marked into MathML, and default factories into their values."""
    content = re.sub(r"\(lambda: (.*?)\)\(\)", r"\1", content)
    return re.sub(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', mathml, content, flags=re.DOTALL)


def mathml(formula: re.Match) -> str:
    """Return the MathML of a formula that stands in HTML."""
    display = "block" if formula[1] == "div" else "inline"
    return latex2mathml.converter.convert(html.unescape(formula[2]).strip(), display=display)
