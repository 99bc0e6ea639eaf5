"""A bucket of the dataset's true layout with random content, as a folder in which a key is a file.

``python -m benchmarks.bucket FOLDER`` makes ``FOLDER/laion-fmri`` and ``FOLDER/laion-fmri-large``.
"""

from __future__ import annotations

import argparse
import os
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path

#: The bucket of the five subjects, and the one of eight large objects. They are two, so that
#: "all subjects" is not dominated by objects that only one case is about.
MAIN, LARGE = "laion-fmri", "laion-fmri-large"
SUBJECTS = ("sub-01", "sub-03", "sub-05", "sub-06", "sub-07")
#: What the server refuses to give out, as the real bucket does; in regular-expression syntax.
DENIED = "/sub-[0-9]+/ses-3[1-4]/"
DERIVATIVES = "derivatives/glmsingle-tedana"
#: Folders of the regions of interest.
CATEGORIES = ("body", "character", "face", "laion", "motion", "object", "place", "retinotopy")
ROOT_FILES = ("README", "dataset_description.json", "participants.json", "participants.tsv")

KIB, MIB = 2**10, 2**20
#: Seconds since 1970 of the first object; each next one is a second younger. Fixed, so that
#: ETags and times are the same in every bucket that is made.
FIRST_MTIME = 1_760_000_000


@dataclass(frozen=True)
class Sizes:
    """How much of everything; sizes in bytes, which vary by 5 % from object to object.

    The real betas and models have many GB. Here they are scaled down, and the 8 large objects
    stand for them.
    """

    subjects: tuple[str, ...] = SUBJECTS
    sessions: int = 34
    betas: int = 8 * MIB
    map: int = 200 * KIB
    sidecar: int = KIB
    regions: int = 40
    freesurfer: int = 200
    large_objects: int = 8
    large: int = 256 * MIB


#: For a quick look: the last session is a held-out one, as in the full bucket.
QUICK = Sizes(SUBJECTS[:2], 2, 64 * KIB, 4 * KIB, 256, 5, 12, 8, MIB)

Item = tuple[str, int]


def main_objects(sizes: Sizes) -> Iterator[Item]:
    """Yield key and nominal size (bytes) of every object of the main bucket."""
    for name in ROOT_FILES:
        yield name, sizes.sidecar
    for subject in sizes.subjects:
        yield from summary_objects(subject, sizes)
        for number in range(1, sizes.sessions + 1):
            # The fewer sessions of a quick bucket still end with one that is held out.
            held_out = number == sizes.sessions < 31
            yield from session_objects(subject, f"ses-{31 if held_out else number:02d}", sizes)
        yield from region_objects(subject, sizes)
        yield from freesurfer_objects(subject, sizes)
    for model in ("CLIP", "DINOv2", "PEcore", "SigLIP2"):
        yield f"stimuli/task-images_desc-{model}_embeddings.h5", sizes.betas
    yield "stimuli/task-images_metadata.csv", 100 * sizes.sidecar


def region_objects(subject: str, sizes: Sizes) -> Iterator[Item]:
    """Yield the masks of `subject`: five files of each region, in folders by category."""
    for number in range(sizes.regions):
        category = CATEGORIES[number % len(CATEGORIES)]
        stem, label = f"derivatives/rois/{subject}/{category}/{subject}", f"label-ROI-{number + 1}"
        yield f"{stem}_space-T1w_res-1pt8_{label}_mask.nii.gz", 8 * sizes.sidecar
        for hemi in "LR":
            name = f"{stem}_hemi-{hemi}_space-fsnative_{label}_mask"
            yield f"{name}.func.gii", 4 * sizes.sidecar
            yield f"{name}.label", 4 * sizes.sidecar


def freesurfer_objects(subject: str, sizes: Sizes) -> Iterator[Item]:
    """Yield the folder of FreeSurfer of `subject`: many small files, some without an extension."""
    folder = f"derivatives/freesurfer/{subject}"
    for number in range(sizes.freesurfer):
        hemisphere = "lr"[number % 2]
        yield (
            (f"{folder}/label/{hemisphere}h.area{number}_exvivo.label", 20 * sizes.sidecar),
            (f"{folder}/surf/{hemisphere}h.surface{number}", sizes.map),
            (f"{folder}/mri/volume{number}+aseg.mgz", sizes.map),
            (f"{folder}/stats/{hemisphere}h.table{number}.stats", 4 * sizes.sidecar),
        )[number % 4]


def summary_objects(subject: str, sizes: Sizes) -> Iterator[Item]:
    """Yield the objects of `subject` that belong to no session."""
    stem = f"{DERIVATIVES}/{subject}/{subject}_task-images_space-T1w"
    for entities in (
        "stat-rsquare_desc-R2mean",
        "desc-Noiseceiling4rep",
        "desc-Noiseceiling12rep",
        "desc-NoiseceilingAllrep",
    ):
        yield f"{stem}_{entities}_statmap.nii.gz", sizes.map
        yield f"{stem}_{entities}_statmap.json", sizes.sidecar
    yield f"{stem}_desc-meanR2gt15mask_mask.nii.gz", sizes.map // 10


def session_objects(subject: str, session: str, sizes: Sizes) -> Iterator[Item]:
    """Yield the 19 objects of one session."""
    folder = f"{DERIVATIVES}/{subject}/{session}/func"
    stem = f"{folder}/{subject}_{session}_task-images"
    yield f"{stem}_desc-GLMsingle_summary.json", sizes.sidecar
    yield f"{stem}_desc-SingletrialBetas_trials.tsv", 40 * sizes.sidecar
    yield f"{stem}_desc-SingletrialBetas_trials.json", sizes.sidecar
    for entities, extension, size in (
        ("desc-GLMsingle_model", "h5", sizes.betas),
        ("stat-effect_desc-SingletrialBetas_statmap", "nii.gz", sizes.betas),
        ("stat-rsquare_desc-R2_statmap", "nii.gz", sizes.map),
        ("desc-Noiseceiling_statmap", "nii.gz", sizes.map),
        ("desc-HRFindex_dseg", "nii.gz", sizes.map),
        ("desc-Fracridge_statmap", "nii.gz", sizes.map),
    ):
        yield f"{stem}_space-T1w_{entities}.{extension}", size
        yield f"{stem}_space-T1w_{entities}.json", sizes.sidecar
    for figure in ("dnoise", "hrf", "r2", "ridge"):
        yield f"{folder}/figures/{subject}_{session}_{figure}.png", 60 * sizes.sidecar


def large_objects(sizes: Sizes) -> Iterator[Item]:
    """Yield the objects of the bucket of large ones: betas of one more subject, and the root."""
    for name in ROOT_FILES:
        yield name, sizes.sidecar
    for number in range(1, sizes.large_objects + 1):
        stem = f"sub-08_ses-{number:02d}_task-images_space-T1w_stat-effect_desc-SingletrialBetas"
        yield f"{DERIVATIVES}/sub-08/ses-{number:02d}/func/{stem}_statmap.nii.gz", sizes.large


def synthetic_objects(total: int) -> list[Item]:
    """Return `total` sorted objects of the same layout, for a listing without files behind it.

    Five subjects with as many sessions as it takes, none of them held out.
    """
    sizes = Sizes(betas=KIB, map=KIB, sidecar=KIB)
    found: list[Item] = []
    for number, subject in enumerate(SUBJECTS):
        sessions = chain.from_iterable(
            session_objects(subject, f"ses-{session:05d}", sizes) for session in count(1)
        )
        wanted = total // len(SUBJECTS) + (number < total % len(SUBJECTS))
        found += islice(chain(summary_objects(subject, sizes), sessions), wanted)
    return sorted((key, vary(key, size)) for key, size in found)


def vary(key: str, size: int) -> int:
    """Return `size` changed by up to 5 %, always alike for the same `key`."""
    return max(1, int(size * (0.95 + 0.1 * (zlib.crc32(key.encode()) / 2**32))))


def make_buckets(root: Path, sizes: Sizes) -> None:
    """Write both buckets below `root`.

    The content is cut from one block of random bytes at a place that depends on the key: nothing
    compresses, no two files are alike, and a bucket of 3 GB is written as fast as the disk takes
    it. The large objects are one file with several names, which spares disk and page cache.
    """
    block = random.Random(0).randbytes(max(sizes.betas, 100 * sizes.map) * 2)
    held_out = tuple(f"/ses-{number}/" for number in range(31, 35))
    for number, (key, size) in enumerate(main_objects(sizes)):
        file = _make_folder(root / MAIN / key)
        size = vary(key, size)
        if any(name in key for name in held_out):
            # Refused before it is read, so a hole in the disk will do.
            file.touch()
            os.truncate(file, size)
        else:
            start = zlib.crc32(key.encode()[::-1]) % (len(block) - size)
            file.write_bytes(memoryview(block)[start : start + size])
        os.utime(file, (FIRST_MTIME + number,) * 2)
    first_large = None
    for key, size in large_objects(sizes):
        file = _make_folder(root / LARGE / key)
        if key in ROOT_FILES:
            file.write_bytes(block[:size])
        elif first_large:
            file.hardlink_to(first_large)
            continue
        else:
            with file.open("wb") as stream:
                for _ in range(0, size, MIB):
                    stream.write(random.randbytes(MIB))
            first_large = file
        os.utime(file, (FIRST_MTIME,) * 2)


def make_synthetic(folder: Path, total: int) -> None:
    """Write the files of :func:`synthetic_objects`, as holes of the right size."""
    for key, size in synthetic_objects(total):
        file = _make_folder(folder / key)
        file.touch()
        os.truncate(file, size)


def read_bucket(folder: Path) -> list[Item]:
    """Return key and size (bytes) of every file below `folder`, sorted by key."""
    found = []
    for path, _, names in os.walk(folder):
        for name in names:
            file = Path(path, name)
            found.append((file.relative_to(folder).as_posix(), file.stat().st_size))
    return sorted(found)


def _make_folder(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def main() -> None:
    """Make both buckets in a folder, or the files of a synthetic listing."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="tiny ones")
    parser.add_argument("--synthetic", type=int, help="files of so many objects instead")
    arguments = parser.parse_args()
    if arguments.synthetic:
        make_synthetic(arguments.folder, arguments.synthetic)
        return
    make_buckets(arguments.folder, QUICK if arguments.quick else Sizes())
    for name in (MAIN, LARGE):
        items = read_bucket(arguments.folder / name)
        total = sum(size for _, size in items)
        print(f"{name}: {len(items):,} objects, {total / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
