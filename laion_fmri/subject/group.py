"""Several subjects at once."""

from collections.abc import Iterable, Iterator
from typing import Any

from laion_fmri.base.files import StrPath
from laion_fmri.errors import InputTypeError, SelectionError, list_some
from laion_fmri.subject.files import read_label
from laion_fmri.subject.images import Floats
from laion_fmri.subject.person import Subject, load_subject


def load_subjects(
    subjects: Iterable[str], data_dir: StrPath | None = None, *, fetch: bool = True, n_jobs: int = 1
) -> "Group":
    """Return several subjects, see :func:`laion_fmri.subject.load_subject`.

    Parameters
    ----------
    subjects : list of str
        Such as ``["sub-01", "03"]``.
    data_dir, fetch, n_jobs
        As for :func:`laion_fmri.subject.load_subject`.

    Raises
    ------
    SelectionError, InputTypeError
        If the list is empty, or not of str; and what loading one of them raises.
    """
    if isinstance(subjects, str) or not isinstance(subjects, Iterable):
        raise InputTypeError(f"subjects={subjects!r} is not a list such as ['sub-01', 'sub-03']")
    loaded = [load_subject(one, data_dir, fetch=fetch, n_jobs=n_jobs) for one in subjects]
    if not loaded:
        raise SelectionError("the list of subjects is empty; name one")
    return Group(loaded)


class Group:
    """Several subjects: iterates ``(id, Subject)``; ``group["sub-03"]`` is one of them."""

    def __init__(self, subjects: Iterable[Subject]) -> None:
        self._subjects = {subject.subject_id: subject for subject in subjects}

    def __iter__(self) -> Iterator[tuple[str, Subject]]:
        return iter(self._subjects.items())

    def __len__(self) -> int:
        return len(self._subjects)

    def __getitem__(self, subject: str) -> Subject:
        found = self._subjects.get(f"sub-{read_label('sub', subject)}")
        if found is None:
            raise SelectionError(
                f"{subject!r} is not in the group; there is: {list_some(list(self._subjects))}"
            )
        return found

    def __repr__(self) -> str:
        return f"Group({', '.join(self._subjects)})"

    def get_shared_betas(self, session: str, **options: Any) -> dict[str, Floats]:
        """Return subject -> the betas of the trials of images that all subjects saw.

        `options` are those of :meth:`laion_fmri.subject.Subject.get_betas`, of which this is
        ``stimuli="shared"``: float32 ``(n_trials, n_voxels)`` for each subject, whose voxels are
        its own.
        """
        return {
            name: subject.get_betas(session, stimuli="shared", **options) for name, subject in self
        }
