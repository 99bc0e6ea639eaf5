"""Time and peak memory of reading betas, against nibabel and a single pass with gzip.

The image is like the real ones: 143 x 143 x 143 x 120, float32, noise within a brain mask, gzip.
It is made once. Each case runs in a process of its own, whose largest resident memory is taken;
the cases take turns, and a ratio is the median of those of the rounds. CPU time, of the user and
the system, stands beside the wall time: on a busy machine it is what can be compared. Needs the
extra ``load``::

    python -m benchmarks.loading FOLDER [--rounds 5]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import nibabel
import numpy as np

from laion_fmri.subject.images import read_voxels

SIDE, VOLUMES, ROI = 143, 120, 300
SESSIONS = 4


def make_mask() -> np.ndarray:
    """Return a ball of about 400,000 voxels."""
    places = np.indices((SIDE,) * 3) - (SIDE - 1) / 2
    return np.linalg.norm(places, axis=0) < 45.7


def make_roi() -> np.ndarray:
    """Return 300 voxels of the brain, next to one another."""
    roi = np.zeros((SIDE,) * 3, bool)
    roi[60:70, 60:66, 60:65] = True
    assert roi.sum() == ROI
    return roi


def make_image(file: Path, volumes: int) -> None:
    """Write noise within the mask, one volume after the other."""
    if file.exists():
        return
    header = nibabel.Nifti1Header()
    header.set_data_shape((SIDE, SIDE, SIDE, volumes))
    header.set_data_dtype("float32")
    header.set_sform(np.eye(4), code=1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    mask, rng = make_mask(), np.random.default_rng(1)
    scratch = file.with_suffix(".tmp")
    with gzip.open(scratch, "wb", compresslevel=1) as stream:
        stream.write(header.binaryblock + bytes(4))
        for _ in range(volumes):
            volume = np.zeros(mask.shape, "float32", order="F")
            volume[mask] = rng.normal(size=mask.sum())
            stream.write(volume.tobytes(order="F"))
    scratch.rename(file)


def by_nibabel(file: Path, mask: np.ndarray) -> np.ndarray:
    """The whole image, and then the mask."""
    return np.asarray(nibabel.load(file).dataobj)[mask].T


def by_gzip(file: Path, mask: np.ndarray) -> np.ndarray:
    """A single pass with the standard module."""
    shape = nibabel.load(file).shape
    step = int(np.prod(shape[:3])) * 4
    rows = []
    with gzip.open(file) as stream:
        stream.read(352)
        for _ in range(shape[3]):
            volume = np.frombuffer(stream.read(step), "<f4").reshape(shape[:3], order="F")
            rows.append(volume[mask])
    return np.stack(rows)


def by_decompressed(file: Path, mask: np.ndarray) -> np.ndarray:
    """The image that lies decompressed beside."""
    return read_voxels(file.with_suffix(""), mask)


def by_sessions(n_jobs: int) -> Callable[[Path, np.ndarray], np.ndarray]:
    """Four times the same image, as the loader reads several sessions."""

    def read(file: Path, mask: np.ndarray) -> np.ndarray:
        with ThreadPoolExecutor(n_jobs) as pool:
            return list(pool.map(lambda _: read_voxels(file, mask), range(SESSIONS)))[-1]

    return read


#: Name -> the reader, whether it is about one region, and the volumes of the image.
CASES = {
    "roi": (read_voxels, True, VOLUMES),
    "roi-nibabel": (by_nibabel, True, VOLUMES),
    "roi-gzip": (by_gzip, True, VOLUMES),
    "roi-nii": (by_decompressed, True, VOLUMES),
    "brain": (read_voxels, False, VOLUMES),
    "brain-nibabel": (by_nibabel, False, VOLUMES),
    "sessions-2": (by_sessions(2), True, VOLUMES),
    "sessions-1": (by_sessions(1), True, VOLUMES),
    "roi-480": (read_voxels, True, 4 * VOLUMES),
}
#: What is measured, against what, and what is to be reached: share of the time, and of the memory.
GOALS = (
    ("one region, against nibabel", "roi", "roi-nibabel", 0.25, 0.1),
    ("one region, against gzip", "roi", "roi-gzip", 0.5, None),
    ("one region, decompressed, against compressed", "roi-nii", "roi", None, None),
    ("whole brain, against nibabel", "brain", "brain-nibabel", 0.4, 0.3),
    ("four sessions, n_jobs=2 against 1", "sessions-2", "sessions-1", 0.6, None),
    ("480 volumes against 120", "roi-480", "roi", None, None),
)


def prepare(folder: Path) -> None:
    """Make the mask and the images, unless they are there."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "mask.npy", make_mask())
    for volumes in (VOLUMES, 4 * VOLUMES):
        make_image(folder / f"betas-{volumes}.nii.gz", volumes)
    plain = folder / f"betas-{VOLUMES}.nii"
    if not plain.exists():
        with gzip.open(plain.with_suffix(".nii.gz")) as source, plain.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)


def run_case(name: str, folder: Path) -> None:
    """Read in this process, and print what it took."""
    read, is_roi, volumes = CASES[name]
    mask = make_roi() if is_roi else np.load(folder / "mask.npy")
    start, cpu = time.perf_counter(), time.process_time()
    values = read(folder / f"betas-{volumes}.nii.gz", mask)
    took = {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    digest = float(np.float64(values[-1]).sum())
    print(json.dumps({**took, "peak": peak, "result": values.nbytes, "digest": digest}))


def measure(name: str, folder: Path) -> dict[str, float]:
    """Run a case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.loading", str(folder), "--case", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    print(f"{name:14} {found['wall']:7.2f} s {found['peak'] / 2**20:8.0f} MiB", file=sys.stderr)
    return found


def report(found: dict[str, list[dict[str, float]]]) -> str:
    """Return the table of the goals."""
    lines = ["| case | wall | share | CPU share | to reach | peak MiB | share | to reach |"]
    lines += ["| --- |" + " ---: |" * 7]
    for text, ours, other, time_goal, memory_goal in GOALS:
        pairs = list(zip(found[ours], found[other], strict=True))
        wall, cpu, peaks = (median(a[k] / b[k] for a, b in pairs) for k in ("wall", "cpu", "peak"))
        seconds = " / ".join(f"{median(r['wall'] for r in found[n]):.2f} s" for n in (ours, other))
        memory = " / ".join(
            f"{median(r['peak'] for r in found[n]) / 2**20:.0f}" for n in (ours, other)
        )
        goals = ["" if goal is None else f"{goal}" for goal in (time_goal, memory_goal)]
        shares = (f"{wall:.2f}", f"{cpu:.2f}", goals[0])
        row = (text, seconds, *shares, memory, f"{peaks:.3f}", goals[1])
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure all cases in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-n", "--rounds", type=int, default=5)
    parser.add_argument("--case", choices=("prepare", *CASES), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case == "prepare":
        prepare(given.folder)
        return
    if given.case:
        run_case(given.case, given.folder)
        return
    # Not in this process: a child begins with the resident memory of its parent as its peak.
    command = [sys.executable, "-m", "benchmarks.loading", str(given.folder), "--case", "prepare"]
    subprocess.run(command, check=True)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CASES}
    for _ in range(given.rounds):
        for name, rows in found.items():
            rows.append(measure(name, given.folder))
    pairs = [("roi", other) for other in ("roi-nibabel", "roi-gzip", "roi-nii")]
    for ours, other in (*pairs, ("brain", "brain-nibabel")):
        assert found[ours][0]["digest"] == found[other][0]["digest"], (ours, other)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, rounds: {given.rounds}\n")
    print(report(found))


if __name__ == "__main__":
    main()
