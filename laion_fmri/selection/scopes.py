"""Which scopes and subjects the bucket has, and the listing of those that a selection names."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from laion_fmri import dataset
from laion_fmri.base.bids import Parsed, parse_key
from laion_fmri.base.files import StrPath
from laion_fmri.base.text import find_near, suggest
from laion_fmri.bucket.listing import Bucket, ListedObject
from laion_fmri.dataset import DEFAULT_SCOPES, DERIVATIVES, DESCRIBED, SCOPES, Scope, make_scope
from laion_fmri.errors import SelectionError, SubjectNotFoundError, list_some
from laion_fmri.selection.filters import Group, Selection
from laion_fmri.settings import ALL

Item = tuple[ListedObject, Parsed]


class Listed(NamedTuple):
    """What there is to choose from, by scope, and what is in none and always comes along."""

    subjects: Sequence[str]
    trees: list[str]  # the prefixes that were listed
    groups: list[Group]
    others: list[Item]

    @property
    def where(self) -> str:
        """The subjects and scopes in words."""
        scopes = list_some([group.scope.name for group in self.groups])
        subjects = list_some([f"sub-{label}" for label in self.subjects])
        return f"{subjects} in {scopes}" if subjects else scopes


def list_selected(selection: Selection, bucket: Bucket) -> Listed:
    """List what `selection` is about, each prefix once and all at the same time."""
    scopes = find_scopes(selection.scope_names, bucket)
    owned = [scope for scope in scopes if scope.has_subjects]
    if selection.subjects is None:
        labels = find_subjects(owned, bucket)
    else:
        labels = {scope.name: [*selection.subjects] for scope in owned}
    pairs = [(s, s.prefix_of(label)) for s in scopes for label in labels.get(s.name, [""])]
    # The root's own files take one shallow listing.
    root, *found = bucket.list_many([("", False), *((prefix, True) for _, prefix in pairs)])
    listings = dict(zip((prefix for _, prefix in pairs), found, strict=True))
    for label in selection.subjects or ():
        if owned and not any(listings[scope.prefix_of(label)] for scope in owned):
            raise _explain_missing(label, owned, bucket)
    if owned and not any(labels.values()) and selection.subjects is None:
        raise _explain_no_subject(owned, bucket)
    groups = [
        make_group(scope, [item for s, prefix in pairs if s is scope for item in listings[prefix]])
        for scope in scopes
    ]
    for scope, items in groups:
        if not items and not scope.has_subjects and scope.name in (selection.scopes or ()):
            raise explain_unknown_scope(scope.name, list_scopes(bucket), str(bucket))
    subjects = sorted({label for some in labels.values() for label in some})
    others = [item for item in root if item.key in dataset.ROOT_FILES]
    return Listed(subjects, list(listings), groups, parse_items(others))


def parse_items(items: Iterable[ListedObject]) -> list[Item]:
    """Return each object with what its key says."""
    return [(item, parse_key(item.key)) for item in items]


def make_group(scope: Scope, items: Iterable[ListedObject]) -> Group:
    """Return the group of the listed objects of a scope."""
    return Group(scope, parse_items(items)).resolve()


def find_scopes(names: Iterable[str], bucket: Bucket) -> list[Scope]:
    """Return the scopes of these names; ``all`` stands for each that the bucket has.

    Raises SelectionError for a name that is neither described nor in the bucket, which is asked
    only if there is a name that is not described.
    """
    names = list(names)
    known: dict[str, Scope] = {}
    if not set(names).issubset(DESCRIBED):
        known = list_scopes(bucket)
    wanted = [*known, *names] if ALL in names else names
    for name in wanted:
        if name not in known and name not in (*DESCRIBED, ALL):
            raise explain_unknown_scope(name, known, str(bucket))
    return [make_scope(name) for name in dict.fromkeys(wanted) if name != ALL]


def list_scopes(bucket: Bucket) -> dict[str, Scope]:
    """Return the scopes that the bucket has by name: the described ones first."""
    root, derived = bucket.list_many_folders(["", DERIVATIVES])
    # The option takes these for something else.
    derived = [name for name in derived if name != ALL and not name.startswith("-")]
    others = [make_scope(name) for name in derived if name not in DESCRIBED]
    subjects = bucket.list_many_folders(scope.folder for scope in others)
    folders = {f"{name}/" for name in root} | {f"{DERIVATIVES}{name}/" for name in derived}
    if any(map(_is_subject, root)):
        folders.add("")
    found = [scope for scope in SCOPES if scope.folder in folders]
    found += [s for s, names in zip(others, subjects, strict=True) if any(map(_is_subject, names))]
    return {scope.name: scope for scope in found}


def find_local(data_dir: StrPath) -> list[str]:
    """Return the names of the scopes of which a data directory has a folder."""
    derived = Path(data_dir, DERIVATIVES)
    names = [*DESCRIBED, *sorted(path.name for path in derived.glob("*/") if path.is_dir())]
    found = []
    for scope in map(make_scope, dict.fromkeys(names)):
        top = Path(data_dir, scope.folder)
        is_here = any(top.glob("sub-*/")) if scope.has_subjects else top.is_dir()
        found += [scope.name] * is_here
    return found


def add_local(selection: Selection, data_dir: StrPath, bucket: Bucket) -> Selection:
    """Return the selection with what else is here, if it names no scope: a mirror is seen whole.

    What only an older bucket had is none of it, nor what is of no subject if subjects are named.
    """
    if selection.scopes is not None:
        return selection
    names = find_local(data_dir)
    if not set(names).issubset(DESCRIBED):
        known = list_scopes(bucket)
        names = [name for name in names if name in known]
    if selection.subjects is not None:
        names = [name for name in names if make_scope(name).has_subjects]
    others = {name: None for name in names if name not in DEFAULT_SCOPES}
    return replace(selection, extras={**others, **selection.extras})


def find_subjects(scopes: Sequence[Scope], bucket: Bucket) -> dict[str, list[str]]:
    """Return the labels of the subjects that each of `scopes` has, sorted, by scope."""
    listings = bucket.list_many_folders(scope.folder for scope in scopes)
    return {
        scope.name: [name.removeprefix("sub-") for name in filter(_is_subject, names)]
        for scope, names in zip(scopes, listings, strict=True)
    }


def list_subjects(bucket: Bucket, scopes: Sequence[Scope] | None = None) -> list[str]:
    """Return the labels of the subjects of `scopes`, or of all that the bucket has, sorted."""
    asked = list(list_scopes(bucket).values()) if scopes is None else scopes
    owned = [scope for scope in asked if scope.has_subjects]
    labels = sorted({label for some in find_subjects(owned, bucket).values() for label in some})
    if not labels:
        raise _explain_no_subject(owned, bucket)
    return labels


def explain_unknown_scope(name: str, known: Iterable[str], where: str) -> SelectionError:
    """Return the error for a scope that is not in the bucket or the manifest `where`."""
    there_is = list(known)
    listed = list_some([*there_is, ALL]) if there_is else "none at all"
    near = suggest(name, there_is)
    return SelectionError(f"scope {name!r} is not in {where}; {near}there is: {listed}")


def explain_unknown_subject(
    subject: str, where: str, existing: Iterable[str]
) -> SubjectNotFoundError:
    """Return the error for a subject that is not in the bucket or the manifest `where`."""
    there_is = list(existing)
    near = [f"sub-{label}" for label in find_near(subject, there_is)]
    guess = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    listed = list_some([f"sub-{label}" for label in there_is]) or "none at all"
    shown = subject if subject.startswith("sub") else f"sub-{subject}"
    return SubjectNotFoundError(f"subject {shown!r} is not in {where}; {guess}there is: {listed}")


def _explain_missing(label: str, scopes: Sequence[Scope], bucket: Bucket) -> SubjectNotFoundError:
    """Return the error for a subject that `scopes` do not have, with those that have it."""
    known = [scope for scope in list_scopes(bucket).values() if scope.has_subjects]
    labels = find_subjects(list(dict.fromkeys([*scopes, *known])), bucket)
    existing = sorted({label for scope in scopes for label in labels[scope.name]})
    where = f"{_name(scopes)} of {bucket}"
    elsewhere = [name for name, some in labels.items() if label in some]
    error = explain_unknown_subject(label, where, existing)
    if not elsewhere:
        return error
    return SubjectNotFoundError(f"{error}; sub-{label} is in: {list_some(elsewhere)}")


def _explain_no_subject(scopes: Sequence[Scope], bucket: Bucket) -> SubjectNotFoundError:
    there_is = list_some(list(list_scopes(bucket)))
    advice = f"it has: {there_is}; name one with scope" if there_is else "it has no scope at all"
    return SubjectNotFoundError(
        f"{bucket} has no subject in {_name(scopes)}; {advice}, or check bucket and endpoint"
    )


def _name(scopes: Iterable[Scope]) -> str:
    return " or ".join(scope.name for scope in scopes)


def _is_subject(folder: str) -> bool:
    return folder.startswith("sub-") and folder != "sub-"
