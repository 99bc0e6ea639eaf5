"""Measure this project and what people would use instead, side by side, on this machine.

Everything goes over the loopback interface. Takes one to two hours; ``--quick`` two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import bucket, report
from benchmarks.cases import NETWORKS, Case, Network, find_prefix, make_cases
from benchmarks.measure import (
    CommandError,
    Cost,
    describe_machine,
    describe_versions,
    find_s5cmd,
    make_environment,
    run_command,
)
from benchmarks.peers import PEERS, PROGRAMS, describe_peers, has_peers
from benchmarks.scale import PROBE, Scale, over_budget
from benchmarks.server import ServerError, serve
from benchmarks.tools import JOBS, TOOLS, Task, Tool, find_fault

#: Cases that are no selection: a second call in one Python, and the growth with the objects.
EXTRA_CASES = ("again", "scale")
SLOW_TOOLS = ("function", "snakemake", "aws-cp", "aws-pool")
#: Bytes on disk: the buckets, and one copy of the largest case.
DISK = 8 * 10**9
SIZES, QUICK_SIZES, MILLION = (1_000, 10_000, 100_000), (100, 1_000), 1_000_000


class Benchmark:
    """One run of the benchmark, with all its results so far."""

    def __init__(self, arguments: argparse.Namespace, scratch: Path) -> None:
        self.arguments = arguments
        self.scratch = scratch
        self.sizes = bucket.QUICK if arguments.quick else bucket.Sizes()
        self.n = arguments.n or (1 if arguments.quick else 5)
        self.aws = shutil.which(os.environ.get("LAION_FMRI_AWS") or "aws")
        self.s5cmd = find_s5cmd()
        self.has = {"": True, "aws": self.aws, "s5cmd": self.s5cmd, "curl": shutil.which("curl")}
        self.has["peers"] = has_peers()
        self.buckets = scratch / "buckets"
        self.home = scratch / "home"
        self.home.mkdir()
        self.results: dict[str, Any] = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "quick": arguments.quick,
            "n": self.n,
            "machine": describe_machine(scratch),
            "versions": describe_versions(self.aws, self.s5cmd)
            | (describe_peers() if arguments.peers else {}),
            "cases": [],
            "again": [],
            "scale": {},
        }

    def run(self) -> None:
        """Run everything that was asked for, and write the report after each part."""
        _say("making the buckets")
        bucket.make_buckets(self.buckets, self.sizes)
        self.objects = {
            name: bucket.read_bucket(self.buckets / name) for name in (bucket.MAIN, bucket.LARGE)
        }
        for file in self.buckets.rglob("*"):  # into the page cache
            if file.is_file():
                # In pieces: the memory of this process is the least that its children can show.
                with file.open("rb") as stream:
                    while stream.read(bucket.MIB):
                        pass
        networks = [n for n in NETWORKS if n.name in self.arguments.network]
        for number, network in enumerate(networks):
            with serve(
                self.buckets, delay=network.delay, rate=network.rate, deny=bucket.DENIED
            ) as endpoint:
                self._run_network(network, endpoint, is_first=number == 0)
        if "scale" in self.arguments.cases:
            self._run_scale()
        # At the end: what draws them takes memory that would count for every command.
        report.write_plots(self.results, self.arguments.out)

    def _run_network(self, network: Network, endpoint: str, *, is_first: bool) -> None:
        cases = [
            case
            for case in make_cases(self.sizes)
            if case.name in self.arguments.cases
            and network.name in (case.networks or [network.name])
        ]
        if self.arguments.quick and not is_first:
            cases = [case for case in cases if case.name == "everyone"]
        if is_first and not self.arguments.quick:
            _say("warming up")
            session = make_cases(self.sizes)[0]
            for tool in self._find_tools(session):
                self._run_tool(tool, session, endpoint)
        for case in cases:
            _say(f"{case.title}, {network.title}")
            self.results["cases"].append(self._run_case(case, network, endpoint))
            self.write()
        if "again" in self.arguments.cases and self.aws:
            _say(f"a second download() in one Python, {network.title}")
            self.results["again"].append(self._run_again(network, endpoint))
            self.write()

    def _find_tools(self, case: Case) -> list[Tool]:
        # A quick look sees every tool in the case of fewest files, and elsewhere the quick ones.
        slow = SLOW_TOOLS if self.arguments.quick and case.name != "large" else ()
        return [
            tool
            for tool in [*TOOLS, *PEERS]
            if tool.name in self.arguments.tools
            and tool.name not in slow
            and self.has[tool.needs]
            and case.name in (tool.cases or [case.name])
            and tool.name in (case.tools or [tool.name])
        ]

    def _run_case(self, case: Case, network: Network, endpoint: str) -> dict[str, Any]:
        """Let the tools take turns, each into a fresh folder, and then again into the same."""
        tools = self._find_tools(case)
        records: dict[str, Any] = {
            tool.name: {"title": tool.title, "fetch": [], "noop": [], "whole": tool.whole}
            for tool in tools
        }
        for turn in range(self.n):
            for tool in tools:
                record = records[tool.name]
                walls = [cost["wall"] for cost in record["fetch"]]
                if "error" in record or over_budget(walls, self.arguments.budget):
                    continue
                _say(f"  {turn + 1}/{self.n} {tool.title} ...", end=" ")
                try:
                    fetch, noop = self._run_tool(tool, case, endpoint)
                except CommandError as error:
                    record["error"] = str(error).partition(":")[0]
                    _say(f"FAILED: {error}")
                    continue
                record["fetch"].append(vars(fetch))
                record["noop"] += [vars(noop)] if noop else []
                _say(f"{fetch.wall:.2f} s" + (f", again {noop.wall:.2f} s" if noop else ""))
        expected = case.expect(self.objects[case.bucket])
        return {
            "case": case.name,
            "title": case.title,
            "network": network.name,
            "network_title": network.title,
            "files": len(expected),
            "bytes": sum(expected.values()),
            "tools": records,
        }

    def _run_tool(self, tool: Tool, case: Case, endpoint: str) -> tuple[Cost, Cost | None]:
        """Fetch `case` into a fresh folder, check what arrived, and run the same again."""
        task = self._make_task(case, endpoint)
        try:
            command = tool.prepare(task)
            env = make_environment(endpoint, case.bucket, self.home, self.aws)
            how = {"env": env, "folder": task.work, "timeout": self.arguments.timeout}
            fetch = run_command(command, **how)
            noop = run_command(command, **how) if tool.repeats else None
            if fault := find_fault(task, tool):
                raise CommandError(fault)
            return fetch, noop
        finally:
            shutil.rmtree(task.work.parent, ignore_errors=True)

    def _make_task(self, case: Case, endpoint: str) -> Task:
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=self.scratch))
        target, work = folder / "target", folder / "work"
        target.mkdir()
        work.mkdir()
        expected = case.expect(self.objects[case.bucket])
        objects = self.buckets / case.bucket
        return Task(case, endpoint, expected, target, work, objects, self.aws, self.s5cmd)

    def _run_again(self, network: Network, endpoint: str) -> dict[str, Any]:
        """Measure ``download()`` with nothing to do against listings, inside one Python."""
        case = next(case for case in make_cases(self.sizes) if case.name == "subject")
        task = self._make_task(case, endpoint)
        try:
            given = {
                "endpoint": endpoint,
                "bucket": case.bucket,
                "prefixes": [*map(find_prefix, case.globs), ""],
                "selection": case.selection | {"data_dir": str(task.target), "n_jobs": JOBS},
                "n": 2 if self.arguments.quick else max(self.n, 10),
            }
            env = make_environment(endpoint, case.bucket, self.home, self.aws)
            answer = task.work / "answer.json"
            command = [sys.executable, str(PROBE), "again", json.dumps(given)]
            run_command(
                command,
                env=env,
                folder=task.work,
                timeout=self.arguments.timeout,
                output=answer,
            )
            times = json.loads(answer.read_text())
        except CommandError as error:
            _say(f"  FAILED: {error}")
            times = {}
        finally:
            shutil.rmtree(task.work.parent, ignore_errors=True)
        return {"network_title": network.title, "times": times}

    def _run_scale(self) -> None:
        _say("growth with the number of objects")
        sizes = QUICK_SIZES if self.arguments.quick else SIZES
        all_sizes = [*sizes, MILLION] if self.arguments.million else sizes
        nothing = self.scratch / "nothing"
        nothing.mkdir()
        with serve(nothing, synthetic=all_sizes) as endpoint:
            for total in all_sizes:
                env = make_environment(endpoint, f"synthetic-{total}", self.home, self.aws)
                work = self.scratch / f"scale-{total}"
                limits = {"budget": self.arguments.budget, "timeout": self.arguments.timeout}
                scale = Scale(total, endpoint, env, work, n=self.n, **limits)
                scale.measure_table()
                if total in sizes and self.aws:
                    scale.measure_commands()
                self.results["scale"][str(total)] = scale.records
                shutil.rmtree(work)
                self.write()

    def write(self) -> None:
        """Write the results so far."""
        report.write_tables(self.results, self.arguments.out)


def _say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


def main() -> None:
    """Run the benchmark."""
    case_names = [case.name for case in make_cases(bucket.Sizes())] + list(EXTRA_CASES)
    tool_names = [tool.name for tool in TOOLS]
    peer_names = [tool.name for tool in PEERS]
    network_names = [network.name for network in NETWORKS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, help="repetitions (default: 5, quick: 1)")
    parser.add_argument("--quick", action="store_true", help="tiny buckets: does it all run?")
    parser.add_argument("--peers", action="store_true", help="other tools of the field as well")
    for name, names in (("cases", case_names), ("tools", tool_names), ("network", network_names)):
        parser.add_argument(
            f"--{name}",
            nargs="+",
            choices=[*names, *(peer_names if name == "tools" else ())],
            default=names,
            metavar="NAME",
            help=", ".join(names),
        )
    parser.add_argument("--million", action="store_true", help="the key table of 1,000,000 objects")
    parser.add_argument(
        "--budget",
        type=float,
        default=300.0,
        help="seconds of one tool in one case, beyond which it is repeated less often",
    )
    parser.add_argument(
        "--timeout", type=float, default=900.0, help="seconds after which a command is given up"
    )
    parser.add_argument("--scratch", type=Path, help="where to work (default: the system's)")
    parser.add_argument(
        "--out", type=Path, help="default: docs/benchmarks, and for a quick look build/benchmarks"
    )
    arguments = parser.parse_args()
    arguments.out = arguments.out or Path("build" if arguments.quick else "docs", "benchmarks")
    if arguments.peers:
        if not has_peers():
            parser.error(f"--peers: there is no Python in {PROGRAMS}; make bench BENCH=--peers")
        arguments.tools = list(dict.fromkeys([*arguments.tools, *peer_names]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is cleaned up
    try:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.scratch) as scratch:
            free = shutil.disk_usage(scratch).free
            if not arguments.quick and free < DISK:
                where = "name a roomier folder with --scratch"
                raise ServerError(
                    f"{DISK / 1e9:.0f} GB are needed, {free / 1e9:.1f} are free; {where}"
                )
            Benchmark(arguments, Path(scratch)).run()
    except ServerError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    _say(f"the report is in {arguments.out}")


if __name__ == "__main__":
    main()
