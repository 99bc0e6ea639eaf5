"""The BIDS entities, suffix and extension in an object key."""

from functools import lru_cache
from typing import Annotated, NamedTuple, get_type_hints


class Parsed(NamedTuple):
    """The entities of a key; ``None`` where it does not carry one.

    This is the only list of entities: parser, filters, columns, flags and docs follow it, with the
    text beside each as its help. New ones go to the end, since callers know the columns by number.
    """

    sub: Annotated[str | None, "subjects, such as sub-03"]
    ses: Annotated[
        str | None, 'sessions, such as ses-01; "averages" selects the files without a session'
    ]
    task: Annotated[str | None, "tasks, such as images"]
    space: Annotated[str | None, "spaces, such as T1w"]
    desc: Annotated[str | None, "descriptions, such as SingletrialBetas"]
    stat: Annotated[str | None, "statistics, such as effect"]
    suffix: Annotated[str | None, "suffixes, such as statmap or trials"]
    extension: Annotated[str | None, "extensions, such as nii.gz or tsv"]
    run: Annotated[str | None, "runs, such as run-01"] = None
    echo: Annotated[str | None, "echoes of raw data, such as echo-1"] = None
    part: Annotated[str | None, "parts of raw data, mag or phase"] = None
    hemi: Annotated[str | None, "hemispheres, L or R"] = None
    res: Annotated[str | None, "resolutions, such as res-1pt8"] = None
    label: Annotated[str | None, "regions of interest, such as FFA1; FFA-1 is the same"] = None
    contrast: Annotated[str | None, "contrasts of localizers, such as body"] = None


#: Name of each field -> the help of a filter on it.
HELP: dict[str, str] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(Parsed, include_extras=True).items()
}
#: Those that are written ``name-value`` in a key.
ENTITIES = tuple(name for name in HELP if name not in ("suffix", "extension"))
#: The filters of ``download()``, in the order of its arguments; the subject is not one of them.
FILTERS = tuple(name for name in HELP if name != "sub")
#: Those that also choose scopes: one that has none of the entity is left out.
CHOOSERS = FILTERS[7:]


def parse_key(key: str) -> Parsed:
    """Read the entities of `key` from its directories and its file name, which wins.

    The suffix is the last ``_`` part of the name before its first dot, the extension all after it.

    Examples
    --------
    >>> parse_key("derivatives/x/sub-03/ses-01/func/sub-03_ses-01_desc-R2_statmap.nii.gz").desc
    'R2'
    >>> parse_key("derivatives/rois/sub-03/face/sub-03_hemi-L_label-FFA-1_mask.label").label
    'FFA1'
    """
    directory, _, name = key.rpartition("/")
    stem, _, extension = name.partition(".")
    found = {**_read_directory(directory), **_read_entities(stem)}
    found["suffix"] = stem.rpartition("_")[2]
    found["extension"] = extension
    return Parsed._make(found.get(name) or None for name in HELP)


def _read_entities(text: str) -> dict[str, str]:
    tokens = [token.partition("-") for token in text.replace("/", "_").split("_")]
    return {name: join_label(name, v) for name, _, v in tokens if v and name in ENTITIES}


def join_label(name: str, value: str) -> str:
    """Return a value as a filter reads it: the bucket writes ``FFA-1`` for the label ``FFA1``."""
    return value.replace("-", "") if name == "label" else value


#: Thousands of keys share a few hundred directories.
_read_directory = lru_cache(maxsize=4096)(_read_entities)
