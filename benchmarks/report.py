"""Write the results as JSON, as tables and as plots. It judges nothing.

``python -m benchmarks.report FOLDER`` writes tables and plots again from ``FOLDER/results.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peers import NOTES as PEER_NOTES
from benchmarks.peers import PEERS
from benchmarks.scale import PARTS

Record = dict[str, Any]

OURS = "command"
NOTES = """\
How it was measured:

- All tools bring the same keys from the same server on the same machine, anonymously, without any
  AWS configuration of the user's; after each run the keys and sizes that arrived are compared with
  the selection. The four root files belong to every selection. The held-out
  sessions 31 to 34 belong to none: the server refuses them.
- Tools take turns, each into a fresh folder, and each runs once more into the same folder: *again*.
  Seconds are medians, with the fastest and slowest run; CPU seconds are those of the client with
  all its children. *n* is lower where one tool would take too long.
- The server, nginx, is on the same cores as the tools. Added delay counts for every request,
  listings included. A connection's rate is kept to within a chunk of 256 KiB.
- `aws s3 sync` and `aws s3 cp --recursive` run once, on the whole bucket, with `--exclude '*'`, an
  `--include` for each pattern of the selection and an `--exclude` for each held-out session: one
  start and a longer listing take less time than a start for each prefix. Their settings are the
  defaults. *The main prefix only* is the
  one folder of the session or subject in the derivatives, without masks, averages and root files.
- `aws s3 cp` fetches everything again when it is run again, and so does curl: no figure.
- s5cmd runs one `cp -n -s` for each pattern, all in one process; this was faster than `sync`.
- boto3 and the pool of `aws s3 cp` list the prefixes, skip what has the right size, and fetch the
  rest in 16 and 4 threads; `download_file` splits large objects by itself.
- curl is told every URL, lists nothing and checks nothing. It gets objects above 16 MiB in ranges,
  each into a file of its own: the floor, not a tool.
"""


def write_tables(results: Record, out: Path) -> None:
    """Write ``results.json`` and ``results.md`` to the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (out / "results.md").write_text(make_markdown(results))


def write_plots(results: Record, out: Path) -> None:
    """Write the plots to the folder `out`, if there is matplotlib to draw them."""
    try:
        from benchmarks.plots import plot_cases, plot_scale
    except ImportError:
        print("matplotlib is not installed: no plots")
        return
    if results["cases"]:
        plot_cases(results, out / "results.svg")
    if results["scale"]:
        plot_scale(results, out / "scale.svg")


def make_markdown(results: Record) -> str:
    """Return the whole report."""
    machine = "; ".join(f"{name}: {value}" for name, value in results["machine"].items())
    versions = ", ".join(f"{name} {value}" for name, value in results["versions"].items())
    parts = [
        "# Benchmark\n",
        f"Made by `make bench` on {results['date']}, {results['n']} repetitions"
        + (
            " of a quick look with tiny objects: **not figures to quote**"
            if results["quick"]
            else ""
        )
        + ".\n",
        f"- Machine: {machine}\n- Versions: {versions}\n",
    ]
    if results["cases"]:
        parts += ["## Ratios\n", _make_ratios(results["cases"]), "![](results.svg)\n"]
    for case in results["cases"]:
        parts += [_make_heading(case), _make_case_table(case)]
    if results["again"]:
        parts += [
            "## A second `download()` in one Python\n",
            "Everything is in place. Milliseconds, median (fastest to slowest).\n",
            _make_again_table(results["again"]),
        ]
    if results["scale"]:
        parts += ["## Growth with the number of objects\n", _make_scale_tables(results["scale"])]
        parts.append("![](scale.svg)\n")
    names = {name for case in results["cases"] for name in case["tools"]}
    notes = NOTES + (PEER_NOTES if names & {tool.name for tool in PEERS} else "")
    return "\n".join([*parts, "## Method\n", notes])


def format_seconds(value: float) -> str:
    """Return seconds with as many digits as mean something."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def find_median(costs: Sequence[Record], what: str = "wall") -> float | None:
    """Return the median of one measure of repeated runs, if there are any."""
    return median(cost[what] for cost in costs) if costs else None


def _make_heading(case: Record) -> str:
    total = case["bytes"]
    size = f"{total / 1e9:.2f} GB" if total >= 1e8 else f"{total / 1e6:.2f} MB"
    title = case["title"][0].upper() + case["title"][1:]
    return f"## {title}, {case['network_title']}\n\n{case['files']:,} files, {size}\n"


def _make_ratios(cases: Sequence[Record]) -> str:
    """Return how our command compares with each tool, for all cases in one table."""
    titles = {name: tool["title"] for case in cases for name, tool in case["tools"].items()}
    titles.pop(OURS, None)
    rows = []
    for what, label in (("fetch", ""), ("noop", ", again")):
        for case in cases:
            ours = find_median(case["tools"].get(OURS, {}).get(what, ()))
            cells = [f"{case['title']}{label}", case["network_title"].partition(",")[0]]
            for name in titles:
                theirs = find_median(case["tools"].get(name, {}).get(what, ()))
                cells.append(f"{ours / theirs:.2f}" if ours and theirs else "—")
            if set(cells[2:]) != {"—"}:
                rows.append(cells)
    text = (
        "Seconds of `laion-fmri download` divided by those of the tool; below 1 it is faster.\n\n"
    )
    return text + make_table(["case", "network", *titles.values()], rows)


def _make_case_table(case: Record) -> str:
    ours = case["tools"].get(OURS, {})
    rows = []
    for tool in case["tools"].values():
        row = [tool["title"] + (f" (then failed: {tool['error']})" if "error" in tool else "")]
        if not tool["fetch"]:
            rows.append([f"{tool['title']} (failed: {tool.get('error', 'not run')})", *[""] * 7])
            continue
        for what in ("fetch", "noop"):
            costs = tool[what]
            wall, cpu = find_median(costs), find_median(costs, "cpu")
            base = find_median(ours.get(what, ()))
            row.append(_format_range([cost["wall"] for cost in costs]))
            row.append("—" if cpu is None else format_seconds(cpu))
            row.append(f"{base / wall:.2f}" if base and wall else "—")
        rows.append([*row, str(len(tool["fetch"]))])
    head = ["tool", "seconds", "CPU s", "ours / this", "again, s", "CPU s", "ours / this", "n"]
    return make_table(head, rows)


def _format_range(values: Sequence[float], factor: float = 1.0) -> str:
    if not values:
        return "—"
    scaled = [value * factor for value in values]
    middle, low, high = map(format_seconds, (median(scaled), min(scaled), max(scaled)))
    return middle if len(scaled) == 1 else f"{middle} ({low}–{high})"


def _make_again_table(records: Iterable[Record]) -> str:
    rows = []
    for record in records:
        times = record["times"]
        if not times:
            rows.append([record["network_title"], "failed", "", "", "", ""])
            continue
        ours, one, all_ = (times[name] for name in ("download", "listing", "listings"))
        cells = [_format_range(values, 1000) for values in (ours, one, all_)]
        ratios = [f"{median(ours) / median(values):.2f}" for values in (one, all_)]
        rows.append([record["network_title"], *cells, *ratios])
    listings = "all three listings by boto3, in turn"
    head = ["network", "download()", "listing of the main prefix by boto3", listings]
    return make_table([*head, "ratio to the one", "ratio to the three"], rows)


def _make_scale_tables(scale: Record) -> str:
    """Return seconds and peak memory of every part, a column for each number of objects."""
    totals = list(scale)
    head = [f"{int(total):,}" for total in totals]
    times, peaks = [], []
    for part, title in PARTS.items():
        records = [scale[total].get(part, {}) for total in totals]
        if not any(records):
            continue
        values = [median(r["wall"]) if r.get("wall") else None for r in records]
        cells = []
        for place, value in enumerate(values):
            before = values[place - 1] if place else None
            grown = f" (×{value / before:.1f})" if value and before else ""
            failure = records[place].get("error", "—").partition(":")[0]
            cells.append(failure if value is None else format_seconds(value) + grown)
        times.append([title, *cells])
        if not part.endswith("-first"):
            cells = [f"{max(r['peak']) / 2**20:.0f}" if r.get("peak") else "—" for r in records]
            peaks.append([title, *cells])
    listing, table = (
        [
            median(scale[t][part]["wall"]) if scale[t].get(part, {}).get("wall") else None
            for t in totals
        ]
        for part in ("listing", "table")
    )
    ratios = [f"{b / a:.2f}" if a and b else "—" for a, b in zip(listing, table, strict=True)]
    times.append(["key_table() / bare listing", *ratios])
    return "\n".join(
        [
            "A listing without files behind it, 0 ms. Seconds, and how many times those of the"
            " column before:\n",
            make_table(["objects", *head], times),
            "Peak memory of the largest process, MiB:\n",
            make_table(["objects", *head], peaks),
        ]
    )


def make_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table with the first column to the left and the others to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main() -> None:
    """Write tables and plots again from the results of an earlier run."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/benchmarks"))
    folder = parser.parse_args().folder
    results = json.loads((folder / "results.json").read_text())
    write_tables(results, folder)
    write_plots(results, folder)


if __name__ == "__main__":
    main()
