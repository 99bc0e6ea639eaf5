"""The brain mask, and the regions of interest within it."""

import importlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from laion_fmri.base.bids import join_label
from laion_fmri.base.text import suggest
from laion_fmri.errors import (
    BucketError,
    DataNotDownloadedError,
    ImageError,
    InputTypeError,
    SelectionError,
    SelectionWarning,
    SubjectNotFoundError,
    list_some,
)
from laion_fmri.keys import key_table
from laion_fmri.subject.files import GLM, Files, Wanted, want
from laion_fmri.subject.images import Bools, Floats, read_volume, read_voxels

#: That of the betas.
RESOLUTION = "1pt8"
SOURCES = ("anatomical", "rsquare")


@dataclass(frozen=True)
class Brain:
    """A brain mask: ``values`` are bool over the grid, ``affine`` leads from voxel to mm."""

    values: Bools
    affine: npt.NDArray[np.float64]
    path: Path

    @cached_property
    def n_voxels(self) -> int:
        """How many voxels it has."""
        return int(np.count_nonzero(self.values))

    def cut(self, path: Path) -> Floats:
        """Return the values of an image of one volume within the mask."""
        values = read_voxels(path, self.values, self.affine)
        if len(values) != 1:
            raise ImageError(f"{path} has {len(values)} volumes where one is expected")
        first: Floats = values[0]
        return first

    def keep(self, chosen: Bools) -> Bools:
        """Return the mask over the grid of those of its voxels that are chosen."""
        values = np.zeros_like(self.values)
        values[self.values] = chosen
        return values


def anatomical_of(suffix: str, res: str | None, desc: str | None = None) -> Wanted:
    """Return the description of an anatomical image."""
    resolution = None if res is None else res.removeprefix("res-")
    return want("anatomical", space="T1w", res=resolution, desc=desc, suffix=suffix)


def read_brain(files: Files, source: str, res: str | None) -> Brain:
    """Read a brain mask; the mean-R2 map stands in for an anatomical one that cannot be had."""
    if source not in SOURCES:
        near = suggest(str(source), SOURCES)
        raise SelectionError(
            f"there is no brain mask {source!r}; {near}there is: {', '.join(SOURCES)}"
        )
    r2 = want(GLM, desc="R2mean", suffix="statmap")
    if source == "anatomical":
        anatomical = anatomical_of("mask", res, "brain")
        try:
            path = files.need(anatomical)[0]
        except (DataNotDownloadedError, SelectionError, SubjectNotFoundError) as error:
            # The map has the grid of the betas alone.
            if anatomical.entities["res"] != RESOLUTION or not (files.fetch or files.find(r2)):
                raise
            warnings.warn(
                f"the brain mask is made of the mean-R2 map, since there is no anatomical one: "
                f"{error}",
                SelectionWarning,
                stacklevel=4,
            )
        else:
            return _to_brain(path)
    return _to_brain(files.need(r2)[0])


def _to_brain(path: Path) -> Brain:
    volume, header = read_volume(path)
    brain = Brain((volume != 0) & ~np.isnan(volume), header.affine, path)
    if not brain.n_voxels:
        raise SelectionError(f"the brain mask {path} has no voxel that is not 0")
    return brain


class Regions:
    """The regions of interest of a subject, by label and category."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._known: dict[str, set[str]] | None = None

    def _list_here(self) -> dict[str, set[str]]:
        here: dict[str, set[str]] = {}
        for path, parsed in self._files.list_here("rois"):
            if parsed.label and ROI.matches(parsed):
                here.setdefault(path.parent.name, set()).add(parsed.label)
        return here

    def list_known(self) -> dict[str, set[str]]:
        """Return category -> labels: those that are here, and with `fetch` the bucket's."""
        if self._known is not None:
            return self._known
        known = self._list_here()
        if self._files.fetch:
            try:
                table = key_table(
                    f"sub-{self._files.subject}",
                    scope="rois",
                    data_dir=self._files.data_dir,
                    **{n: v for n, v in ROI.entities.items() if v},
                )
            except BucketError:
                if not known:
                    raise
            else:
                table = table[table["scope"] == "rois"].dropna(subset=["label"])
                for key, label in zip(table["key"], table["label"], strict=True):
                    known.setdefault(key.split("/")[-2], set()).add(label)
        if not known:
            raise self._files.explain([ROI])
        if self._files.fetch:
            self._known = known
        return known

    def find_labels(self, query: object) -> list[str]:
        """Return the labels that a label, a category, ``"all"`` or a list of these names."""
        asked: list[Any] = [query]
        if isinstance(query, Iterable) and not isinstance(query, str):
            asked = list(query)
        for one in asked:
            if not isinstance(one, str):
                raise InputTypeError(
                    f"a region of interest is a str such as 'FFA1', a category or a list, "
                    f"not {one!r}"
                )
        if not asked:
            raise SelectionError("the list of regions of interest is empty; name one, or 'all'")
        labels = [join_label("label", one.removeprefix("label-")) for one in asked]
        if set(labels) <= set().union(*self._list_here().values()):
            return list(dict.fromkeys(labels))  # the bucket is not asked
        known = self.list_known()
        everything = sorted(set().union(*known.values()))
        found: list[str] = []
        for one, label in zip(asked, labels, strict=True):
            if label in everything:
                found.append(label)
            elif one == "all":
                found += everything
            elif one in known:
                found += sorted(known[one])
            else:
                near = suggest(label, [*everything, *known])
                raise SelectionError(
                    f"there is no region of interest or category {one!r} of "
                    f"sub-{self._files.subject}; {near}regions: {list_some(everything, 60)}; "
                    f"categories: {list_some(sorted(known))}"
                )
        return list(dict.fromkeys(found))

    def find_labels_of(self, category: str) -> list[str]:
        """Return the labels of a category, sorted."""
        known = self.list_known()
        if category not in known:
            near = suggest(str(category), known)
            raise SelectionError(
                f"there is no category {category!r} of regions of interest; {near}there is: "
                f"{list_some(sorted(known))}"
            )
        return sorted(known[category])

    def find_masks(self, labels: list[str]) -> dict[str, list[Path]]:
        """Return label -> its masks in volumes; more than one if two categories have it."""
        wanted = [make_roi(label) for label in labels]
        self._files.need(*wanted)
        return {label: self._files.find(one) for label, one in zip(labels, wanted, strict=True)}

    def find_surfaces(self, labels: list[str], extension: str, hemi: str) -> list[Path]:
        """Return the file of each label on the surface of a hemisphere."""
        entities = {"space": "fsnative", "hemi": hemi, "suffix": "mask", "extension": extension}
        return self._files.need(*(want("rois", label=label, **entities) for label in labels))


#: Any mask of a region of interest on the grid of the betas.
ROI = want("rois", space="T1w", res=RESOLUTION, suffix="mask")


def make_roi(label: str) -> Wanted:
    """Return the description of the mask of a region of interest."""
    return want("rois", **{**ROI.entities, "label": label})


def read_surface(path: Path) -> npt.NDArray[Any]:
    """Return the values of a ``.func.gii``, or the numbers of the vertices of a ``.label``."""
    nibabel: Any = importlib.import_module("nibabel")
    if path.name.endswith(".label"):
        return np.atleast_1d(np.asarray(nibabel.freesurfer.read_label(path), np.int64))
    return np.asarray(nibabel.load(path).darrays[0].data, np.float32)
