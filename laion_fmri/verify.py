"""``verify()``: is what is on disk what the bucket, or a manifest, has?

For a download, a file is complete when its size is right. That says nothing of its content, and
neither does the AWS CLI, which does not compare an object that comes in parts. This does.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from laion_fmri import CallableModule
from laion_fmri.base.bids import FILTERS
from laion_fmri.check.verification import Check
from laion_fmri.run.monitor import Progress
from laion_fmri.settings import SELECTORS, Values, read_settings, takes

if TYPE_CHECKING:
    import pandas as pd


@takes(*FILTERS[1:], *SELECTORS, "data_dir", "manifest")
def verify(
    subject: Values = None,
    ses: Values = None,
    *,
    n_jobs: int | None = None,
    repair: bool = False,
    progress: Callable[[Progress], object] | None = None,
    **options: Any,
) -> "pd.DataFrame":
    """Compare the files on disk with the bucket, or with a manifest: their sizes and their content.

    Without a subject, the question is "is what I have right?": all that is here is checked, all of
    it or what the filters let pass, and what is not here is no failure. With one it is "do I have
    what I name, and is it right?": a selected file that is not here is missing, and so is one of
    a manifest, which is a list of what should be here.

    Parameters
    ----------
    subject, ses, task, space, desc, stat, suffix, extension, ...
        As for :func:`laion_fmri.download.download`, but that `subject` may be left out.
    n_jobs : int, optional
        Threads that hash, by default as many as CPUs; a repair has as many aws processes, up to
        four.
    repair : bool
        Whether to fetch corrupt and partial files again, and check them once more. The old file is
        kept until then, and put back if the fetch fails. Files that are missing are for a download.
    progress : callable, optional
        Called four times a second, and at the end, with the `Progress`: files and bytes done.
    {options}

    Returns
    -------
    pandas.DataFrame
        One row for each file, sorted by key: ``key``, ``path``, ``size`` (bytes that it should
        have; of an extra one, those that it has), ``outcome`` and ``reason`` (empty if it is ok).
        The outcomes:

        - ``ok``: size and content are right;
        - ``repaired``: the same, now that it has been fetched again; the reason tells what it was;
        - ``unverified``: the size is right, and nothing is known of the content;
        - ``corrupt``: the size is right, and the content is not;
        - ``partial``: the size is wrong;
        - ``unreadable``: the system refuses to read it;
        - ``missing``: it should be here and is not;
        - ``extra``: it is here, and the bucket or the manifest does not have it. Such files are
          looked for where the selection looks, and never touched.

    Raises
    ------
    ManifestError
        If the manifest cannot be read.
    SubjectNotFoundError, SelectionError, InputTypeError
        If the selection is malformed or selects nothing.
    DataDirNotSetError, DataDirError
        If no data directory is chosen, or it cannot be used.
    BucketError
        If the bucket cannot be listed.
    AwsNotFoundError
        If `repair` is asked for and there is no AWS CLI.

    Notes
    -----
    What is known of the content is the object's ETag. If it was uploaded at once, that is its MD5.
    If it was uploaded in parts, it is the MD5 of their MD5s, and part sizes are tried until one
    explains it, see ``Checker``. If none does, the file is corrupt, or its
    parts are unusual: it is called corrupt only where the bucket or other files prove the part
    size, and is else unverified. A mirror that encrypts with keys of its own (SSE-KMS, SSE-C) has
    ETags that say nothing of the content: its files would all be called corrupt. If a repair
    brings the same content once more, it is what the bucket has, and is called unverified.

    Examples
    --------
    >>> import laion_fmri as lf
    >>> paths = lf.paths("sub-03", ses="01", suffix="trials", extension="tsv", strict=True)
    >>> checked = lf.verify("sub-03", ses="01", suffix="trials", extension="tsv", strict=True)
    >>> checked["outcome"].tolist()
    ['ok']
    """
    settings = read_settings({"subject": subject, "ses": ses, **options})
    with Check(settings, n_jobs, repairs=repair) as check:
        found = check.run(progress)
        return (check.repair(found) if repair else found).to_frame()


sys.modules[__name__].__class__ = CallableModule
