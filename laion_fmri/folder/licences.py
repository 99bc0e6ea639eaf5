"""The licences of the data; that of the stimuli is accepted once per data directory."""

import json
from datetime import UTC, datetime

from laion_fmri import dataset
from laion_fmri.base.files import StrPath
from laion_fmri.config import check_data_dir, find_user, get_data_dir, is_writable, not_writable
from laion_fmri.errors import LicenseNotAcceptedError
from laion_fmri.folder.guard import LICENCES, check_state, open_state, read_file, write_file


def accept_licenses(include_stimuli: bool = False, data_dir: StrPath | None = None) -> list[str]:
    """Record that you accept the licences of what you are about to fetch into `data_dir`.

    Parameters
    ----------
    include_stimuli : bool
        Whether to accept the closed licence of the stimuli. The brain data are CC0 1.0: there is
        nothing to accept, and calling this for them alone records nothing.
    data_dir : path, optional
        The chosen data directory by default.

    Returns
    -------
    list of str
        What is accepted for this data directory, in words.

    Raises
    ------
    DataDirNotSetError, DataDirError
    """
    path = get_data_dir(data_dir)
    check_data_dir(path)
    if include_stimuli and not has_accepted_stimuli(path):
        if not is_writable(path):
            raise not_writable(path)
        record = {
            "text": dataset.STIMULI_LICENSE,
            "accepted_by": find_user(),
            "accepted_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        check_state(path)
        with open_state(path) as state:
            write_file(state.folder, LICENCES, json.dumps({"stimuli": record}, indent=2) + "\n")
    return [dataset.BRAIN_LICENSE, *[dataset.STIMULI_LICENSE] * has_accepted_stimuli(path)]


def has_accepted_stimuli(data_dir: StrPath) -> bool:
    """Whether the licence of the stimuli has been accepted for `data_dir`."""
    try:
        with open_state(data_dir, make=False) as state:
            record = json.loads(read_file(state.folder, LICENCES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and bool(record.get("stimuli"))


def check_licenses(include_stimuli: bool, data_dir: StrPath) -> None:
    """Raise LicenseNotAcceptedError for stimuli whose licence has not been accepted."""
    if include_stimuli and not has_accepted_stimuli(data_dir):
        raise LicenseNotAcceptedError(
            f"{dataset.STIMULI_LICENSE} - accept with 'laion-fmri license --accept-stimuli' or "
            "accept_licenses(include_stimuli=True), or go on without include_stimuli"
        )
