"""Every option once: its type, default, unit, help, and which interfaces know it.

The flags of the command, the keyword arguments of the functions, and the schema of a workflow's
configuration are made from the fields of :class:`Settings`.
"""

import functools
import inspect
import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeVar

from laion_fmri.base import kinds
from laion_fmri.base.bids import FILTERS, HELP
from laion_fmri.base.kinds import check_workers as check_workers
from laion_fmri.base.names import suggest_option
from laion_fmri.dataset import DEFAULT_SCOPES, PUBLISHED, Facts
from laion_fmri.errors import ConfigError, InputTypeError

#: The values of a filter.
Values = str | Iterable[str] | None
#: The value of ``ses`` that selects the keys without a session.
AVERAGES = "averages"
#: The value of ``subject`` and of ``scope`` that selects each.
ALL = "all"
#: The value of ``subject`` for a pipeline that selects nothing and only names files in its rules.
NO_SUBJECT = "none"

#: The interfaces: the configuration of a workflow, a function in Python, the command.
CONFIG, PYTHON, COMMAND = "config", "python", "command"
_ALL, _CALLS, _CONFIG = (CONFIG, PYTHON, COMMAND), (PYTHON, COMMAND), (CONFIG,)

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Option(NamedTuple):
    """An option: values, help, default, the interfaces that know it, a short flag if it has one."""

    kind: kinds.Kind
    help: str
    default: Any
    ways: tuple[str, ...]
    short: str = ""


def option(
    kind: kinds.Kind,
    text: str,
    default: Any = None,
    ways: tuple[str, ...] = _ALL,
    short: str = "",
) -> Any:
    """Return a field of :class:`Settings`."""
    return field(default=default, metadata={"option": Option(kind, text, default, ways, short)})


@dataclass(frozen=True)
class Settings:
    """What a run was asked for, by any interface. Made by :func:`read_settings`."""

    subject: Values = option(
        kinds.VALUES,
        'a subject ("sub-03" or "03"), a list of them, or "all"; in a pipeline also "none", for '
        "nothing but what its rules name",
    )
    #: The filters that are set, by name, as they were given.
    filters: Mapping[str, Values] = field(default_factory=dict)
    scope: Values = option(
        kinds.VALUES,
        'trees of the bucket, such as "rois", "freesurfer" or "raw", or "all" (default: '
        f"{' and '.join(DEFAULT_SCOPES)})",
    )
    include_stimuli: bool = option(
        kinds.SWITCH,
        "add all of stimuli/; the images only after 'laion-fmri login'",
        False,
    )
    include_embeddings: bool = option(kinds.SWITCH, "add the embeddings of the stimuli", False)
    include_freesurfer: bool = option(
        kinds.SWITCH, "add all of the scope freesurfer of each subject", False
    )
    include_anatomical: bool = option(
        kinds.SWITCH, "add all of the scope anatomical of each subject", False
    )
    include_localizers: bool = option(
        kinds.SWITCH, "add all of the scope localizers of each subject", False
    )
    include_raw: bool = option(kinds.SWITCH, "add the raw data that the filters let pass", False)
    strict: bool = option(
        kinds.SWITCH,
        "leave out what does not carry all that the filters name, and what comes along otherwise",
        False,
    )
    workers: int = option(
        kinds.WORKERS, "aws s3 cp processes at once (default: 1)", 1, _CALLS, "-j"
    )
    data_dir: str | os.PathLike[str] | None = option(
        kinds.FOLDER,
        "the folder for the files (default: $LAION_FMRI_DATA_DIR, else the choice that "
        "'laion-fmri config' has saved)",
    )
    dry_run: bool = option(
        kinds.SWITCH, "show what would be fetched, and fetch nothing", False, _CALLS, "-n"
    )
    max_bandwidth: float | None = option(
        kinds.RATE, "what the whole run may take of the connection, in MB/s (default: no limit)"
    )
    stall_timeout: float = option(
        kinds.SECONDS,
        "seconds without a byte after which a transfer is given up and tried again, twice "
        "(default: 60)",
        60.0,
    )
    offline: bool = option(
        kinds.SWITCH,
        "never use the network: go by the last listing of the bucket, and say what is missing "
        "(also by LAION_FMRI_OFFLINE=1)",
        False,
    )
    space_check: bool = option(kinds.SWITCH, "refuse to begin what the disk has no room for", True)
    profile: str | os.PathLike[str] | None = option(
        kinds.NAME,
        'send the jobs to a cluster: "slurm", or the name or folder of a Snakemake profile',
        ways=_CALLS,
    )
    manifest: str | None = option(
        kinds.FILE,
        "fetch what this manifest names, in exactly these versions, and name what has changed; "
        'subject "all" and no filters is all of it',
    )
    save_manifest: str | None = option(
        kinds.FILE, "keep what is selected in this file, as a manifest"
    )
    checksums: bool = option(
        kinds.SWITCH,
        "add the SHA-256 of each complete file to the manifest that is kept, after the run",
        False,
        _CALLS,
    )
    fetch_on: str = option(
        kinds.PLACE,
        'where to fetch when a pipeline runs on a cluster: "submit-host", whose network the nodes '
        'may not have, or "cluster"',
        "submit-host",
        _CONFIG,
    )
    fetch_workers: int | None = option(
        kinds.COUNT,
        "how many jobs of a pipeline fetch at once on one machine (default: half of its cores, at "
        "most 4; 4 on a submit host)",
        ways=_CONFIG,
    )
    bucket: str | None = option(
        kinds.NAME,
        "name of the bucket (default: $LAION_FMRI_BUCKET, else laion-fmri)",
        ways=_CONFIG,
    )
    region: str | None = option(
        kinds.NAME, "region of the bucket (default: us-west-2)", ways=_CONFIG
    )
    endpoint_url: str | None = option(
        kinds.NAME,
        "a stand-in for S3 (default: $LAION_FMRI_ENDPOINT_URL, else S3 itself)",
        ways=_CONFIG,
    )
    held_out_sessions: tuple[str, ...] = option(
        kinds.WORDS,
        "sessions that the bucket lists but does not give out (default: ses-31 to ses-34)",
        PUBLISHED.held_out_sessions,
        _CONFIG,
    )
    restricted_keys: tuple[str, ...] = option(
        kinds.WORDS,
        "keys that need a data use agreement (default: the images in one HDF5 file)",
        PUBLISHED.restricted_keys,
        _CONFIG,
    )

    @property
    def facts(self) -> Facts:
        """What is known of the bucket's keys."""
        return Facts(self.held_out_sessions, self.restricted_keys)


#: The field of each option, by its name in Python and on the command line.
_FIELDS = {item.name: item for item in fields(Settings) if item.metadata}
_FIELDS["n_jobs"] = _FIELDS.pop("workers")


def list_options(way: str) -> dict[str, Option]:
    """Return the options that an interface knows, by name."""
    found: dict[str, Option] = {name: item.metadata["option"] for name, item in _FIELDS.items()}
    return {name: this for name, this in found.items() if way in this.ways}


#: Those that say what is selected, beside the subject and the filters.
SELECTORS = tuple(
    n for n in list_options(PYTHON) if n in ("scope", "strict") or n.startswith("include_")
)


def read_settings(given: Mapping[str, Any]) -> Settings:
    """Return the settings that arguments make; None, and what is absent, is the default.

    Raises ConfigError or InputTypeError for a value that is not valid.
    """
    values: dict[str, Any] = {
        item.name: item.metadata["option"].kind.check(name, given[name])
        for name, item in _FIELDS.items()
        if given.get(name) is not None
    }
    filters = [name for name in FILTERS if given.get(name) is not None]
    values["filters"] = {name: kinds.VALUES.check(name, given[name]) for name in filters}
    if values.get("checksums") and not values.get("save_manifest"):
        raise ConfigError("checksums are written to a manifest; name one with save_manifest")
    return Settings(**values)


def spell_command(command: str, settings: Settings, subjects: Values = None) -> str:
    """Return the command line that selects the same, of other `subjects` if given."""
    return shlex.join(["laion-fmri", command, *spell_options(settings, subjects)])


def spell_options(settings: Settings, subjects: Values = None) -> list[str]:
    """Return the options of :func:`spell_command`."""
    given = {"subject": subjects or settings.subject, "scope": settings.scope, **settings.filters}
    if settings.manifest:
        if given["subject"] == "all":
            del given["subject"]
        given["manifest"] = settings.manifest
    words: list[str] = []
    for name, values in given.items():
        if values is not None:
            many = [values] if isinstance(values, (str, int)) else values
            words += [f"--{name}", *map(str, many)]
    included = [name for name in SELECTORS[1:] if getattr(settings, name)]
    words += [f"--{name.replace('_', '-')}" for name in included]
    if settings.data_dir is not None:
        words += ["--data-dir", os.fspath(settings.data_dir)]
    return words


def read_config(config: Mapping[str, Any]) -> Settings:
    """Return the settings that the configuration of a workflow makes.

    The ConfigError names each key that is wrong, its value, and what was expected, in one line.
    """
    import jsonschema

    validator = jsonschema.Draft202012Validator(make_schema())
    problems = sorted(validator.iter_errors(dict(config)), key=lambda problem: list(problem.path))
    if problems:
        raise ConfigError("; ".join(_explain_problem(problem, config) for problem in problems))
    return read_settings(config)


def make_schema() -> dict[str, Any]:
    """Return the JSON schema of a workflow's configuration."""
    known = {
        name: {**this.kind.schema, "description": f"{this.kind.words}: {this.help}"}
        for name, this in list_options(CONFIG).items()
    }
    values = {"oneOf": [{"type": "null"}, *kinds.VALUES.schema["oneOf"]]}
    words = kinds.VALUES.words
    filters = {name: {**values, "description": f"{words}: {HELP[name]}"} for name in FILTERS}
    return {
        "type": "object",
        "anyOf": [{"required": ["subject"]}, {"required": ["scope"]}],
        "additionalProperties": False,
        "properties": {"subject": known.pop("subject"), **filters, **known},
    }


def _explain_problem(problem: Any, config: Mapping[str, Any]) -> str:
    if problem.validator == "anyOf":
        description = problem.schema["properties"]["subject"]["description"]
        return f"the configuration lacks 'subject': {description}"
    if problem.validator == "additionalProperties":
        known = problem.schema["properties"]
        unknown = [str(key) for key in config if key not in known]
        texts = [f"{key!r} is not a known key; {suggest_option(key, known)}" for key in unknown]
        return f"{''.join(texts)}there is: {', '.join(known)}"
    name, value = problem.path[0], problem.instance
    items = value if isinstance(value, (list, tuple)) else [value]
    odd = next((item for item in items if not isinstance(item, str)), None)
    if isinstance(odd, (int, float)) and "string" in str(problem.schema):
        # YAML has made a number of it, so 01 has become 1 and 010 has become 8.
        return f'{name}: {odd!r} is not a string; quote it, such as {name}: "01"'
    expected = problem.schema.get("description", problem.message)
    return f"{name}: {value!r} is not valid; expected: {expected}"


def takes(*names: str) -> Callable[[_Function], _Function]:
    """Give a function with ``**options`` these options: a check of names, signature and docs.

    A filter among `names` has no docs of its own; the function describes them all.
    """
    options = list_options(PYTHON)
    known = {name: options[name] for name in names if name in options}
    texts = [f"    {n} : {o.kind.type}, optional\n        {o.help}." for n, o in known.items()]

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)
        parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        for name in names:
            default = known[name].default if name in known else None
            parameters += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)]
        allowed = [parameter.name for parameter in parameters]

        @functools.wraps(function)
        def checked(*args: Any, **options: Any) -> Any:
            for name in options:
                if name not in allowed:
                    raise InputTypeError(
                        f"{function.__name__}() has no argument {name!r}; "
                        f"{suggest_option(name, allowed)}there is: {', '.join(allowed)}"
                    )
            return function(*args, **options)

        checked.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        checked.__doc__ = (function.__doc__ or "").replace("    {options}", "\n".join(texts))
        return checked  # type: ignore[return-value]

    return decorate
