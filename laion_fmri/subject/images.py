"""Reads the wanted voxels of a NIfTI image in one pass, with little memory.

A compressed image is decompressed once, a part of a volume at a time; of an uncompressed one, only
the pages are read that hold wanted voxels. Beside the result, less than a volume is in memory, and
where the wanted voxels are.
"""

import contextlib
import gzip
import importlib
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from laion_fmri.base.files import StrPath
from laion_fmri.errors import ImageError, MismatchError

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

#: The number of a volume, the place of the first of these values in it, and values.
Part = tuple[int, int, npt.NDArray[Any]]
#: Bytes that are decompressed at once: few enough to stay in the cache of a processor, and whole
#: values of any type.
PART = 1 << 19
#: How far two affines may differ and be those of one grid, in mm.
TOLERANCE = 1e-3
#: Bytes at the beginning of a file that hold the header of NIfTI-1 and of NIfTI-2.
_SIZES = {348: "Nifti1Header", 540: "Nifti2Header"}


@dataclass(frozen=True)
class Header:
    """What the header of an image says.

    Attributes
    ----------
    shape : tuple of int
        Of the grid.
    n_volumes : int
    affine : numpy.ndarray
        4 x 4, from voxel to mm.
    dtype : numpy.dtype
        Of the values in the file, with their byte order.
    offset : int
        Byte at which the values begin.
    slope, inter : float
        A value in the file times `slope`, plus `inter`, is the value of the voxel.
    """

    shape: tuple[int, ...]
    n_volumes: int
    affine: npt.NDArray[np.float64]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    inter: float

    @property
    def volume_bytes(self) -> int:
        """How many bytes one volume takes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def read_header(path: StrPath) -> Header:
    """Return what the header of the image at `path` says; ImageError if it cannot be read."""
    with _open(path) as stream:
        return _parse_header(stream, path)


def read_voxels(
    path: StrPath,
    mask: Bools,
    affine: npt.NDArray[np.float64] | None = None,
    volumes: Bools | None = None,
) -> Floats:
    """Read the voxels of an image that a mask keeps.

    Parameters
    ----------
    path : path
        A NIfTI image, ``.nii`` or ``.nii.gz``, of three dimensions or more.
    mask : numpy.ndarray of bool
        Over the grid of the image.
    affine : numpy.ndarray, optional
        The affine of the mask, 4 x 4 in mm, to be compared with that of the image.
    volumes : numpy.ndarray of bool, optional
        Which volumes to keep; all by default.

    Returns
    -------
    numpy.ndarray of float32
        ``(n_volumes, n_voxels)``: values as the header scales them, voxels in the C order of the
        mask. NaN stays NaN.

    Raises
    ------
    ImageError
        If the image is cut short, damaged or not a NIfTI image of numbers.
    MismatchError
        If the mask has another shape or affine than the image, or there are not as many `volumes`.
    """
    with _open(path) as stream:
        header = _parse_header(stream, path)
        check_grid(path, header, mask.shape, affine)
        if volumes is not None and len(volumes) != header.n_volumes:
            raise MismatchError(
                f"{os.fspath(path)} has {header.n_volumes} volumes, and {len(volumes)} were told "
                "apart; give one value for each"
            )
        # The file has the first axis fastest, a mask in C order the last.
        index = np.ravel_multi_index(np.nonzero(mask), mask.shape, order="F")
        kept = range(header.n_volumes) if volumes is None else np.flatnonzero(volumes).tolist()
        result = np.empty((len(kept), len(index)), np.float32)
        source = _read_volumes(stream, header, path, kept)
        rows = dict(zip(kept, result, strict=True))
        places = _Places(index)
        # A cast to float32 may overflow to infinity, as it does for a whole array.
        with np.errstate(all="ignore"):
            for number, start, values in source:
                if number in rows:
                    targets, sources = places.find(start, len(values))
                    if len(targets):
                        rows[number][targets] = _scale(np.take(values, sources), header)
                # So that the next part takes the same memory, which is still in the cache.
                del values
    return result


class _Places:
    """Where the wanted voxels are in each part of a volume, and in the result."""

    def __init__(self, index: npt.NDArray[np.intp]) -> None:
        self._order = np.argsort(index, kind="stable")
        self._index = index[self._order]
        self._found: dict[int, tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]] = {}

    def find(self, start: int, count: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return the places in a row of the result, and those in the part; of every volume."""
        if start not in self._found:
            low, high = np.searchsorted(self._index, [start, start + count]).tolist()
            self._found[start] = self._order[low:high], self._index[low:high] - start
        return self._found[start]


def read_volume(path: StrPath) -> tuple[Floats, Header]:
    """Return an image of one volume as float32 ``(x, y, z)``, and its header."""
    with _open(path) as stream, np.errstate(all="ignore"):
        header = _parse_header(stream, path)
        if header.n_volumes != 1:
            raise ImageError(
                f"{os.fspath(path)} has {header.n_volumes} volumes where one is expected"
            )
        result = np.empty(np.prod(header.shape), np.float32)
        for _, start, values in _read_volumes(stream, header, path, [0]):
            result[start : start + len(values)] = _scale(values, header)
    return np.ascontiguousarray(result.reshape(header.shape, order="F")), header


def check_grid(
    path: StrPath,
    header: Header,
    shape: Sequence[int],
    affine: npt.NDArray[np.float64] | None = None,
) -> None:
    """Raise MismatchError unless an image has the grid of a mask."""
    if tuple(shape) != header.shape:
        raise MismatchError(
            f"the mask has the shape {_spell(shape)}, and {os.fspath(path)} has "
            f"{_spell(header.shape)}; take a mask of the same grid"
        )
    if affine is not None and not np.allclose(affine, header.affine, rtol=0, atol=TOLERANCE):
        most = float(np.abs(affine - header.affine).max())
        raise MismatchError(
            f"the mask and {os.fspath(path)} have the same shape and lie on different grids: "
            f"their affines differ by up to {most:.3g} mm; take a mask of the same grid"
        )


def _spell(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _is_compressed(path: StrPath) -> bool:
    return os.fspath(path).endswith(".gz")


@contextlib.contextmanager
def _open(path: StrPath) -> Iterator[IO[bytes]]:
    """Open an image, decompressed; what goes wrong while it is read names the file."""
    errors: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
    opened: Any = open
    if _is_compressed(path):
        opened = gzip.open
        with contextlib.suppress(ImportError):
            opened = importlib.import_module("isal.igzip").open
            errors += (importlib.import_module("isal.isal_zlib").error,)
    try:
        with opened(path, "rb") as stream:
            yield stream
    except errors as error:
        raise _damaged(path, str(error)) from None
    except OSError as error:
        if isinstance(error, ImageError):
            raise
        reason = error.strerror or str(error)
        raise ImageError(f"{os.fspath(path)} cannot be read: {reason}") from None


def _damaged(path: StrPath, reason: str) -> ImageError:
    advice = "remove it, so that the compressed image is read"
    if _is_compressed(path):
        advice = "fetch it again: laion-fmri verify --repair"
    reason = reason.rstrip(".")
    return ImageError(f"{os.fspath(path)} is cut short or damaged ({reason}); {advice}")


def _parse_header(stream: IO[bytes], path: StrPath) -> Header:
    nibabel: Any = importlib.import_module("nibabel")
    start = stream.read(348)
    size = _find_size(start)
    content = start + stream.read(max(size - 348, 0))
    if not size or len(content) < size:
        raise _damaged(path, "no header of a NIfTI image")
    try:
        header = getattr(nibabel, _SIZES[size]).from_fileobj(io.BytesIO(content), check=False)
        shape, dtype = tuple(map(int, header.get_data_shape())), header.get_data_dtype()
        slope, inter = header.get_slope_inter()
        offset, affine = int(header.get_data_offset()), np.asarray(header.get_best_affine())
    except Exception as error:  # nibabel has many, and none of its own base
        raise _damaged(path, f"its header is not valid: {error}") from None
    if len(shape) < 3 or min(shape) < 1 or dtype.kind not in "iuf":
        raise ImageError(
            f"{os.fspath(path)} is not an image of real numbers in three or more dimensions: its "
            f"shape is {_spell(shape)} and its type {dtype}"
        )
    if offset < size:
        offset = size + 4
    if _is_compressed(path):
        _skip(stream, offset - size, path)
    n_volumes = int(np.prod(shape[3:], dtype=np.int64))
    scaling = (1.0 if slope is None else slope, 0.0 if inter is None else inter)
    return Header(shape[:3], n_volumes, affine, dtype, offset, *map(float, scaling))


def _find_size(start: bytes) -> int:
    """Return the size of the header, by the number that a file begins with; 0 for another file."""
    sizes = [int.from_bytes(start[:4], order) for order in ("little", "big")]
    return next((size for size in sizes if size in _SIZES), 0)


def _skip(stream: IO[bytes], count: int, path: StrPath) -> None:
    while count > 0:
        found = len(stream.read(min(count, 1 << 16)))
        if not found:
            raise _damaged(path, "it ends before its values")
        count -= found


def _read_volumes(
    stream: Any, header: Header, path: StrPath, kept: Sequence[int]
) -> Iterator[Part]:
    """Yield the parts of the volumes to keep, and maybe those of others."""
    if _is_compressed(path):
        return _decompress(stream, header, path)
    return _map(path, header, kept)


def _decompress(stream: Any, header: Header, path: StrPath) -> Iterator[Part]:
    """Yield each volume in parts."""
    width = header.dtype.itemsize
    for number in range(header.n_volumes):
        for start in range(0, header.volume_bytes, PART):
            size = min(PART, header.volume_bytes - start)
            # Not kept here, see read_voxels; not `readinto`, which GzipFile makes of `read` and a
            # copy.
            yield number, start // width, _read_part(stream, size, header, path, number)
    while stream.read(1 << 16):  # up to the checksum, which is compared
        pass


def _read_part(
    stream: Any, size: int, header: Header, path: StrPath, number: int
) -> npt.NDArray[Any]:
    content = stream.read(size)
    if len(content) < size:
        raise _damaged(path, f"it ends in volume {number + 1} of {header.n_volumes}")
    return np.frombuffer(content, header.dtype)


def _map(path: StrPath, header: Header, kept: Sequence[int]) -> Iterator[Part]:
    """Yield each volume to keep as one part; only what is looked at is read."""
    size, step = os.stat(path).st_size, header.volume_bytes  # noqa: PTH116
    if size < header.offset + step * header.n_volumes:
        there_is = max(size - header.offset, 0) // step
        raise _damaged(path, f"it ends in volume {there_is + 1} of {header.n_volumes}")
    for number in kept:
        # A map for each volume, so that what was looked at does not stay in memory.
        where = header.offset + number * step
        shape = (step // header.dtype.itemsize,)
        yield number, 0, np.memmap(path, header.dtype, "r", where, shape)


def _scale(values: npt.NDArray[Any], header: Header) -> npt.NDArray[Any]:
    if (header.slope, header.inter) == (1.0, 0.0):
        return values
    scaling: Any = importlib.import_module("nibabel.volumeutils").apply_read_scaling
    scaled: npt.NDArray[Any] = scaling(values, np.float64(header.slope), np.float64(header.inter))
    return scaled
