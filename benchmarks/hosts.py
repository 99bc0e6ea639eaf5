"""What a pipeline costs whose rules name objects: its dry run, and 600 small files fetched.

``python -m benchmarks.hosts``; about ten minutes. The same files by the command, in the same run.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Cost, make_environment, run_command
from benchmarks.server import REPOSITORY, serve

SUBJECTS = ("sub-01", "sub-03", "sub-05", "sub-06", "sub-07")
SESSIONS, RUNS, SIZE = 30, 33, 3000
HOST = """
configfile: "config.yaml"

module laion:
    snakefile: "{workflow}"
    config: config["laion"]

use rule * from laion as laion_*

rule count:
    default_target: True
    input: open("inputs.txt").read().split()
    output: "count.txt"
    shell: "echo {{input:q}} | wc -w > {{output}}"
"""


def make_keys() -> list[str]:
    """Return the keys of the bucket: 4,950 tables of 150 sessions."""
    func = "derivatives/glmsingle-tedana/{0}/ses-{1:02}/func/{0}_ses-{1:02}_task-images_run-{2:02}"
    return [
        f"{func.format(subject, session, run)}_trials.tsv"
        for subject in SUBJECTS
        for session in range(1, SESSIONS + 1)
        for run in range(1, RUNS + 1)
    ]


def choose(keys: list[str], count: int) -> list[str]:
    """Return `count` of the keys: four runs of each of 150 sessions, or all."""
    some = [key for key in keys if key[-13:-11] in ("01", "02", "03", "04")]
    return some[:count] if count < len(keys) else keys


def make_host(folder: Path, keys: list[str]) -> None:
    """Write a pipeline with a rule that takes the files of `keys`."""
    folder.mkdir()
    workflow = REPOSITORY / "workflow" / "Snakefile"
    (folder / "Snakefile").write_text(HOST.format(workflow=workflow))
    (folder / "config.yaml").write_text('laion: {subject: "none", data_dir: "data"}\n')
    (folder / "inputs.txt").write_text("\n".join(f"data/{key}" for key in keys))
    (folder / "data").mkdir()


def tell(name: str, costs: list[Cost]) -> float:
    """Print the medians of some runs, and return that of the wall time."""
    wall, cpu, peak = (
        statistics.median(getattr(cost, what) for cost in costs) for what in ("wall", "cpu", "peak")
    )
    print(f"{name:32} {wall:7.1f} s  CPU {cpu:7.1f} s  {peak / 1e6:6.0f} MB", flush=True)
    return wall


def main() -> None:
    """Run everything and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=5, help="runs of each (default: 5)")
    parser.add_argument("--cores", type=int, default=4)
    parser.add_argument("--inputs", type=int, nargs="*", default=[600, 4950])
    parser.add_argument("--no-fetch", action="store_true")
    given = parser.parse_args()
    keys = make_keys()
    with tempfile.TemporaryDirectory(prefix="hosts-") as name:
        scratch = Path(name)
        dice = random.Random(0)
        for key in keys:
            file = scratch / "buckets" / "hosts" / key
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(dice.randbytes(SIZE))
        (scratch / "home").mkdir()
        aws = os.environ.get("LAION_FMRI_AWS") or shutil.which("aws")
        snakemake = [sys.executable, "-m", "snakemake", "--cores", str(given.cores)]
        with serve(scratch / "buckets") as url:
            env = make_environment(url, "hosts", scratch / "home", aws)
            env["PYTHONPATH"] = str(REPOSITORY)
            for count in given.inputs:
                costs = []
                for number in range(given.n):
                    folder = scratch / f"dry-{count}-{number}"
                    make_host(folder, choose(keys, count))
                    costs.append(
                        run_command([*snakemake, "-n", "-q"], env=env, folder=folder, timeout=600)
                    )
                tell(f"snakemake -n, {count} inputs", costs)
            if given.no_fetch:
                return
            host, command = [], []
            for number in range(given.n):
                folder = scratch / f"host-{number}"
                wanted = choose(keys, 600)
                make_host(folder, wanted)
                host.append(run_command(snakemake, env=env, folder=folder, timeout=600))
                assert all((folder / "data" / key).stat().st_size == SIZE for key in wanted)
                shutil.rmtree(folder)
                folder.mkdir()
                words = [sys.executable, "-m", "laion_fmri", "download", "--data-dir", "data"]
                words += ["--subject", "all", "--n-jobs", str(given.cores)]
                words += ["--run", "01", "02", "03", "04"]
                (folder / "data").mkdir()
                command.append(run_command(words, env=env, folder=folder, timeout=600))
                assert sum(1 for _ in (folder / "data").rglob("*_trials.tsv")) == 600
                shutil.rmtree(folder)
            ratio = tell("600 inputs fetched", host) / tell("600 files by the command", command)
            print(f"{'ratio':32} {ratio:7.2f}")


if __name__ == "__main__":
    main()
