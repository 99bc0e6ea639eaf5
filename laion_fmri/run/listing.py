"""What the bucket has beyond a selection, listed when a pipeline asks for it.

Only the main process of a run lists; the other ones read what it has found.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from laion_fmri.base.bids import Parsed, parse_key
from laion_fmri.base.files import write_atomically
from laion_fmri.base.text import spell
from laion_fmri.dataset import Scope, find_scope, make_scope
from laion_fmri.folder.obstacles import find_conflicts, is_safe_key
from laion_fmri.run.run_folder import RunFolder
from laion_fmri.selection.scopes import find_scopes, find_subjects


class Listing:
    """The sizes of all objects that a run knows, and of those that it is asked for."""

    def __init__(self, folder: RunFolder, *, is_main: bool) -> None:
        self._folder = folder
        self._is_main = is_main
        self._looked: set[str] = set()
        self._trees: list[str] = []
        self._conflicts: dict[str, str] | None = None
        self._keys: dict[str, list[tuple[str, Parsed]]] = {}
        self._answers: dict[str, Any] = {}

    @cached_property
    def _known(self) -> tuple[dict[str, int], dict[str, int]]:
        if self._is_main and (self._folder.sizes or self._folder.others):
            return dict(self._folder.sizes), dict(self._folder.others)
        return self._folder.saved_sizes

    @property
    def selected(self) -> dict[str, int]:
        """The size in bytes of every object of the selection, by key."""
        return self._known[0]

    @property
    def trees(self) -> list[str]:
        """The prefixes that were listed in full."""
        return [*self._folder.trees, *self._trees]

    @property
    def keys(self) -> list[str]:
        """All keys that were listed."""
        return list(chain(*self._known))

    def find_size(self, key: str) -> int | None:
        """Return the size of `key` in bytes, or None if the bucket does not have it.

        Outside what was listed, the main process lists what the subject has of its scope, once, or
        the folder of the key.
        """
        if not is_safe_key(key):
            return None
        for known in self._known:
            if key in known:
                return known[key]
        if not key.startswith(tuple(self.trees)):
            scope, subject = find_scope(key), parse_key(key).sub
            if scope and (subject or not scope.has_subjects):
                self._look(scope.prefix_of(subject or ""), deep=True)
            else:
                self._look(key.rpartition("/")[0] + "/" if "/" in key else "", deep=False)
        return self._known[1].get(key)

    def find_scopes(self, names: Iterable[str]) -> list[Scope]:
        """Return the scopes of these names, as far as the bucket has them."""
        names = list(names)
        found = self._keep(f"scopes {names}", lambda: [s.name for s in self._ask_scopes(names)])
        return [make_scope(name) for name in found or ()]

    def find_subjects(self, scopes: Sequence[Scope]) -> dict[str, list[str]]:
        """Return the labels of the subjects that each of `scopes` has, by name."""
        bucket, names = self._folder.bucket, [scope.name for scope in scopes]
        return self._keep(f"subjects {names}", lambda: find_subjects(scopes, bucket)) or {}

    def list_tree(self, scope: Scope, label: str) -> list[tuple[str, Parsed]]:
        """Return the keys of all public objects of a scope and subject, parsed and sorted."""
        tree = scope.prefix_of(label)
        if tree not in self._keys:
            self._keys[tree] = list(self._list_tree(tree))
        return self._keys[tree]

    def _ask_scopes(self, names: Sequence[str]) -> list[Scope]:
        return find_scopes(names, self._folder.bucket)

    def _keep(self, question: str, ask: Callable[[], Any]) -> Any:
        """Return an answer of the bucket's, which the main process asks for and keeps."""
        name = hashlib.sha256(question.encode()).hexdigest()[:16]
        file = Path(self._folder.path, f"answer-{name}.json")
        if question not in self._answers:
            if self._is_main:
                self._answers[question] = ask()
                self._tell()
                write_atomically(file, json.dumps(self._answers[question]))
            else:
                self._answers[question] = json.loads(file.read_text()) if file.exists() else None
        return self._answers[question]

    def _list_tree(self, tree: str) -> Iterator[tuple[str, Parsed]]:
        facts = self._folder.facts
        if tree not in self._folder.trees:
            self._look(tree, deep=True)
        for key in sorted(key for key in chain(*self._known) if key.startswith(tree)):
            parsed = parse_key(key)
            refused = not is_safe_key(key) or key in self.find_conflicts()
            if not (refused or facts.is_held_out(key, parsed)):
                yield key, parsed

    def find_conflicts(self) -> dict[str, str]:
        """Return what of all that is listed cannot be side by side on every disk, and why not."""
        if self._conflicts is None:
            self._conflicts = find_conflicts(chain(*self._known))
        return self._conflicts

    def _tell(self) -> None:
        """Say that kept listings are used, if that has not been said."""
        for text in self._folder.bucket.explain_reach():
            sys.stderr.write(f"laion-fmri: {spell(text)}\n")

    def _look(self, prefix: str, *, deep: bool) -> None:
        """List `prefix` once in a run; the other processes read what the main one has found."""
        name = hashlib.sha256(f"{deep}{prefix}".encode()).hexdigest()[:16]
        if name in self._looked:
            return
        self._looked.add(name)
        if deep:
            self._trees.append(prefix)
        found = Path(self._folder.path, f"found-{name}.json")
        if self._is_main:
            listed = self._folder.bucket.list_objects(prefix, deep=deep)
            sizes = {item.key: item.size for item in listed}
            self._tell()
            write_atomically(found, json.dumps(sizes))
        else:
            sizes = json.loads(found.read_text()) if found.exists() else {}
        self._known[1].update(sizes)
        self._conflicts = None
