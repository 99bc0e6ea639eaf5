"""How fast files are checked, against ``md5sum`` of the same: ``python -m benchmarks.verify``.

The files are warm, so that hashing is measured and not the disk.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from benchmarks.bucket import MIB
from benchmarks.measure import run_command
from benchmarks.tools import find_program

#: Of one session: four maps of GLMsingle's size, and small files beside them. Bytes.
LARGE, SMALL = [240 * MIB] * 4, [MIB // 4] * 200
#: Bytes of a part, for files that are said to have been uploaded in parts.
PART = 8 * MIB
#: The same, where the likeliest part size fails and six others are then tried at once.
RARE = 200 * MIB


def make_files(folder: Path) -> dict[str, Path]:
    """Write random files to `folder`, and manifests of them beside it; return those by name."""
    source = random.Random(1)
    part_sizes = {"md5": 0, "parts": PART, "rare parts": RARE}
    lines: dict[str, list[str]] = {name: [] for name in part_sizes}
    folder.mkdir()
    for number, size in enumerate(LARGE + SMALL):
        content = b"".join(source.randbytes(min(PART, size - at)) for at in range(0, size, PART))
        key = f"{number:04d}.bin"
        (folder / key).write_bytes(content)
        for name, part_size in part_sizes.items():
            etag = make_etag(content, part_size if size > PART else 0)
            lines[name].append(f"{key}\t{size}\t{etag}\t2026-01-31T12:00:00Z\t")
    manifests = {}
    for name, rows in lines.items():
        manifests[name] = folder.with_name(f"{name.replace(' ', '-')}.tsv")
        header = "key\tsize\tetag\tlast_modified\tsha256"
        manifests[name].write_text("\n".join([header, *rows]) + "\n")
    return manifests


def make_etag(content: bytes, part_size: int) -> str:
    """Return the ETag of `content`, uploaded in parts of `part_size` bytes, or at once for 0."""
    if not part_size:
        return hashlib.md5(content).hexdigest()
    starts = range(0, len(content), part_size)
    parts = [hashlib.md5(content[start : start + part_size]).digest() for start in starts]
    return f"{hashlib.md5(b''.join(parts)).hexdigest()}-{len(parts)}"


def make_commands(data: Path, manifests: Mapping[str, Path]) -> dict[str, list[str]]:
    """Return each command that is measured, by name; the first is what the others are held to."""
    cpus = os.cpu_count() or 1
    files = sorted(str(path) for path in data.iterdir())
    ours = [*find_program("laion-fmri", "laion_fmri"), "verify", "--quiet", "--data-dir", str(data)]
    side_by_side = f"printf '%s\\0' {data}/* | xargs -0 -n 1 -P {cpus} md5sum"
    commands = {"md5sum": ["md5sum", *files], f"md5sum, {cpus} at once": ["sh", "-c", side_by_side]}
    for jobs in (1, cpus):
        for name, manifest in manifests.items():
            words = ["--manifest", str(manifest), "--n-jobs", str(jobs)]
            commands[f"verify, {name}, {jobs} threads"] = [*ours, *words]
    return commands


def main() -> None:
    """Measure all commands in turn; print median times, and their ratio to those of the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=5, help="repetitions (default: 5)")
    parser.add_argument("--folder", help="where to put 1 GB of files (default: a temporary one)")
    arguments = parser.parse_args()
    first: tuple[float, float] | None = None
    work = Path(tempfile.mkdtemp(prefix="verify-", dir=arguments.folder))
    try:
        commands = make_commands(work / "data", make_files(work / "data"))
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for turn in range(arguments.n + 1):
            for name, command in commands.items():
                cost = run_command(command, env=os.environ, folder=work, timeout=600)
                if turn:  # the first one warms up
                    taken[name].append((cost.wall, cost.cpu))
        total = sum(LARGE + SMALL)
        print(f"{'':32} {'wall s':>8} {'MB/s':>8} {'ratio':>6} {'CPU s':>8} {'ratio':>6}")
        for name, costs in taken.items():
            wall, cpu = (median(column) for column in zip(*costs, strict=True))
            ratios = [x / y for x, y in zip((wall, cpu), first or (wall, cpu), strict=True)]
            first = first or (wall, cpu)
            line = f"{wall:8.2f} {total / wall / 1e6:8.0f} {ratios[0]:6.2f}"
            print(f"{name:32} {line} {cpu:8.2f} {ratios[1]:6.2f}")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
