"""For pipelines that embed the workflow: filters in, target paths out, as inputs of their rules.

Every function returns an input function, which Snakemake calls when it knows the wildcards. Nothing
is listed before that, and nothing at all in the processes that Snakemake starts for its jobs.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from laion_fmri.base.bids import FILTERS, Parsed
from laion_fmri.errors import InputTypeError, SelectionError, list_some
from laion_fmri.run.pipeline_modules import MODULES
from laion_fmri.run.rules import Rules
from laion_fmri.selection.filters import Selection, explain_unmatched
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
        ``subject``, ``ses``, ``task``, ``space``, ``desc``, ``stat``, ``suffix``, ``extension``, as
        in :func:`laion_fmri.download.download`. One that is not given is taken from the wildcard
        of its name (``sub`` is ``subject``); without one, subject and session are those of the
        module. Values may hold wildcards of the rule: ``subject="{participant}"``.

        Unlike in a download, an object has to carry what is named (``desc="R2"`` leaves out what
        has no ``desc``), and nothing comes along with it.

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
    known = ("subject", *FILTERS)
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
    named: dict[str, Any] = {"subject": rules.folder.subject, "ses": rules.folder.ses}
    named |= _fill_in(filters, wildcards)
    subject = named.pop("subject")
    if subject in (None, NO_SUBJECT):
        raise SelectionError(
            "no subject is named: neither by a filter nor by a wildcard 'sub' nor by the"
            " configuration of the module"
        )
    set_ = {name: value for name, value in named.items() if value is not None}
    selection = Selection.from_settings(Settings(subject, set_))
    listing = rules.listing
    labels = listing.subjects if selection.subjects is None else selection.subjects
    parsed = [item for label in sorted(labels) for item in listing.list_subject(label)]
    found = [(key, p) for key, p in parsed if selection.matches(p, strict=True)]
    if not found:
        held_out = rules.folder.facts.held_out_sessions
        raise SelectionError(_explain(selection, labels, [p for _, p in parsed], held_out))
    return rules, found


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


def _explain(
    selection: Selection, labels: Iterable[str], parsed: list[Parsed], held_out: Iterable[str]
) -> str:
    """Say which value matches nothing, or that all of them do but never together."""
    where = list_some([f"sub-{label}" for label in labels])
    if not parsed:
        return f"the bucket has nothing of {where}"
    for name, value, there_is in selection.find_unmatched(parsed, held_out):
        return explain_unmatched(name, value, where, there_is)
    named = ", ".join(f"{name} {' or '.join(values)}" for name, values in selection.filters.items())
    return f"no object of {where} carries all of this: {named}"
