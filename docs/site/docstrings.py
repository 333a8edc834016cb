"""Extension of griffe: writes docstrings as the Markdown that mkdocstrings expects."""

import re
from typing import Any

import griffe

CODE = re.compile(r"^(>>> .*(?:\n.+)*)", re.MULTILINE)
PAIR = re.compile(r"^(    )(\w+), (\w+)(: .*(?:\n     +.*)*)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Makes doctests code blocks, "::" before a block ":", and two rows of an entry "mean, std: ..." of Args."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object before it is parsed."""
        if obj.docstring:
            text = CODE.sub(r"```pycon\n\1\n```", obj.docstring.value)
            text = PAIR.sub(r"\1\2\4\n\1\3\4", text)
            obj.docstring.value = re.sub("::$", ":", text, flags=re.MULTILINE)
