"""Run an action after another module is imported, without importing it."""

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


def after_import(name: str, action: Callable[[], object]) -> None:
    """Call `action` now if the module is imported already, else right after its first import.

    Args:
        name: full name of the module.
        action: may import the module. An error in it is an error of that import.
    """
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Watcher(name, action))


class _Watcher:
    """An import finder that delegates to the other finders, and calls the action once the module has been executed.

    The module keeps its own loader, which serves its source and data files. Asking for the spec alone, as
    `importlib.util.find_spec` does, changes nothing.
    """

    def __init__(self, name: str, action: Callable[[], object]) -> None:
        self.name, self.action = name, action

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        others = (finder.find_spec(fullname, path, target) for finder in sys.meta_path[:] if finder is not self)
        spec = next((spec for spec in others if spec is not None), None)
        if spec is not None and spec.loader is not None:
            self._watch(spec.loader)
        return spec

    def _watch(self, loader: object) -> None:
        execute = loader.exec_module  # pyright: ignore[reportAttributeAccessIssue]

        def execute_and_act(module: ModuleType) -> None:
            del loader.exec_module  # pyright: ignore[reportAttributeAccessIssue] - the loader may load other modules too
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                self.action()

        loader.exec_module = execute_and_act  # pyright: ignore[reportAttributeAccessIssue]
