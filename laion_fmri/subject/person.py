"""``load_subject()``: the files of a subject as arrays."""

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np

from laion_fmri.base.files import StrPath
from laion_fmri.base.kinds import check_workers
from laion_fmri.base.text import suggest
from laion_fmri.config import get_data_dir
from laion_fmri.dataset import make_scope
from laion_fmri.discovery import get_subjects
from laion_fmri.errors import (
    InputTypeError,
    MismatchError,
    MissingDependencyError,
    SelectionError,
    SubjectNotFoundError,
    list_some,
)
from laion_fmri.subject.anatomy import Anatomy, unite
from laion_fmri.subject.brain import Brain
from laion_fmri.subject.files import GLM, Files, read_label, want
from laion_fmri.subject.images import Bools, Floats
from laion_fmri.subject.trials import (
    Sessions,
    Trials,
    by_session,
    read_all_trials,
    read_sessions,
    read_trials,
)

if TYPE_CHECKING:
    import pandas as pd


def load_subject(
    subject: str, data_dir: StrPath | None = None, *, fetch: bool = True, n_jobs: int = 1
) -> "Subject":
    """Return a subject, whose methods load its files as arrays.

    Parameters
    ----------
    subject : str
        ``"sub-03"`` or ``"03"``.
    data_dir : path, optional
        The data directory; the chosen one by default.
    fetch : bool
        Whether to download what a call needs and is not here, as
        :func:`laion_fmri.download.download` does it. What is here is not compared with the bucket.
    n_jobs : int
        How many files are downloaded at once.

    Raises
    ------
    SubjectNotFoundError
        If nothing of the subject is here, and the bucket does not have it, or is not to be asked.
    MissingDependencyError
        If the extra ``load`` is not installed.
    DataDirNotSetError, DataDirError, InputTypeError, SelectionError, BucketError
    """
    if importlib.util.find_spec("nibabel") is None:
        raise MissingDependencyError("Loading needs nibabel: pip install 'laion-fmri[load]'")
    label, folder = read_label("sub", subject), get_data_dir(data_dir)
    scopes = [make_scope(name) for name in (GLM, "rois", "anatomical")]
    if not any((folder / scope.prefix_of(label)).is_dir() for scope in scopes):
        here = sorted({p.name for p in folder.glob("derivatives/*/sub-*")})
        if not fetch:
            near = suggest(f"sub-{label}", here)
            raise SubjectNotFoundError(
                f"nothing of sub-{label} is in {folder}; {near}here: {list_some(here) or 'nobody'};"
                f" fetch it: laion-fmri download --subject sub-{label} --data-dir {folder}"
            )
        known = get_subjects()
        if f"sub-{label}" not in known:
            near = suggest(f"sub-{label}", known)
            raise SubjectNotFoundError(
                f"there is no subject 'sub-{label}'; {near}there is: {list_some(known)}"
            )
    return Subject(Files(label, folder, fetch, check_workers("n_jobs", n_jobs)))


class Subject(Anatomy):
    """One subject. Made by :func:`load_subject`.

    Wherever values lie along voxels, these are the voxels of the brain mask in the C order of its
    grid (that of ``mask.ravel()``). Values are those of the file, scaled as its header says; NaN
    stays NaN. What a method needs and is not here is downloaded first, unless the subject was
    loaded with ``fetch=False``: then DataNotDownloadedError has the command. An image that is cut
    short or damaged is an ImageError, one on another grid than the mask a MismatchError. Files are
    named below ``derivatives/glmsingle-tedana/sub-XX/`` unless said otherwise.

    Attributes
    ----------
    subject_id : str
        Such as ``"sub-03"``.
    """

    def __repr__(self) -> str:
        return f"Subject({self.subject_id!r}, {str(self._files.data_dir)!r})"

    def get_sessions(self) -> list[str]:
        """Return the sessions of which betas are here, such as ``["ses-01"]``, sorted.

        They are those with ``ses-YY/func/*_desc-SingletrialBetas_statmap.nii.gz``.
        """
        return self._files.list_sessions()

    def get_betas(
        self,
        session: Sessions,
        roi: str | list[str] | None = None,
        mask: Bools | None = None,
        nc_threshold: float | None = None,
        stimuli: str | None = None,
        streaming: bool = False,
        mask_source: str = "anatomical",
        n_jobs: int = 1,
    ) -> Any:
        """Load single-trial betas: ``ses-YY/func/*_desc-SingletrialBetas_statmap.nii.gz``.

        The image is read once, volume by volume, and only the wanted voxels are kept. One that was
        decompressed beside it (``.nii``), and is as new, takes its place.

        Parameters
        ----------
        session : str or list of str
            ``"ses-01"`` or ``"01"``; a list gives a dict.
        roi : str or list of str, optional
            Only voxels of these regions, see :meth:`get_roi_mask`. Not together with `mask`.
        mask : numpy.ndarray of bool, optional
            ``(n_brain_voxels,)``: only these voxels of the brain mask.
        nc_threshold : float, optional
            Only voxels whose noise ceiling in the session is at least this, in percent (0 to 100).
        stimuli : {"shared", "unique"}, optional
            Only trials whose ``label`` in the trial table begins with ``shared_``, or the others.
        streaming : bool
            Without effect: every image is streamed.
        mask_source : {"anatomical", "rsquare"}
            The brain mask, see :meth:`get_brain_mask`.
        n_jobs : int
            How many sessions are read at once.

        Returns
        -------
        numpy.ndarray of float32, or dict of them
            ``(n_trials, n_voxels)`` in the units of the file; for a list of sessions, a dict by
            session (``"ses-01"``), since their numbers of trials differ.

        Raises
        ------
        SelectionError
            If there is no such session, region or kind of stimuli, both `roi` and `mask` are
            given, or no voxel is left.
        MismatchError
            If the mask, the trial table and the images do not fit together.
        InputTypeError
            If the mask is not of bool, or the threshold no number.
        DataNotDownloadedError, ImageError
        """
        if stimuli not in (None, "shared", "unique"):
            raise SelectionError(f"stimuli={stimuli!r} is neither 'shared', 'unique' nor None")
        if roi is not None and mask is not None:
            raise SelectionError("roi and mask cannot both be given; give one of them")
        labels, brain = by_session(session), self._brain(mask_source)
        chosen = self._choose(brain, roi, mask)
        trials = Trials(self._files, stimuli)
        trials.need(labels)
        ceilings = self._read_ceilings(labels, brain, nc_threshold)
        masks = {
            label: brain.keep(_keep_above(chosen, ceilings.get(label), nc_threshold, label))
            for label in labels
        }
        found = read_sessions(trials, masks, brain.affine, check_workers("n_jobs", n_jobs))
        return found[f"ses-{labels[0]}"] if isinstance(session, str) else found

    def get_noise_ceiling(
        self,
        session: str | None = None,
        desc: str | None = None,
        mask_source: str = "anatomical",
    ) -> Floats:
        """Return the noise ceiling of each voxel of the brain mask, in percent.

        Parameters
        ----------
        session : str, optional
            ``ses-YY/func/*_desc-Noiseceiling_statmap.nii.gz``, or that with another `desc`.
        desc : str, optional
            Without a session: a map over all sessions, ``*_desc-<desc>_statmap.nii.gz``, such as
            ``"Noiseceiling4rep"``.

        Returns
        -------
        numpy.ndarray of float32
            ``(n_brain_voxels,)``, 0 to 100.

        Raises
        ------
        SelectionError
            If neither a session nor a desc is given.
        DataNotDownloadedError
            If there is no such map; the message lists those that are here.
        MismatchError, ImageError
        """
        if session is None and desc is None:
            raise SelectionError(
                "a noise ceiling is that of a session or of a desc; give one, such as "
                "session='ses-01' or desc='Noiseceiling4rep'"
            )
        ses = None if session is None else read_label("ses", session)
        bare = (desc or "Noiseceiling").removeprefix("desc-")
        wanted = want(GLM, ses, desc=bare, suffix="statmap")
        return self._brain(mask_source).cut(self._files.need(wanted)[0])

    def get_trial_info(self, session: Sessions) -> Any:
        """Return the trial table of a session: row i is that of ``betas[i]``.

        Parameters
        ----------
        session : str or list of str
            A list gives a dict by session.

        Returns
        -------
        pandas.DataFrame, or dict of them
            The columns of ``ses-YY/func/*_desc-SingletrialBetas_trials.tsv``, such as ``session``,
            ``run``, ``beta_index`` and ``label``.

        Raises
        ------
        MismatchError
            If the table has another length than the image, if that is here, or is not a table.
        DataNotDownloadedError, SelectionError, InputTypeError
        """
        found = read_trials(self._files, by_session(session))
        return next(iter(found.values())) if isinstance(session, str) else found

    @property
    def metadata(self) -> "pd.DataFrame":
        """The trial tables of all sessions in one, in the order of the sessions.

        Those are ``ses-YY/func/*_desc-SingletrialBetas_trials.tsv``. A column ``session`` is added
        where the tables have none. Errors are those of :meth:`get_trial_info`.
        """
        return read_all_trials(self._files)

    def _choose(self, brain: Brain, roi: str | list[str] | None, mask: Bools | None) -> Bools:
        """Return which voxels of the brain a region or a mask keeps; all without either."""
        if roi is not None:
            chosen = unite(self._read_rois(roi, brain).values())
            what = f"the region of interest {roi!r}"
        elif mask is not None:
            chosen, what = np.asarray(mask), "the mask"
            if chosen.dtype != np.bool_:
                raise InputTypeError(f"the mask has to be of bool, and is of {chosen.dtype}")
            if chosen.shape != (brain.n_voxels,):
                raise MismatchError(
                    f"the mask has the shape {chosen.shape}, and the brain mask has "
                    f"{brain.n_voxels} voxels; give one value for each"
                )
        else:
            return np.ones(brain.n_voxels, np.bool_)
        if not chosen.any():
            raise SelectionError(f"{what} keeps no voxel of the brain mask {brain.path}")
        return chosen

    def _read_ceilings(
        self, labels: list[str], brain: Brain, threshold: object
    ) -> dict[str, Floats]:
        if threshold is None:
            return {}
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float, np.number)):
            raise InputTypeError(f"nc_threshold={threshold!r} is not a number from 0 to 100")
        wanted = [want(GLM, ses, desc="Noiseceiling", suffix="statmap") for ses in labels]
        paths = self._files.need(*wanted)
        return {label: brain.cut(path) for label, path in zip(labels, paths, strict=True)}


def _keep_above(chosen: Bools, ceiling: Floats | None, threshold: float | None, ses: str) -> Bools:
    if ceiling is None or threshold is None:
        return chosen
    kept: Bools = chosen & (ceiling >= threshold)
    if not kept.any():
        inside = ceiling[chosen & ~np.isnan(ceiling)]
        most = f"{inside.max():.1f}" if len(inside) else "no number"
        raise SelectionError(
            f"nc_threshold={threshold} keeps none of {np.count_nonzero(chosen)} voxels of "
            f"ses-{ses}; the highest noise ceiling there is {most} (values run 0 to 100)"
        )
    return kept
