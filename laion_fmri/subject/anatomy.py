"""What a subject has beside its trials: brain masks, regions of interest, anatomical images."""

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from laion_fmri.base.files import StrPath, expand_path
from laion_fmri.base.text import suggest
from laion_fmri.errors import DataDirError, MismatchError, SelectionError
from laion_fmri.subject.brain import (
    RESOLUTION,
    Brain,
    Regions,
    anatomical_of,
    read_brain,
    read_surface,
)
from laion_fmri.subject.files import Files
from laion_fmri.subject.images import Bools, Floats, read_volume

_SURFACES = {"gii": "func.gii", "func.gii": "func.gii", "label": "label"}
_FORMATS = ("volume", *_SURFACES)


class Anatomy:
    """The masks and images of a subject that belong to no session."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._regions = Regions(files)
        self._brains: dict[tuple[str, str | None], Brain] = {}
        self.subject_id = f"sub-{files.subject}"

    def get_brain_mask(self, source: str = "anatomical", res: str | None = RESOLUTION) -> Bools:
        """Return the brain mask: bool, flat over the grid in C order.

        Parameters
        ----------
        source : {"anatomical", "rsquare"}
            ``derivatives/anatomical/sub-XX/**/*_space-T1w[_res-1pt8]_desc-brain_mask.nii.gz``, or
            the voxels of ``*_stat-rsquare_desc-R2mean_statmap.nii.gz`` that are not 0 (nor NaN).
        res : str or None
            Of the anatomical mask; None is the full resolution.

        Returns
        -------
        numpy.ndarray of bool
            ``(x * y * z,)``; ``reshape`` with the shape of the image gives the grid.

        Raises
        ------
        SelectionError
            If the source is another one, or the mask is empty.
        DataNotDownloadedError, ImageError

        Warns
        -----
        SelectionWarning
            If there is no anatomical mask, and the mean-R2 map stands in for it.
        """
        return self._brain(source, res).values.ravel()

    def get_n_voxels(self, source: str = "anatomical") -> int:
        """Return how many voxels the brain mask has, with the files and errors of its method.

        See :meth:`get_brain_mask`.
        """
        return self._brain(source).n_voxels

    def get_roi_mask(self, query: str | list[str], mask_source: str = "anatomical") -> Bools:
        """Return which voxels of the brain mask are in regions of interest, united.

        Parameters
        ----------
        query : str or list of str
            A label (``"FFA1"`` or ``"FFA-1"``), a category (``"face"``), ``"all"``, or a list of
            these.
        mask_source : {"anatomical", "rsquare"}
            The brain mask, see :meth:`get_brain_mask`.

        Returns
        -------
        numpy.ndarray of bool
            ``(n_brain_voxels,)``, from ``derivatives/rois/sub-XX/<category>/``
            ``*_space-T1w_res-1pt8_label-<label>_mask.nii.gz``, where it is not 0.

        Raises
        ------
        SelectionError
            If there is no such label or category; the message lists both.
        InputTypeError
            If a label is not a str.
        MismatchError
            If a mask lies on another grid than the brain mask.
        DataNotDownloadedError, ImageError
        """
        masks = self._read_rois(query, self._brain(mask_source))
        return unite(masks.values())

    def get_roi_masks(
        self, query: str | list[str], mask_source: str = "anatomical"
    ) -> dict[str, Bools]:
        """Return label -> its mask, bool ``(n_brain_voxels,)``.

        Files, arguments and errors are those of :meth:`get_roi_mask`.
        """
        return self._read_rois(query, self._brain(mask_source))

    def get_available_rois(self, category: str | None = None) -> list[str]:
        """Return the labels, all or those of a category, without hyphens, sorted.

        They are those of the masks in ``derivatives/rois/sub-XX/<category>/``: what is here, and
        with ``fetch`` what the bucket has. Another category is a SelectionError that lists all.
        """
        if category is not None:
            return self._regions.find_labels_of(category)
        return sorted(set().union(*self._regions.list_known().values()))

    def get_available_categories(self) -> list[str]:
        """Return the categories of regions of interest: folders of ``derivatives/rois/sub-XX/``."""
        return sorted(self._regions.list_known())

    def get_roi_data(
        self,
        query: str | list[str],
        format: str | None = None,  # noqa: A002
        hemi: str | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Return the regions of interest as they are in their files.

        Parameters
        ----------
        query : str or list of str
            As for :meth:`get_roi_mask`.
        format : {"volume", "gii", "func.gii", "label"}, optional
            All by default; ``"gii"`` is ``"func.gii"``.
        hemi : {"L", "R"}, optional
            Of the surfaces; both by default.

        Returns
        -------
        dict
            ``data[label][format]``: for ``"volume"`` bool ``(x, y, z)`` of
            ``*_space-T1w_res-1pt8_label-<label>_mask.nii.gz``; for a surface, a dict by hemisphere:
            of ``*_space-fsnative_label-<label>_mask.func.gii`` float32, one value a vertex; of
            ``.label`` the numbers of its vertices.

        Raises
        ------
        SelectionError
            If there is no such region, format or hemisphere; the message lists what there is.
        InputTypeError, DataNotDownloadedError, ImageError
        """
        _check_choice("format", format, _FORMATS)
        _check_choice("hemi", hemi, ("L", "R"))
        labels = self._regions.find_labels(query)
        found: dict[str, dict[str, Any]] = {label: {} for label in labels}
        if format in (None, "volume"):
            for label, paths in self._regions.find_masks(labels).items():
                found[label]["volume"] = unite(_read_mask(p) for p in paths)
        for name in ("func.gii", "label") if format is None else (format,):
            for side in ("L", "R") if hemi is None else (hemi,):
                if name not in _SURFACES:
                    continue
                paths = self._regions.find_surfaces(labels, _SURFACES[name], side)
                for label, path in zip(labels, paths, strict=True):
                    found[label].setdefault(name, {})[side] = read_surface(path)
        return found

    def get_t1w(self, res: str | None = RESOLUTION) -> Floats:
        """Return the T1w image: float32 ``(x, y, z)`` in the scanner's units.

        It is ``derivatives/anatomical/sub-XX/**/*_space-T1w[_res-1pt8]_T1w.nii.gz``; ``res=None``
        is the full resolution. Raises DataNotDownloadedError or ImageError.
        """
        return read_volume(self._files.need(anatomical_of("T1w", res))[0])[0]

    def get_t2w(self, res: str | None = RESOLUTION) -> Floats:
        """Return the T2w image: float32 ``(x, y, z)`` in the scanner's units.

        It is ``derivatives/anatomical/sub-XX/**/*_space-T1w[_res-1pt8]_T2w.nii.gz``; ``res=None``
        is the full resolution. Raises DataNotDownloadedError or ImageError.
        """
        return read_volume(self._files.need(anatomical_of("T2w", res))[0])[0]

    def get_voxel_coordinates(self, mask_source: str = "anatomical") -> npt.NDArray[np.float64]:
        """Return where each voxel of the brain mask lies: ``(n_voxels, 3)``, x, y, z in mm.

        float64, from the affine of the mask's image. Files and errors are those of
        :meth:`get_brain_mask`.
        """
        brain = self._brain(mask_source)
        places = np.argwhere(brain.values) @ brain.affine[:3, :3].T + brain.affine[:3, 3]
        return np.asarray(places, np.float64)

    def to_nifti(
        self, values: npt.NDArray[Any], path: StrPath, mask_source: str = "anatomical"
    ) -> Path:
        """Write values of the brain's voxels as an image, 0 outside of the mask.

        Parameters
        ----------
        values : numpy.ndarray
            ``(n_brain_voxels,)``, or ``(n, n_brain_voxels)`` for `n` volumes; written as float32.
        path : path
            ``.nii`` or ``.nii.gz``; an existing file is replaced.

        Returns
        -------
        pathlib.Path
            The image, on the grid of the brain mask.

        Raises
        ------
        MismatchError
            If there is not one value for each voxel of the brain.
        SelectionError
            If the name does not end like that of an image.
        DataDirError
            If the image cannot be written.
        """
        brain, given = self._brain(mask_source), np.asarray(values)
        file = expand_path(path)
        if given.ndim not in (1, 2) or given.shape[-1] != brain.n_voxels:
            raise MismatchError(
                f"the values have the shape {given.shape}, and the brain mask has "
                f"{brain.n_voxels} voxels; give one value for each, along the last axis"
            )
        if not file.name.endswith((".nii", ".nii.gz")):
            raise SelectionError(f"{file} is not a valid image name; end it in .nii or .nii.gz")
        volume = np.zeros((*brain.values.shape, *given.shape[:-1]), np.float32)
        volume[brain.values] = given.T
        nibabel: Any = importlib.import_module("nibabel")
        try:
            nibabel.save(nibabel.Nifti1Image(volume, brain.affine), file)
        except OSError as error:
            raise DataDirError(f"{file} cannot be written: {error.strerror or error}") from None
        return file

    def _brain(self, source: str, res: str | None = RESOLUTION) -> Brain:
        if (source, res) not in self._brains:
            self._brains[source, res] = read_brain(self._files, source, res)
        return self._brains[source, res]

    def _read_rois(self, query: str | list[str], brain: Brain) -> dict[str, Bools]:
        files = self._regions.find_masks(self._regions.find_labels(query))
        return {
            label: unite(_is_in(brain.cut(path)) for path in paths)
            for label, paths in files.items()
        }


def _is_in(values: Floats) -> Bools:
    return np.asarray((values != 0) & ~np.isnan(values), np.bool_)


def _read_mask(path: Path) -> Bools:
    return _is_in(read_volume(path)[0])


def _check_choice(name: str, value: object, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        near = suggest(str(value), known)
        raise SelectionError(f"{name}={value!r} is not known; {near}there is: {', '.join(known)}")


def unite(masks: Iterable[Bools]) -> Bools:
    """Return which places any of the masks has."""
    return np.asarray(np.logical_or.reduce(list(masks)), np.bool_)
