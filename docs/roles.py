"""Sphinx roles in docstrings become links of the site: an extension of griffe."""

from __future__ import annotations

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
        if obj.docstring:
            obj.docstring.value = ROLE.sub(self._link, obj.docstring.value)

    def _link(self, role: re.Match[str]) -> str:
        name = role[1].rpartition(".")[2]
        target = self.targets.get(name)
        return f"[`{name}`][{target}]" if target else f"`{role[1]}`"
