"""The reader of images: what it returns is what nibabel reads, bit for bit."""

from __future__ import annotations

import gzip
import sys

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laion_fmri.errors import ImageError, MismatchError
from laion_fmri.subject import images
from laion_fmri.subject.images import read_header, read_volume, read_voxels

DTYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder for the images of a property."""
    return tmp_path_factory.mktemp("images")


@pytest.fixture(params=["isal", "gzip"])
def unpacker(request, monkeypatch):
    """Read with isal, if it is here, and with the standard library."""
    if request.param == "gzip":
        monkeypatch.setitem(sys.modules, "isal.igzip", None)
    else:
        pytest.importorskip("isal")


def make_bytes(shape, dtype, order, scaling, version, seed):
    """Return an image of random bits, with special values among the floats."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(order + dtype)
    count = int(np.prod(shape))
    data = np.frombuffer(rng.bytes(count * kind.itemsize), kind).reshape(shape, order="F").copy()
    image_class = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    header = image_class.header_class(endianness=order)
    header.set_data_shape(shape)
    header.set_data_dtype(kind.newbyteorder(order))
    affine = np.diag([1.5, 2.0, 2.5, 1.0])
    affine[:3, 3] = rng.normal(size=3)
    header.set_sform(affine, code=1)
    header["scl_slope"], header["scl_inter"] = scaling
    size = header["sizeof_hdr"].item()
    header["vox_offset"] = offset = size + 4 + 16 * int(rng.integers(0, 3))
    header["magic"] = b"n+1" if version == 1 else b"n+2"
    fill = bytes(offset - size)
    return header.binaryblock + fill + data.tobytes(order="F")


def bits(values):
    """Return values for a comparison by bits; any NaN is NaN."""
    return np.where(np.isnan(values), np.float32("nan"), values).view("u4")


@st.composite
def cases(draw):
    """Draw an image, its name and a mask."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=3, max_size=5)))
    scaling = draw(
        st.sampled_from([(1, 0), (0, 0), (np.nan, 0), (2, 0), (0.3, -7.25), (-1.1, 3), (1, 5)])
    )
    seed = draw(st.integers(0, 2**32 - 1))
    content = make_bytes(
        shape,
        draw(st.sampled_from(DTYPES)),
        draw(st.sampled_from("<>")),
        scaling,
        draw(st.sampled_from([1, 2])),
        seed,
    )
    name = draw(st.sampled_from(["image.nii", "image.nii.gz"]))
    rng = np.random.default_rng(seed)
    mask = rng.random(shape[:3]) < draw(st.sampled_from([0, 0.1, 0.5, 1]))
    return content, name, mask


@pytest.mark.parametrize("way", ["isal", "gzip"])
@given(case=cases(), part=st.sampled_from([16, 64, 1 << 18]), data=st.data())
def test_it_is_what_nibabel_reads(folder, way, case, part, data):
    """Any type, byte order, scaling, shape and mask."""
    content, name, mask = case
    file = folder / f"{way}-{name}"
    file.write_bytes(gzip.compress(content, 1) if name.endswith("gz") else content)
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        if way == "gzip":
            patch.setitem(sys.modules, "isal.igzip", None)
        image = nibabel.load(file, mmap=False)
        whole = np.asarray(image.dataobj).reshape(*image.shape[:3], -1, order="F")
        expected = whole[mask].T.astype("float32")
        patch.setattr(images, "PART", part)
        found = read_voxels(file, mask, image.affine)
        assert (found.dtype, found.shape) == (np.dtype("float32"), expected.shape)
        np.testing.assert_array_equal(bits(found), bits(expected))
        if expected.shape[0] == 1:
            volume, header = read_volume(file)
            np.testing.assert_array_equal(bits(volume[mask]), bits(expected[0]))
            assert volume.shape == header.shape == mask.shape
        kept = np.array(data.draw(st.lists(st.booleans(), min_size=len(whole.T), max_size=99)))
        kept = kept[: whole.shape[3]]
        kept = np.resize(kept, whole.shape[3]) if len(kept) else np.zeros(whole.shape[3], bool)
        some = read_voxels(file, mask, volumes=kept)
        np.testing.assert_array_equal(bits(some), bits(expected[kept]))


@pytest.fixture
def image(tmp_path):
    """Return an image of noise, of 4 volumes."""
    data = np.random.default_rng(1).normal(size=(9, 8, 7, 4)).astype("float32")
    file = tmp_path / "image.nii.gz"
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), file)
    return file


@pytest.mark.parametrize("share", [0, 0.001, 0.02, 0.5, 0.99, 0.9999])
def test_an_image_that_is_cut_short_is_named(image, unpacker, share):
    """Wherever it ends; of the compressed image, also within its checksum."""
    content = image.read_bytes()
    image.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageError, match=r"image.nii.gz is cut short.*laion-fmri verify --repair"):
        read_voxels(image, np.ones((9, 8, 7), bool))
    plain = image.with_suffix("")
    content = gzip.decompress(content)
    plain.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageError, match=r"image.nii is cut short.*remove it, so that"):
        read_voxels(plain, np.ones((9, 8, 7), bool))


@pytest.mark.parametrize("place", [0, 3, 0.3, 0.7, -6])
def test_an_image_that_is_damaged_is_named(image, unpacker, place):
    """In its header, its values or its checksum."""
    content = bytearray(image.read_bytes())
    place = int(place * len(content)) if isinstance(place, float) else place
    part = slice(place, None if place < 0 else place + 40)
    content[part] = bytes(~b & 255 for b in content[part])
    image.write_bytes(content)
    with pytest.raises(ImageError, match=r"image.nii.gz is cut short or damaged.*--repair"):
        read_voxels(image, np.ones((9, 8, 7), bool))


def test_what_is_no_image_is_named(tmp_path):
    """A text, a folder, a missing file, and complex numbers."""
    for name, content, said in (
        ("a.nii", b"text" * 200, "no header of a NIfTI image"),
        ("b.nii.gz", gzip.compress(b"text" * 200), "no header of a NIfTI image"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=f"{name} .*{said}"):
            read_header(tmp_path / name)
    with pytest.raises(ImageError, match=r"missing.nii.gz cannot be read: No such file"):
        read_header(tmp_path / "missing.nii.gz")
    numbers = nibabel.Nifti1Image(np.ones((2, 2, 2), "complex64"), np.eye(4))
    nibabel.save(numbers, tmp_path / "c.nii")
    with pytest.raises(
        ImageError, match=r"c.nii is not an image of real numbers.*2 x 2 x 2.*complex"
    ):
        read_header(tmp_path / "c.nii")


def test_a_mask_has_to_fit(image):
    """Its shape, its affine, and the number of volumes."""
    with pytest.raises(MismatchError, match=r"shape 9 x 8 x 6, and .*image.nii.gz has 9 x 8 x 7"):
        read_voxels(image, np.ones((9, 8, 6), bool))
    moved = np.eye(4)
    moved[0, 3] = 2
    with pytest.raises(MismatchError, match="different grids: their affines differ by up to 2 mm"):
        read_voxels(image, np.ones((9, 8, 7), bool), moved)
    with pytest.raises(MismatchError, match="has 4 volumes, and 3 were told apart"):
        read_voxels(image, np.ones((9, 8, 7), bool), volumes=np.ones(3, bool))
    with pytest.raises(ImageError, match="has 4 volumes where one is expected"):
        read_volume(image)
