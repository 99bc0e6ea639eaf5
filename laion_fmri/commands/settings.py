"""The commands about the tool itself: config, license, snakefile, demo."""

from __future__ import annotations

import argparse
from typing import Any

from laion_fmri.commands.output import DONE, add_command, add_options

#: Where ``laion-fmri demo --serve`` serves, unless a port is named.
PORT = 8047


def add(commands: Any) -> None:
    """Add the commands to the parsers `commands`."""
    config = add_command(commands, "config", _run_config, "choose or show the data directory")
    add_options(config, data_dir="the folder to use from now on")
    config.epilog = "example: laion-fmri config --data-dir ./laion_fmri_data"

    license_ = add_command(
        commands, "license", _run_license, "show or accept the licences of the data"
    )
    license_.add_argument(
        "--accept-stimuli", action="store_true", help="accept the closed licence of the stimuli"
    )
    add_options(license_, data_dir="the folder that it is recorded in")
    license_.epilog = "example: laion-fmri license --accept-stimuli"

    snakefile = add_command(
        commands, "snakefile", _run_snakefile, "print the Snakefile that a pipeline can embed"
    )
    snakefile.epilog = 'in a pipeline: module laion: snakefile: "<what this prints>"'

    demo = add_command(
        commands, "demo", _run_demo, "see it work, on a small sample bucket of its own"
    )
    demo.add_argument(
        "--serve",
        nargs="?",
        type=int,
        const=PORT,
        metavar="PORT",
        help=f"only serve the sample bucket, for other programs, until Ctrl-C (port {PORT})",
    )
    demo.epilog = "Needs the extra 'demo': pip install 'laion-fmri[demo]'."


def _run_config(arguments: argparse.Namespace) -> int:
    from laion_fmri.config import dataset_initialize, find_data_dir

    if arguments.data_dir is not None:
        print(f"data directory: {dataset_initialize(arguments.data_dir)}")
        return DONE
    path, source = find_data_dir()
    print(f"data directory: {path} ({source})")
    return DONE


def _run_license(arguments: argparse.Namespace) -> int:
    from laion_fmri import dataset
    from laion_fmri.config import get_data_dir
    from laion_fmri.folder.licences import accept_licenses, has_accepted_stimuli

    path = get_data_dir(arguments.data_dir)
    if arguments.accept_stimuli:
        accept_licenses(include_stimuli=True, data_dir=path)
    accepted = "accepted" if has_accepted_stimuli(path) else "not accepted"
    print(dataset.BRAIN_LICENSE)
    print(dataset.STIMULI_LICENSE)
    print(f"The licence of the stimuli is {accepted} for {path}.")
    return DONE


def _run_snakefile(_arguments: argparse.Namespace) -> int:
    from laion_fmri.run.process import find_workflow

    print(find_workflow() / "Snakefile")
    return DONE


def _run_demo(arguments: argparse.Namespace) -> int:
    from laion_fmri.commands.sample_demo import run_demo, serve_until_interrupted

    return run_demo() if arguments.serve is None else serve_until_interrupted(arguments.serve)
