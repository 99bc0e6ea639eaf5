"""The names of options, and what others call them."""

from collections.abc import Iterable

from laion_fmri.base.text import find_name

#: What other programs call an option -> its name here.
SYNONYMS = {
    **dict.fromkeys(("session", "sessions", "visit", "timepoint"), "ses"),
    **dict.fromkeys(("jobs", "threads", "workers", "cores", "processes", "nproc", "c"), "n_jobs"),
    **dict.fromkeys(("sub", "participant", "participants", "participant_label", "s"), "subject"),
    **dict.fromkeys(("output", "out", "outdir", "dest", "target_dir", "path", "o"), "data_dir"),
    **dict.fromkeys(("dir", "folder", "directory", "cache_dir", "d"), "data_dir"),
    **dict.fromkeys(("simulate", "just_print", "test", "check"), "dry_run"),
    **dict.fromkeys(("silent", "no_progress"), "quiet"),
    **dict.fromkeys(("bwlimit", "bandwidth", "limit_rate"), "max_bandwidth"),
    **dict.fromkeys(("ext", "filetype", "format"), "extension"),
    **dict.fromkeys(("stimuli", "with_stimuli"), "include_stimuli"),
    **dict.fromkeys(("roi", "region"), "label"),
    **dict.fromkeys(("timeout",), "stall_timeout"),
}


def find_option(name: str, known: Iterable[str]) -> str | None:
    """Return the one of the options `known` that may have been meant by `name`, if any."""
    names = {other.replace("-", "_"): other for other in known}
    plain = name.strip("-").replace("-", "_").casefold()
    plain = SYNONYMS.get(plain, plain)
    meant = plain if plain in names else find_name(plain, names)
    return names[meant] if meant else None


def suggest_option(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean ...? `` for the name of an option, or nothing."""
    near = find_option(name, known)
    return f"did you mean {near!r}? " if near else ""
