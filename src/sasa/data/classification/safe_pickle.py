"""Reads the pickles of the CIFAR sets without running code that they name.

A pickle is a program: it names functions and calls them. Every name is refused except the few that arrays and plain
containers need, and those are replaced by functions of this module, so a pickle never calls numpy itself.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sasa.data.text import opened
from sasa.errors import DataError


class _Call:
    """A function that a pickle may call; it has no attributes that the pickle could set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


class _Kind:
    """The type of an array: "u1" for uint8, and the byte order."""

    def __init__(self, code: object, *_: object) -> None:
        self.code, self.order = str(code), "|"

    def __setstate__(self, state: tuple) -> None:
        self.order = str(state[1])

    def array(self, content: object, shape: tuple[int, ...]) -> np.ndarray:
        """Make the array of that type; only integers are accepted."""
        if self.code not in ("u1", "i1", "i4", "i8", "u4", "u8"):
            raise pickle.UnpicklingError(f"an array of {self.code}")
        # Python 2 wrote bytes as text; latin1 restores them.
        content = content.encode("latin1") if isinstance(content, str) else content
        if not isinstance(content, bytes | bytearray):
            raise pickle.UnpicklingError("an array without bytes")
        dtype = np.dtype(self.code).newbyteorder(">" if self.order == ">" else "<")
        return np.frombuffer(content, dtype).reshape([int(n) for n in shape])


class _Array:
    """An array that a pickle builds in two steps: an empty one, then its contents."""

    value: np.ndarray | None = None

    def __init__(self, *_: object) -> None:
        """The arguments ask for memory and are ignored: the contents have the true size."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, by_columns, content = state
        self.value = kind.array(content, shape[::-1]).T if by_columns else kind.array(content, shape)


def _from_buffer(content: object, kind: _Kind, shape: tuple, order: str = "C") -> np.ndarray:
    return kind.array(content, shape[::-1]).T if order == "F" else kind.array(content, shape)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"text in {encoding}")
    return text.encode("latin1")


def _allowed() -> dict[tuple[str, str], Callable]:
    """Map the accepted names, in the modules of numpy 1 and of numpy 2, to the functions that replace them."""
    allowed: dict[tuple[str, str], Callable] = {("_codecs", "encode"): _encode, ("numpy", "dtype"): _Kind}
    allowed["numpy", "ndarray"] = lambda *_: None
    for core in ("numpy.core", "numpy._core"):
        allowed[f"{core}.multiarray", "_reconstruct"] = _Array
        allowed[f"{core}.multiarray", "scalar"] = lambda kind, content: int(kind.array(content, (1,))[0])
        allowed[f"{core}.numeric", "_frombuffer"] = _from_buffer
    allowed["collections", "OrderedDict"] = dict
    for builtins in ("__builtin__", "builtins"):
        for kind in (dict, list, tuple, set, frozenset):
            allowed[builtins, kind.__name__] = kind
        allowed[builtins, "bytearray"] = _encode
        allowed[builtins, "bytes"] = _encode
    return allowed


class _Unpickler(pickle._Unpickler):
    """The unpickler written in Python: the one in C allocates 4 billion memo entries if a file says so."""

    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file, encoding="latin1")
        self._path, self._allowed = path, _allowed()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise DataError(f"{self._path} asks to run {module}.{name}: it is not a CIFAR file, and nothing was run")
        return _Call(self._allowed[module, name])


def load(path: Path) -> dict[str, Any]:
    """Read the dictionary in a pickle: arrays are numpy arrays, keys are text; the caller checks both.

    Raises:
        DataError: missing, cut off, damaged, or it names anything but arrays and containers.
    """
    with opened(path) as file:
        try:
            found = _Unpickler(file, path).load()
        except (DataError, OSError):
            raise
        except Exception as error:  # a damaged pickle may raise any error
            raise DataError(f"{path} is not a CIFAR file, or was cut off") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} is not a CIFAR file: it holds no dictionary")
    keys = (key.decode("latin1") if isinstance(key, bytes) else str(key) for key in found)
    values = (value.value if isinstance(value, _Array) else value for value in found.values())
    return dict(zip(keys, values, strict=True))
