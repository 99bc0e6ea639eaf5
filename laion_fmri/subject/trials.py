"""Trial tables, and the betas of several sessions."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from laion_fmri.errors import (
    BucketError,
    InputTypeError,
    MismatchError,
    SelectionError,
    list_some,
)
from laion_fmri.keys import key_table
from laion_fmri.subject.files import GLM, Files, betas_of, read_label, trials_of
from laion_fmri.subject.images import Bools, Floats, read_header, read_voxels

if TYPE_CHECKING:
    import pandas as pd

Sessions = str | Iterable[str]


def by_session(session: Sessions) -> list[str]:
    """Return the labels of one session or of several, each once."""
    if not isinstance(session, (str, Iterable)):
        raise InputTypeError(f"session has to be a str such as 'ses-01', and is {session!r}")
    given = [session] if isinstance(session, str) else list(session)
    if not given:
        raise SelectionError("the list of sessions is empty; name one")
    return list(dict.fromkeys(read_label("ses", one) for one in given))


def read_trials(files: Files, labels: list[str]) -> dict[str, "pd.DataFrame"]:
    """Return session -> its trial table; the tables are compared with the images that are here."""
    tables = [_read_table(path) for path in files.need(*map(trials_of, labels))]
    for label, table in zip(labels, tables, strict=True):
        for image in files.find(betas_of(label)):
            check_length(table, image, read_header(image).n_volumes)
    return {f"ses-{label}": table for label, table in zip(labels, tables, strict=True)}


def read_all_trials(files: Files) -> "pd.DataFrame":
    """Return the tables of all sessions in one: those of the bucket, or else those here."""
    import pandas as pd

    labels = [name.removeprefix("ses-") for name in files.list_sessions()]
    if files.fetch:
        try:
            table = key_table(
                f"sub-{files.subject}",
                scope=GLM,
                desc="SingletrialBetas",
                suffix="trials",
                extension="tsv",
                data_dir=files.data_dir,
            )
        except BucketError:
            if not labels:
                raise
        else:
            labels = sorted({*labels, *table.loc[table["scope"] == GLM, "ses"].dropna()})
    if not labels:
        raise files.explain([trials_of("01")])
    tables = read_trials(files, labels)
    for name, table in tables.items():
        if "session" not in table:
            table.insert(0, "session", name)
    return pd.concat(tables.values(), ignore_index=True)


def _read_table(path: Path) -> "pd.DataFrame":
    import pandas as pd

    try:
        table = pd.read_csv(path, sep="\t")
    except (ValueError, OSError) as error:
        raise MismatchError(
            f"{path} is not a valid trial table ({error}); fetch it again: "
            "laion-fmri verify --repair"
        ) from None
    table.attrs["path"] = str(path)
    if "beta_index" in table and not table["beta_index"].is_monotonic_increasing:
        table = table.sort_values("beta_index", kind="stable", ignore_index=True)
    return table


def check_length(table: "pd.DataFrame", image: Path, n_volumes: int) -> None:
    """Raise MismatchError unless a trial table has a row for each volume."""
    if len(table) != n_volumes:
        raise MismatchError(
            f"{table.attrs['path']} has {len(table)} trials, and {image} has {n_volumes} volumes; "
            "check both: laion-fmri verify --repair"
        )


class Trials:
    """Which trials of a session to keep: those of ``"shared"`` or ``"unique"`` images, or all."""

    def __init__(self, files: Files, stimuli: str | None) -> None:
        self._files, self._stimuli = files, stimuli

    def need(self, labels: list[str]) -> None:
        """Fetch the images, and the tables if they are needed."""
        tables = map(trials_of, labels) if self._stimuli else ()
        self._files.need(*map(betas_of, labels), *tables)

    def find_image(self, label: str) -> Path:
        """Return the image of the betas of a session."""
        return self._files.find(betas_of(label))[0]

    def choose(self, label: str) -> Bools | None:
        """Return which volumes to keep; None for all."""
        image = self.find_image(label)
        for path in self._files.find(trials_of(label)):
            table = _read_table(path)
            check_length(table, image, read_header(image).n_volumes)
            if self._stimuli:
                return self._find_rows(table)
        return None

    def _find_rows(self, table: "pd.DataFrame") -> Bools:
        if "label" not in table:
            raise SelectionError(
                f"{table.attrs['path']} has no column 'label', which tells shared from unique "
                f"images; there is: {list_some(list(map(str, table.columns)))}"
            )
        shared = table["label"].astype(str).str.startswith("shared_").to_numpy(np.bool_)
        return shared if self._stimuli == "shared" else ~shared


def read_sessions(
    trials: Trials, masks: dict[str, Bools], affine: npt.NDArray[np.float64], n_jobs: int
) -> dict[str, Floats]:
    """Read the voxels of each session's own mask, `n_jobs` sessions at once."""

    def read(label: str) -> Floats:
        chosen = trials.choose(label)
        return read_voxels(trials.find_image(label), masks[label], affine, chosen)

    if n_jobs == 1 or len(masks) == 1:
        return {f"ses-{label}": read(label) for label in masks}
    with ThreadPoolExecutor(n_jobs) as pool:
        return dict(zip((f"ses-{label}" for label in masks), pool.map(read, masks), strict=True))
