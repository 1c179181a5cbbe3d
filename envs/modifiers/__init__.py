"""Physical quantities that a schedule can change: one file each, named like the quantity.

The registry is closed: a name from a configuration is only looked up in the listing of this
folder's own files, so no configuration can import foreign code.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType


def names() -> list[str]:
    """Names of all modifiers: the files here that say LAW and build."""
    files = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [name for name in files if _member(name) is not None]


def get(name: str) -> ModuleType:
    """The module of one modifier, with its ``LAW`` (see ``envs.laws``) and ``build(subject)``.

    Raises:
        ValueError: No such modifier; the message suggests the closest one.
    """
    known = names()
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"there is no modifier {name!r}{hint}; choose one of {', '.join(known)}.")
    return importlib.import_module(f"{__name__}.{name}")


def _member(name: str) -> ModuleType | None:
    module = importlib.import_module(f"{__name__}.{name}")
    return module if hasattr(module, "LAW") and hasattr(module, "build") else None
