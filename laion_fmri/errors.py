"""Every error and warning that a user can see.

All errors share the base :class:`LaionFmriError`, so one ``except`` catches them; each is also a
fitting builtin. A message is one line: what is wrong, what was expected, what to do.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from laion_fmri.base.text import spell

if TYPE_CHECKING:
    import pandas as pd


class LaionFmriError(Exception):
    """Base of every error that this package raises on purpose."""

    def __init__(self, *args: object) -> None:
        # What a message quotes may come from outside.
        super().__init__(*(spell(arg) if isinstance(arg, str) else arg for arg in args))


class DataDirNotSetError(LaionFmriError, RuntimeError):
    """No data directory was given, set in the environment, or saved."""


class DataDirError(LaionFmriError, OSError):
    """The data directory is missing, is not a directory, or cannot be written."""


class SubjectNotFoundError(LaionFmriError, ValueError):
    """The bucket does not have the subject; the message lists those that it has."""


class SelectionError(LaionFmriError, ValueError):
    """The filters select nothing, or one of them is malformed."""


class ConfigError(LaionFmriError, ValueError):
    """A workflow configuration, an option or an address that is not valid."""


class InputTypeError(LaionFmriError, TypeError):
    """An argument that has the wrong type, such as the number 1 for the session ``"01"``."""


class ManifestError(LaionFmriError, ValueError):
    """A manifest that is missing, not valid, or cannot be written; the message names the line."""


class NoSpaceError(LaionFmriError, OSError):
    """The disk has no room for what is to be fetched; both numbers are in the message."""


class BucketError(LaionFmriError, OSError):
    """The bucket cannot be reached or refuses to be listed."""


class AccessError(LaionFmriError, PermissionError):
    """The images are not given out with this request id, or it cannot be kept or read."""


class ServiceError(LaionFmriError, OSError):
    """The service that gives out the images cannot be reached, or cannot answer."""


class AwsNotFoundError(LaionFmriError, FileNotFoundError):
    """The AWS command line interface is not installed or not found."""


class LicenseNotAcceptedError(LaionFmriError, PermissionError):
    """Stimuli were asked for, and their licence has not been accepted for this data directory."""


class MissingDependencyError(LaionFmriError, ImportError):
    """An optional part of the package needs an extra that is not installed."""


class DataNotDownloadedError(LaionFmriError, FileNotFoundError):
    """A file that is to be loaded is not here; the message has the command that fetches it."""


class ImageError(LaionFmriError, OSError):
    """An image that cannot be read, since it is cut short, damaged or of another kind."""


class MismatchError(LaionFmriError, ValueError):
    """Two things that have to fit and do not: masks, grids, tables; both sizes are named."""


class WorkflowFailedError(LaionFmriError, RuntimeError):
    """Snakemake stopped before it could start fetching."""


class DownloadError(LaionFmriError, RuntimeError):
    """Some files could not be fetched; everything else is in place.

    Attributes
    ----------
    report : pandas.DataFrame
        The whole report of the run: the key table with the columns ``outcome`` and ``reason``.
    """

    def __init__(self, message: str, report: "pd.DataFrame") -> None:
        super().__init__(message)
        self.report = report

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions pickle by their args alone, which would lose the report in a process pool.
        return type(self), (str(self), self.report)


class SelectionWarning(UserWarning):
    """The selection is usable, but part of what was asked for is not available as written."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(spell(arg) if isinstance(arg, str) else arg for arg in args))


def list_some(values: Sequence[str], limit: int = 12) -> str:
    """Join `values` for a message, at most `limit` of them, and count the rest."""
    shown = ", ".join(values[:limit])
    return f"{shown}, ... ({len(values) - limit} more)" if len(values) > limit else shown
