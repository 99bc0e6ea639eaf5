"""All selection semantics: what a subject or filter may be, and which keys it selects. Pure.

Filters work on parsed keys rather than on a DataFrame: importing pandas would take as long as
listing the bucket, and a run with nothing to do needs none.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

from laion_fmri import dataset
from laion_fmri.base.bids import CHOOSERS, Parsed
from laion_fmri.base.text import find_near, suggest
from laion_fmri.dataset import Scope
from laion_fmri.errors import InputTypeError, SubjectNotFoundError, list_some
from laion_fmri.selection.values import find_session, read_strings, read_values
from laion_fmri.settings import ALL, AVERAGES, NO_SUBJECT, Settings

#: The values of each filter.
Filters = Mapping[str, tuple[str, ...]]


#: Each option that adds to the scopes -> the scope, and its filters; None: those of the selection.
INCLUDES: dict[str, tuple[str, Filters | None]] = {
    "include_stimuli": (dataset.STIMULI, {}),
    "include_embeddings": (dataset.STIMULI, {"suffix": ("embeddings",)}),
    "include_freesurfer": ("freesurfer", {}),
    "include_anatomical": ("anatomical", {}),
    "include_localizers": ("localizers", {}),
    "include_raw": ("raw", None),
}
#: The filters whose value may stand for the one that it begins.
BEGINNINGS = ("task", "space", "desc", "stat", "label", "contrast")


@dataclass(frozen=True)
class Selection:
    """What to select, with every value checked and bare (``01``, not ``ses-01``)."""

    subjects: tuple[str, ...] | None  # None for every subject of the bucket
    filters: Filters = field(default_factory=dict)  # only those that are set
    scopes: tuple[str, ...] | None = None  # None for the defaults
    #: What is added, by scope: what these filters select; None stands for those of the selection.
    extras: Mapping[str, Filters | None] = field(default_factory=dict)
    #: Whether to leave out what does not carry all that the filters name.
    is_strict: bool = False

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Check the subject, the filters and the scope of `settings`, which may be of any type."""
        filters = {name: read_values(name, given) for name, given in settings.filters.items()}
        if names_all_sessions(settings):
            del filters["ses"]
        scopes = None if settings.scope is None else read_values("scope", settings.scope)
        extras: dict[str, Filters | None] = {}
        for option, (name, own) in INCLUDES.items():
            if getattr(settings, option):
                extras.setdefault(name, own)  # all of the stimuli, if they and a part are asked for
        needs_none = settings.subject is None and not needs_subject(settings)
        subjects = () if needs_none else _read_subjects(settings.subject)
        return cls(subjects, filters, scopes, extras, settings.strict)

    @property
    def scope_names(self) -> tuple[str, ...]:
        """The scopes that are named, or else the defaults, and what comes with them."""
        return tuple(dict.fromkeys([*(self.scopes or dataset.DEFAULT_SCOPES), *self.extras]))

    @property
    def sessions(self) -> tuple[str, ...]:
        """The sessions that are named, and ``averages`` if that is."""
        return self.filters.get("ses", ())

    def is_pinned(self, parsed: Parsed) -> bool:
        """Whether the map comes along with any session: loaders derive the brain mask from it."""
        if self.is_strict:
            return False
        return is_brain_map(parsed) and any(value != AVERAGES for value in self.sessions)

    def is_named(self, scope: Scope) -> bool:
        """Whether the filters of the selection are about `scope`: it does not only come along."""
        names = self.scopes or dataset.DEFAULT_SCOPES
        return scope.name in names or ALL in names or self.extras.get(scope.name, {}) is None

    def filters_of(self, scope: Scope) -> list[Filters]:
        """Return the alternatives by which a key of `scope` is selected: its own, what is added."""
        found: list[Filters] = []
        if self.is_named(scope) and self.is_strict:
            found.append(self.filters)
        elif self.is_named(scope):
            is_thinned = {"ses": bool(scope.by_session)}
            own = {n: values for n, values in self.filters.items() if is_thinned.get(n, True)}
            found.append(own if scope.takes_filters else {})
        added = self.extras.get(scope.name)
        return found if added is None else [*found, added]

    def matches(self, parsed: Parsed, scope: Scope) -> bool:
        """Whether a key of `scope` is selected, in a download; see :func:`passes`."""
        return any(self.passes(parsed, filters, scope) for filters in self.filters_of(scope))

    def passes(self, parsed: Parsed, filters: Filters, scope: Scope) -> bool:
        """Whether a key of `scope` passes one of the alternatives of :meth:`filters_of`."""
        has_averages = not self.is_strict or scope.by_session is not False
        return passes(parsed, filters, strict=self.is_strict, has_averages=has_averages)


class Group(NamedTuple):
    """What was listed of a scope: each object (as its caller knows it), and what its key says."""

    scope: Scope
    items: Sequence[tuple[Any, Parsed]]

    def resolve(self) -> Self:
        """Return the group with its scope taken for organised by session if its keys say so."""
        if self.scope.by_session is not None:
            return self
        is_so = any(p.ses is not None for _, p in self.items)
        return self._replace(scope=self.scope._replace(by_session=is_so))

    def find_values(self, name: str) -> set[str]:
        """Return the values of an entity that its keys carry."""
        return {value for _, p in self.items if (value := getattr(p, name)) is not None}


def passes(
    parsed: Parsed, filters: Filters, *, strict: bool = False, has_averages: bool = True
) -> bool:
    """Whether every filter lets the key pass.

    A key without the entity of a filter passes, but for ``ses``; with `strict`, it never does.
    Without a session it is one of the averages, unless its scope has none (`has_averages`).
    """
    for name, values in filters.items():
        value = getattr(parsed, name)
        if value is None and name == "ses" and has_averages:
            value = AVERAGES
        if value not in values and (strict or value is not None):
            return False
    return True


def leave_out(selection: Selection, groups: Iterable[Group]) -> list[tuple[Group, list[Filters]]]:
    """Return those of `groups` that a selection is about, with the alternatives of each.

    The entities that came after the contract's also choose scopes: one of whose keys none carries
    the entity is left out, unless something of it comes along with the others.
    """
    choosers = [name for name in selection.filters if name in CHOOSERS]
    chosen = []
    for group in groups:
        alternatives = selection.filters_of(group.scope)
        if selection.is_named(group.scope) and not all(map(group.find_values, choosers)):
            del alternatives[0]
        if alternatives:
            chosen.append((group, alternatives))
    return chosen


class Explained(NamedTuple):
    """A selection whose values are those of the bucket, and what there is to say of it."""

    selection: Selection
    notes: list[str]
    warnings: list[str]
    is_empty: bool  # nothing can match, as a filter has no value that exists


def explain_filters(
    selection: Selection, groups: Sequence[Group], held_out: Sequence[str], where: str
) -> Explained:
    """Compare the values of the filters with those that `groups` carry.

    A value that no key carries, but that begins exactly one that is carried, stands for that one.
    `where` names the subjects and scopes in words.
    """
    named = [group for group in groups if selection.is_named(group.scope)]
    choosers = [name for name in selection.filters if name in CHOOSERS]
    kept = [group for group in named if all(map(group.find_values, choosers))]
    filters: dict[str, tuple[str, ...]] = {}
    warnings, is_empty = [], False
    for name, values in selection.filters.items():
        if name == "ses":
            existing, is_known = _find_sessions(kept, held_out)
        else:
            about = [g for g in named if g.scope.takes_filters or name in CHOOSERS]
            existing, is_known = set().union(*(g.find_values(name) for g in about)), bool(about)
        read, unknown = [], 0
        for given in values:
            value = find_session(given, {*existing, *held_out}) if name == "ses" else given
            meant = find_meant(name, value, existing)
            read.append(meant or value)
            if not meant and is_known:
                unknown += 1
                # Those that are held out have a warning of their own.
                if not (name == "ses" and value in held_out):
                    said = explain_unmatched(name, value, where, existing)
                    warnings.append(said if existing else said + _name_carriers(name))
        filters[name] = tuple(dict.fromkeys(read))
        is_empty |= unknown == len(values)
    understood = replace(selection, filters=filters)
    whole = [] if selection.is_strict else _explain_whole(selection, kept)
    notes = [*explain_meant(selection, understood), *whole]
    return Explained(understood, notes, warnings, is_empty)


def explain_meant(selection: Selection, understood: Selection) -> list[str]:
    """Say which values of a selection stand for others, as they were understood."""
    return [
        f"{name} {value!r} stands for {meant!r}"
        for name, values in selection.filters.items()
        if len(values) == len(understood.filters[name])
        for value, meant in zip(values, understood.filters[name], strict=True)
        if value != meant
    ]


def _name_carriers(name: str) -> str:
    """Say which scopes carry an entity, for one who has not named any of them."""
    scopes = [scope.name for scope in dataset.SCOPES if name in scope.entities.split()]
    return f"; scopes that have it: {', '.join(scopes)}" if scopes else ""


def find_meant(name: str, value: str, existing: Collection[str]) -> str | None:
    """Return the value that a filter's `value` stands for: itself, or the one that it begins."""
    if value in existing:
        return value
    if name not in BEGINNINGS or value.isdigit():
        return None
    folded = value.casefold()
    begun = [known for known in existing if known.casefold().startswith(folded)]
    # FFA1 is not FFA12.
    is_number = value[-1].isdigit() and any(known[len(value) :][:1].isdigit() for known in begun)
    return begun[0] if len(begun) == 1 and not is_number else None


def _find_sessions(groups: Iterable[Group], held_out: Collection[str]) -> tuple[set[str], bool]:
    """Return the sessions that are given out, and whether `ses` thins any of `groups` at all."""
    found: set[str] = set()
    is_known = False
    for scope, items in groups:
        public = [p for _, p in items if p.ses not in held_out or scope.gives_out(p)]
        found.update(p.ses or AVERAGES for p in public)
        is_known |= bool(scope.by_session and items)
    return found, is_known


def _explain_whole(selection: Selection, kept: Iterable[Group]) -> list[str]:
    """Say which of the scopes that are selected come whole although a filter is set."""
    scopes = [scope for scope, items in kept if items]
    notes = []
    if scopes and not any(scope.has_subjects for scope in scopes):
        if selection.subjects or selection.sessions:
            names = " and ".join(scope.name for scope in scopes)
            notes.append(f"{names}: not organised by subject or session")
    elif selection.sessions and not any(scope.by_session for scope in scopes):
        names = " and ".join(scope.name for scope in scopes if scope.has_subjects)
        if names:
            notes.append(f"{names}: not organised by session, so ses leaves nothing out")
    for scope in scopes:
        if not scope.takes_filters and any(name != "ses" for name in selection.filters):
            notes.append(f"{scope.name}: comes whole, since no filter applies to it")
    return notes


def is_brain_map(parsed: Parsed) -> bool:
    """Whether it is a subject's mean-R2 map, or the mask."""
    return (
        parsed.desc in dataset.PINNED_DESCS and parsed.ses is None and parsed.extension == "nii.gz"
    )


def explain_unmatched(name: str, value: str, where: str, existing: Iterable[str]) -> str:
    """Say that a filter value matches nothing, what comes near it, and what there is."""
    there_is = sorted(existing)
    near = find_near(value, there_is)
    listed = list_some([*near, *(known for known in there_is if known not in near)])
    return (
        f"{name} {value!r} matches nothing under {where}; {suggest(value, there_is)}"
        f"there is: {listed or 'none at all'}"
    )


def needs_subject(settings: Settings) -> bool:
    """Whether a subject has to be named: not if all scopes belong to the dataset."""
    names = [name for option, (name, _) in INCLUDES.items() if getattr(settings, option)]
    scope = settings.scope
    names += dataset.DEFAULT_SCOPES if scope is None else read_values("scope", scope)
    return any(dataset.make_scope(name).has_subjects for name in names)


def names_all_sessions(settings: Settings) -> bool:
    """Whether ``all`` is among the values of ``ses``: then it leaves nothing out."""
    given = settings.filters.get("ses")
    return given is not None and ALL in read_values("ses", given)


def _read_subjects(subject: object) -> tuple[str, ...] | None:
    if subject is None:
        raise InputTypeError("subject=None: name one, such as 'sub-03', or 'all'")
    values = read_strings("subject", subject)
    if not values:
        raise SubjectNotFoundError("subject is an empty list; name one, such as 'sub-03', or 'all'")
    if NO_SUBJECT in values:
        raise SubjectNotFoundError(
            "subject 'none' is for pipelines that name files in their rules; write 'sub-03' or"
            " 'all' to download"
        )
    if ALL in values:
        return None
    for value in values:
        if not re.fullmatch("(sub-)?[A-Za-z0-9]+", value):  # what BIDS calls a label
            raise SubjectNotFoundError(
                f"subject {value!r} is not a subject label; write 'sub-03' or '03', or 'all'"
            )
    return tuple(sorted({value.removeprefix("sub-") for value in values}))
