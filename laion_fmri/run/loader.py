"""Snakemake's own process: load it, wait for its command line on standard input, and run it.

Started by path from :mod:`laion_fmri.run.process`, so that loading Snakemake, which takes most of a
second, can go on while the bucket is listed. When standard input ends, whoever has started this is
gone, and this ends with all that it has started.
"""

import contextlib
import gc
import importlib
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback

#: What a run imports sooner or later, as seen with ``python -X importtime``.
MODULES = (
    "snakemake.cli",
    "snakemake.api",
    "snakemake.report",
    "snakemake.sourcecache",
    "snakemake.scheduling.greedy",
    "smart_open",
    "jsonschema",
    "laion_fmri.run.pipeline_modules",
    "laion_fmri.run.rules",
)
#: Seconds that Snakemake gets to stop its jobs when it is not wanted any more.
GRACE = 8.0


def main() -> None:
    """Run Snakemake with the arguments, and into the log file, that a line of input names as JSON.

    Without a word there, whoever has started this has nothing to do: end quietly.
    """
    # Where a shell has started the command in the background, interrupts would be ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()  # loading makes a great many objects and no garbage
    for name in MODULES:
        with contextlib.suppress(ImportError):  # what is really needed fails again, into the log
            importlib.import_module(name)
    gc.freeze()
    gc.enable()
    text = sys.stdin.readline()
    if not text:
        return
    order = json.loads(text)
    threading.Thread(target=_end_with_starter, args=(os.dup(0),), daemon=True).start()
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    _make_cache(os.path.dirname(order["log"]))  # noqa: PTH120 - pathlib is not loaded for it
    sys.argv = ["snakemake", *order["argv"]]
    from snakemake.cli import main as run_snakemake

    status = 1
    try:
        run_snakemake(order["argv"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # A timer of Snakemake's would hold up an orderly exit for up to a second.
    os._exit(status)


def _make_cache(run_folder: str) -> None:
    """Give Snakemake a cache in the folder of the run where the user's cannot be written."""
    usual = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    try:
        os.makedirs(f"{usual}/snakemake", exist_ok=True)  # noqa: PTH103
        is_usable = os.access(f"{usual}/snakemake", os.W_OK)
    except OSError:
        is_usable = False
    if not is_usable:
        os.environ["XDG_CACHE_HOME"] = f"{run_folder}/cache"


def _end_with_starter(pipe: int) -> None:
    """Wait until the other end of `pipe` is closed; then end the whole group, gently at first."""
    while os.read(pipe, 1):
        pass
    os.killpg(0, signal.SIGINT)
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
