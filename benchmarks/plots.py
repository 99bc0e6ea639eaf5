"""The results as plots: one panel for each case and network, and the growth with the objects."""

from __future__ import annotations

from math import nan
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks import report
from benchmarks.scale import PARTS

Record = dict[str, Any]

#: Ours stand out; what others have made is grey.
OURS, OTHERS = "#c1440e", "#4d5a66"
OUR_TOOLS = ("command", "function", "snakemake")
STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "laion-fmri",  # the same picture is the same file
}


def plot_cases(results: Record, file: Path) -> None:
    """Draw a row of panels for each case, fetch and again, with one column for each network."""
    networks = list(dict.fromkeys(case["network"] for case in results["cases"]))
    names = dict.fromkeys(case["case"] for case in results["cases"])
    by_place = {(case["case"], case["network"]): case for case in results["cases"]}
    rows = [(name, "fetch") for name in names]
    rows += [(name, "noop") for name in names if name == "subject"]
    tools = {
        row: list(
            dict.fromkeys(
                tool
                for network in networks
                for tool, record in by_place.get((row[0], network), {"tools": {}})["tools"].items()
                if record[row[1]]
            )
        )
        for row in rows
    }
    heights = [len(tools[row]) + 2.5 for row in rows]
    with mpl.rc_context(STYLE):
        figure, grid = plt.subplots(
            len(rows),
            len(networks),
            figsize=(3 + 4.2 * len(networks), 0.24 * sum(heights)),
            height_ratios=heights,
            squeeze=False,
            layout="constrained",
        )
        for row, axes in zip(rows, grid, strict=True):
            labelled = False
            for network, panel in zip(networks, axes, strict=True):
                case = by_place.get((row[0], network))
                if case is None:
                    panel.axis("off")
                    continue
                _draw_panel(panel, case, row[1], tools[row])
                panel.tick_params(labelleft=not labelled)
                labelled = True
        _save(figure, file)


def _draw_panel(panel: Axes, case: Record, what: str, tools: list[str]) -> None:
    titles = []
    for place, name in enumerate(tools):
        record = case["tools"].get(name, {"title": name, what: []})
        titles.append(record["title"])
        walls = [cost["wall"] for cost in record[what]]
        if not walls:
            continue
        colour = OURS if name in OUR_TOOLS or name.startswith("command") else OTHERS
        panel.plot([min(walls), max(walls)], [place, place], color=colour, linewidth=2, alpha=0.5)
        panel.plot(median(walls), place, "o", color=colour, markersize=5)
        panel.annotate(
            report.format_seconds(median(walls)),
            (max(walls), place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=colour,
        )
    again = ", again: nothing to do" if what == "noop" else ""
    panel.set_title(f"{case['title']}{again}\n{case['network_title']}", fontsize=9, loc="left")
    panel.set_yticks(range(len(tools)), titles)
    panel.set_ylim(len(tools) - 0.5, -0.5)
    panel.set_xscale("log")
    low, high = panel.get_xlim()
    panel.set_xlim(low, high * 2)  # room for the last figure
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.grid(axis="x", which="both", alpha=0.25)
    panel.set_xlabel("seconds")


def plot_scale(results: Record, file: Path) -> None:
    """Draw seconds and peak memory over the number of objects."""
    with mpl.rc_context(STYLE):
        figure, (times, peaks) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
        for part, title in PARTS.items():
            if part.endswith("-first"):
                continue
            points = [
                (
                    int(total),
                    median(parts[part]["wall"]),
                    max(parts[part].get("peak") or [nan]) / 2**20,
                )
                for total, parts in results["scale"].items()
                if parts.get(part, {}).get("wall")
            ]
            if not points:
                continue
            totals, seconds, memory = zip(*points, strict=True)
            style = {"marker": "o", "markersize": 4, "label": title}
            if part == "listing":
                style |= {"color": "black", "linestyle": "--"}
            times.plot(totals, seconds, **style)
            peaks.plot(totals, memory, **style)
        for panel, label in ((times, "seconds"), (peaks, "peak memory, MiB")):
            panel.set_xscale("log")
            panel.set_yscale("log")
            panel.set_xlabel("objects")
            panel.set_ylabel(label)
            panel.grid(which="both", alpha=0.2)
            for axis in (panel.xaxis, panel.yaxis):
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
                axis.set_minor_formatter(NullFormatter())
        peaks.legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False)
        _save(figure, file)


def _save(figure: Any, file: Path) -> None:
    figure.savefig(file, metadata={"Date": None}, facecolor="white")
    plt.close(figure)
