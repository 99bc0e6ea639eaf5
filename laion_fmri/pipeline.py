"""For pipelines that embed the workflow: filters in, target paths out, as inputs of their rules.

Every function returns an input function, which Snakemake calls when it knows the wildcards. Nothing
is listed before that, and nothing at all in the processes that Snakemake starts for its jobs.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from laion_fmri.base.bids import FILTERS, Parsed
from laion_fmri.dataset import Scope
from laion_fmri.errors import InputTypeError, SelectionError, list_some
from laion_fmri.run.pipeline_modules import MODULES
from laion_fmri.run.rules import Rules
from laion_fmri.selection.filters import (
    Group,
    Selection,
    explain_filters,
    leave_out,
    needs_subject,
    passes,
)
from laion_fmri.settings import NO_SUBJECT, Settings, Values

Wildcards = Mapping[str, str]

#: Wildcards that fill in a filter which is not given, and the filters that they fill in.
WILDCARDS = {"sub": "subject", "subject": "subject", **{name: name for name in FILTERS}}


def target(*, data_dir: str | None = None, **filters: Values) -> Callable[[Wildcards], str]:
    """Return an input function for the one object that `filters` name.

    Parameters
    ----------
    data_dir : str, optional
        The data directory of the module that is meant, where a pipeline has several.
    **filters
        ``subject``, ``scope``, ``ses``, ``task``, ``space``, ``desc``, ``stat``, ``suffix``,
        ``extension``, ..., as in :func:`laion_fmri.download.download`. One that is not given is
        taken from the wildcard of its name (``sub`` is ``subject``); without one, subject, session
        and scope are those of the module. Values may hold wildcards of the rule:
        ``subject="{participant}"``.

        Unlike in a download, an object has to carry what is named (``desc="R2"`` leaves out what
        has no ``desc``), and nothing comes along with it. Only where none of the scopes is
        organised by session, as with ``label="FFA1"``, does ``ses`` not count.

    Returns
    -------
    callable
        From the wildcards to the path of the target, to be used in ``input:``.

    Raises
    ------
    InputTypeError
        If a filter is unknown.
    SelectionError
        By the function, if none or several objects are named.

    Examples
    --------
    >>> betas = target(desc="SingletrialBetas", suffix="statmap", extension="nii.gz")
    """
    filters = _check(filters)
    find = targets(data_dir=data_dir, **filters)

    def find_one(wildcards: Wildcards) -> str:
        found = find(wildcards)
        if len(found) > 1:
            names = list_some([path.rpartition("/")[2] for path in found], 4)
            raise SelectionError(
                f"{len(found)} objects match {_tell(filters, wildcards)}: {names}; name one, or use"
                " targets() for all"
            )
        return found[0]

    return find_one


def targets(*, data_dir: str | None = None, **filters: Values) -> Callable[[Wildcards], list[str]]:
    """Return an input function for all objects that `filters` name, one or more, sorted.

    See :func:`target`.
    """
    filters = _check(filters)

    def find_all(wildcards: Wildcards) -> list[str]:
        rules, found = _find(filters, wildcards, data_dir)
        return [f"{rules.folder.data_dir}/{key}" for key, _ in found]

    return find_all


def expand_targets(
    pattern: str, *, data_dir: str | None = None, **filters: Values
) -> Callable[[Wildcards], list[str]]:
    """Return an input function that fills in `pattern` from each object that `filters` name.

    Parameters
    ----------
    pattern : str
        With wildcards named like entities: ``"results/sub-{sub}_ses-{ses}.npz"``. Every different
        combination of their values gives one path.
    data_dir, **filters
        See :func:`target`.

    Raises
    ------
    InputTypeError
        If a filter is unknown.
    SelectionError
        By the function, if no object is named or one lacks an entity that the pattern asks for.
    """
    filters = _check(filters)

    def expand(wildcards: Wildcards) -> list[str]:
        paths: dict[str, None] = {}  # a set that keeps its order
        for key, parsed in _find(filters, wildcards, data_dir)[1]:
            values = {name: v for name, v in parsed._asdict().items() if v is not None}
            try:
                paths[pattern.format(**values)] = None
            except KeyError as error:
                raise SelectionError(f"{key} has no {error} for {pattern!r}") from None
        return list(paths)

    return expand


def _check(filters: Mapping[str, Values]) -> dict[str, Values]:
    """Return `filters` for any number of calls: an iterator could be read only once."""
    known = ("subject", "scope", *FILTERS)
    for name in filters:
        if name not in known:
            raise InputTypeError(f"{name!r} is not a filter; there are: {', '.join(known)}")
    return {
        name: value if value is None or isinstance(value, str) else list(value)
        for name, value in filters.items()
    }


def _find(
    filters: Mapping[str, Values], wildcards: Wildcards, data_dir: str | None
) -> tuple[Rules, list[tuple[str, Parsed]]]:
    """Return the module that is meant, and the keys that are named, sorted."""
    rules = _choose_module(data_dir)
    folder, listing = rules.folder, rules.listing
    named: dict[str, Any] = {"subject": folder.subject, "ses": folder.ses, "scope": folder.scope}
    named |= _fill_in(filters, wildcards)
    subject, scope = named.pop("subject"), named.pop("scope")
    set_ = {name: value for name, value in named.items() if value is not None}
    settings = Settings(None if subject == NO_SUBJECT else subject, set_, scope=scope)
    if settings.subject in (None, []) and needs_subject(settings):
        raise SelectionError(
            "no subject is named: neither by a filter nor by a wildcard 'sub' nor by the"
            " configuration of the module"
        )
    selection = Selection.from_settings(settings)
    scopes = listing.find_scopes(selection.scope_names)
    if selection.subjects is None:
        labels = listing.find_subjects([scope for scope in scopes if scope.has_subjects])
    else:
        labels = {scope.name: [*selection.subjects] for scope in scopes if scope.has_subjects}
    groups = []
    for scope in scopes:
        trees = [listing.list_tree(scope, label) for label in labels.get(scope.name, [""])]
        groups.append(Group(scope, [pair for tree in trees for pair in tree]).resolve())
    where = _name_place({label for some in labels.values() for label in some}, scopes)
    explained = explain_filters(selection, groups, (), where)
    selection = explained.selection
    groups = [group for group, _ in leave_out(selection, groups)]
    named_here = dict(selection.filters)
    if not any(group.scope.by_session for group in groups):
        named_here.pop("ses", None)  # of the module or a wildcard, and none of them has sessions
    found = [
        pair
        for scope, items in groups
        for pair in items
        if passes(pair[1], named_here, strict=True, has_averages=bool(scope.by_session))
    ]
    if not found or explained.is_empty:
        reasons = explained.warnings
        if not any(group.items for group in groups) and not reasons:
            reasons = [f"the bucket has nothing of {where}"]
        told = ", ".join(f"{name} {' or '.join(v)}" for name, v in selection.filters.items())
        raise SelectionError(
            "; ".join(reasons) or f"no object of {where} carries all of this: {told}"
        )
    return rules, sorted(found)


def _name_place(labels: Iterable[str], scopes: Iterable[Scope]) -> str:
    subjects = list_some([f"sub-{label}" for label in sorted(labels)])
    names = list_some([scope.name for scope in scopes])
    return f"{subjects} in {names}" if subjects else names


def _choose_module(data_dir: str | None) -> Rules:
    opened = MODULES.find(data_dir)
    folders = {rules.folder.data_dir for rules in opened}
    if len(folders) == 1:
        return opened[0]
    if folders:
        raise SelectionError(
            f"the pipeline has modules with files in {', '.join(sorted(folders))}; say which is"
            " meant with data_dir"
        )
    where = f" with the data directory {data_dir!r}" if data_dir else ""
    raise SelectionError(
        f"the pipeline has no module of laion-fmri{where}; add one with 'use rule * from ...'"
        " before the rules that take its files"
    )


def _fill_in(filters: Mapping[str, Values], wildcards: Wildcards) -> dict[str, Any]:
    """Return `filters` with their wildcards filled in, and those that wildcards stand for."""
    found = {WILDCARDS[name]: value for name, value in wildcards.items() if name in WILDCARDS}
    return found | {name: _fill(value, wildcards) for name, value in filters.items()}


def _fill(value: Values, wildcards: Wildcards) -> Any:
    if value is None:
        return None
    given = dict(wildcards.items())
    try:
        if isinstance(value, str):
            return value.format(**given)
        return [item.format(**given) for item in value]
    except KeyError as error:
        there_is = ", ".join(given) or "none"
        raise SelectionError(
            f"{value!r} needs a wildcard {error}; the rule has: {there_is}"
        ) from None


def _tell(filters: Mapping[str, Values], wildcards: Wildcards) -> str:
    told = [f"{name} {value!r}" for name, value in _fill_in(filters, wildcards).items()]
    return ", ".join(told) or "no filter at all"
