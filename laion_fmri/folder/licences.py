"""What a user accepts before stimuli are fetched, recorded once per data directory."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from laion_fmri import dataset
from laion_fmri.base.files import StrPath, write_atomically
from laion_fmri.config import (
    check_data_dir,
    find_user,
    get_data_dir,
    is_writable,
    not_writable,
    state_dir,
)
from laion_fmri.errors import LicenseNotAcceptedError


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
    if not include_stimuli or has_accepted_stimuli(path):
        return _texts(path)
    if not is_writable(path):
        raise not_writable(path)
    file = _record_file(path)
    file.parent.mkdir(exist_ok=True)
    record = {
        "stimuli": {
            "text": dataset.STIMULI_LICENSE,
            "accepted_by": find_user(),
            "accepted_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    }
    write_atomically(file, json.dumps(record, indent=2) + "\n")
    return _texts(path)


def has_accepted_stimuli(data_dir: StrPath) -> bool:
    """Whether the licence of the stimuli has been accepted for `data_dir`."""
    return bool(_read_record(Path(data_dir)).get("stimuli"))


def check_licenses(include_stimuli: bool, data_dir: StrPath) -> None:
    """Refuse to go on with stimuli whose licence has not been accepted.

    Raises
    ------
    LicenseNotAcceptedError
    """
    if include_stimuli and not has_accepted_stimuli(data_dir):
        raise LicenseNotAcceptedError(
            f"{dataset.STIMULI_LICENSE} - accept with 'laion-fmri license --accept-stimuli' or "
            "accept_licenses(include_stimuli=True), or go on without include_stimuli"
        )


def _texts(data_dir: Path) -> list[str]:
    return [dataset.BRAIN_LICENSE, *[dataset.STIMULI_LICENSE] * has_accepted_stimuli(data_dir)]


def _record_file(data_dir: Path) -> Path:
    return state_dir(data_dir) / "licenses.json"


def _read_record(data_dir: Path) -> dict[str, Any]:
    try:
        record = json.loads(_record_file(data_dir).read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
