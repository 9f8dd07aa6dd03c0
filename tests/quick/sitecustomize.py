"""In the PYTHONPATH of tests' trainings: what they need not of torch is not imported, and the rest is not searched for
garbage, then and again at the end.

That is two thirds of the time of a rank that does little more than import it and take some steps.
"""

from __future__ import annotations

import atexit
import gc
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

TYPE_CHECKING = False  # typing takes longer than all else here
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader

gc.set_threshold(100_000, 50, 100)
atexit.register(gc.freeze)


class Later(ModuleType):
    """A module that is loaded when something in it is first asked for."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # `inspect` asks every module for some
            raise AttributeError(name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        self.__spec__.loader.loader.exec_module(self)  # type: ignore[union-attr]
        return getattr(self, name)


class LoadLater:
    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Later(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class Unused(type):
    """A class of which nothing is an instance, and a decorator that changes nothing."""

    def __getattr__(cls, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return Unused(name, (), {})

    def __call__(cls, decorated: object = None, *_: object, **__: object) -> object:
        return (lambda later: later) if decorated is None else decorated


class Compiler(ModuleType):
    """Stands for a compiler that compiles nothing; submodules of the real one can be imported."""

    def __getattr__(self, name: str) -> object:
        return getattr(Unused(self.__name__, (), {}), name)


class LoadCompiler(LoadLater):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Compiler(spec.name)


INSTEAD = {
    "torch._meta_registrations": LoadLater,  # shapes without numbers: for compilers
    "torch._dynamo": LoadCompiler,  # each optimizer asks for it, to keep itself from being compiled
}


class Finder:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        if name not in INSTEAD:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec and spec.loader:
            spec.loader = INSTEAD[name](spec.loader)  # type: ignore[assignment]
        return spec


sys.meta_path.insert(0, Finder)
