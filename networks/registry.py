"""Closed registries: the files of a folder are the kinds that a configuration may name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
from dataclasses import dataclass
from types import ModuleType


def suggestion(name: str, allowed: list[str]) -> str:
    """Return ` (did you mean 'x'?)` for the closest allowed name, or an empty string."""
    close = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def said_of_values(message: str) -> str:
    """A message about settings of `network`, where they are those of the group `value_network`."""
    return re.sub(r"(?<![\w.])network\.", "value_network.", message)


@dataclass(frozen=True)
class Registry:
    """The modules of one package that define a `Config` and a builder.

    A name from a configuration is only ever looked up in the listing of the package's own files,
    so no configuration can import foreign code.

    Attributes:
        package: Import name of the folder, for example `networks`.
        label: What one member is called in error messages.
        builder: Function every member must define.
    """

    package: str
    label: str
    builder: str = "build"

    def files(self) -> list[str]:
        """Names of all modules of the folder."""
        paths = importlib.import_module(self.package).__path__
        return sorted(module.name for module in pkgutil.iter_modules(paths))

    def names(self) -> list[str]:
        """Names of all members. Imports every file of the folder."""
        return [name for name in self.files() if self._member(name) is not None]

    def get(self, name: str) -> ModuleType:
        """Return the module of one kind.

        Raises:
            ValueError: No such kind; the message suggests the closest one.
        """
        module = self._member(name) if name in self.files() else None
        if module is None:
            names = self.names()
            raise ValueError(
                f"there is no {self.label} {name!r}{suggestion(name, names)}; "
                f"choose one of {', '.join(names)}"
            )
        return module

    def _member(self, name: str) -> ModuleType | None:
        module = importlib.import_module(f"{self.package}.{name}")
        is_member = hasattr(module, "Config") and hasattr(module, self.builder)
        return module if is_member else None
