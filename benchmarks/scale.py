"""How the parts before the first byte grow with the number of objects, on a synthetic listing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bucket import DERIVATIVES
from benchmarks.measure import CommandError, run_command
from benchmarks.tools import JOBS, REPOSITORY, find_program, make_clone

PROBE = Path(__file__).with_name("probe.py")
#: Parts in the order in which they are shown.
PARTS = {
    "listing": "bare listing by boto3",
    "listing-first": "bare listing by boto3, with imports",
    "table": "key_table()",
    "table-first": "key_table(), with imports",
    "dry-run": "laion-fmri download --dry-run",
    "noop": "laion-fmri download, nothing to do",
    "dag": "snakemake -n, all missing",
    "noop-snakemake": "snakemake, nothing to do",
}

Record = dict[str, Any]


class Scale:
    """Measures all parts at one number of objects.

    Parameters
    ----------
    total : int
        Objects of the listing.
    endpoint : str
        URL of a server that has the bucket ``synthetic-<total>``.
    env : mapping
        Environment of what is measured.
    work : Path
        An empty folder.
    n : int
        Repetitions; fewer of a part when they would take more than `budget` seconds.
    timeout : float
        Seconds after which a part is given up.
    """

    def __init__(
        self,
        total: int,
        endpoint: str,
        env: Mapping[str, str],
        work: Path,
        *,
        n: int,
        budget: float,
        timeout: float,
    ) -> None:
        self.total = total
        self.bucket = f"synthetic-{total}"
        self.endpoint = endpoint
        self.env = env
        self.work = work
        self.n = n
        self.budget = budget
        self.timeout = timeout
        self.data = work / "data"
        self.data.mkdir(parents=True)
        self.records: dict[str, Record] = {}

    def measure_table(self) -> None:
        """Measure the bare listing and the key table, each in a process of its own, in turn."""
        where = {"endpoint": self.endpoint, "bucket": self.bucket, "prefix": f"{DERIVATIVES}/"}
        what = {"subject": "all", "data_dir": str(self.data)}

        def take(name: str, given: Mapping[str, Any]) -> list[tuple[str, float, int]]:
            answer = self.work / "answer.json"
            answer.unlink(missing_ok=True)
            self._run([sys.executable, str(PROBE), name, json.dumps(given)], answer)
            found = json.loads(answer.read_text())
            if found["length"] != self.total:
                raise CommandError(f"{found['length']} keys instead of {self.total}")
            return [
                (f"{name}-first", found["first"], found["peak"]),
                (name, found["again"], found["peak"]),
            ]

        self._repeat(
            {"listing": lambda: take("listing", where), "table": lambda: take("table", what)}
        )

    def measure_commands(self) -> None:
        """Measure dry run and DAG with everything missing, then both with everything in place."""
        command = [*find_program("laion-fmri", "laion_fmri"), "download", "--subject", "all"]
        command += ["--n-jobs", str(JOBS), "--data-dir", str(self.data)]
        snakemake = [*find_program("snakemake", "snakemake"), "--cores", str(JOBS)]

        def take(part: str, words: list[str]) -> list[tuple[str, float, int]]:
            cost = self._run(words)
            return [(part, cost.wall, cost.peak)]

        make_clone(self.work, {"subject": "all", "data_dir": str(self.data)})
        self._repeat(
            {
                "dry-run": lambda: take("dry-run", [*command, "--dry-run"]),
                "dag": lambda: take("dag", [*snakemake, "-n"]),
            }
        )
        # By a child: the memory of this process is the least that its children can show.
        options = [str(self.data), "--synthetic", str(self.total)]
        subprocess.run(
            [sys.executable, "-m", "benchmarks.bucket", *options], cwd=REPOSITORY, check=True
        )
        self._repeat(
            {
                "noop": lambda: take("noop", command),
                "noop-snakemake": lambda: take("noop-snakemake", snakemake),
            }
        )
        shutil.rmtree(self.data)

    def _run(self, words: list[str], output: Path | None = None) -> Any:
        return run_command(
            words, env=self.env, folder=self.work, timeout=self.timeout, output=output
        )

    def _repeat(self, calls: Mapping[str, Callable[[], list[tuple[str, float, int]]]]) -> None:
        """Call each of `calls` in turn, `n` times or as often as the budget allows."""
        spent: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(self.n):
            for name, call in calls.items():
                if name not in spent or over_budget(spent[name], self.budget):
                    continue
                print(f"  {self.total:>9,} objects, {PARTS[name]} ...", end=" ", flush=True)
                try:
                    taken = call()
                except CommandError as error:
                    self.records[name] = {"error": str(error)}
                    del spent[name]
                    print(f"FAILED: {error}", flush=True)
                    continue
                for part, seconds, peak in taken:
                    record = self.records.setdefault(part, {"wall": [], "peak": []})
                    record["wall"].append(seconds)
                    record["peak"].append(peak)
                print(f"{taken[-1][1]:.2f} s", flush=True)
                spent[name].append(sum(seconds for _, seconds, _ in taken))


def over_budget(seconds: Sequence[float], budget: float) -> bool:
    """Whether one more run like those that took `seconds` would go beyond `budget` seconds."""
    return bool(seconds) and sum(seconds) * (1 + 1 / len(seconds)) > budget
