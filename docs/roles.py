"""What griffe, which only reads the code, has to be told: an extension for the site.

Sphinx roles in docstrings become links, and functions that take options of the settings get the
signature and the documentation that they have when they run.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import griffe

PAGE = Path(__file__).parent / "reference" / "python.md"
ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`~?([\w.]+)`")


class Roles(griffe.Extension):
    """Turn a role into a link, if the page of the Python functions has its target."""

    def __init__(self) -> None:
        documented = re.findall(r"^::: ([\w.]+)$", PAGE.read_text(), re.MULTILINE)
        self.targets = {name.rpartition(".")[2]: name for name in documented}

    def on_instance(self, *, obj: griffe.Object, **_more: Any) -> None:
        """Rewrite the docstring of an object when it has been read."""
        if obj.is_function and obj.path in self.targets.values():
            read_signature(obj)
        if obj.docstring:
            obj.docstring.value = ROLE.sub(self._link, obj.docstring.value)

    def _link(self, role: re.Match[str]) -> str:
        name = role[1].rpartition(".")[2]
        target = self.targets.get(name)
        return f"[`{name}`][{target}]" if target else f"`{role[1]}`"


def read_signature(function: Any) -> None:
    """Give `function` the docstring and the parameters of the one that it stands for."""
    module, _, name = function.path.rpartition(".")
    real = getattr(importlib.import_module(module), name)
    if not hasattr(real, "__signature__"):
        return
    function.docstring.value = inspect.getdoc(real)
    function.parameters = griffe.Parameters(
        *(
            griffe.Parameter(
                parameter.name,
                kind=griffe.ParameterKind(parameter.kind.description),
                default=None if parameter.default is parameter.empty else repr(parameter.default),
            )
            for parameter in inspect.signature(real).parameters.values()
        )
    )
