"""Renew the pins in this folder. Run by `make constraints`; takes less than a minute.

uv chooses them, in an environment of its own in a temporary folder: one set for every supported
Python, whichever Python runs this. What pip freezes is only good for the Python it ran on.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEADER = """\
# {what}
# Made by `make constraints` with uv {options}. Do not edit.
"""
#: Where `make demo` has to find wheels, so that no compiler is needed.
PLATFORMS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "aarch64-apple-darwin")
#: Pure Python, and published as source only.
SOURCE_ONLY = ("connection-pool", "throttler")
#: What editable installs and the packages above are built with, besides what pyproject.toml names.
BUILD_TOOLS = ("editables", "setuptools", "wheel")


def main() -> None:
    """Write the three files, then check that every pin can be installed."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, build = settings["project"], settings["build-system"]["requires"]
    lowest, *_ = pythons = [
        found[1]
        for text in project["classifiers"]
        if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", text))
    ]
    extras = project["optional-dependencies"]
    (awscli,) = (text for text in extras["aws"] if text.startswith("awscli"))
    # The extra `aws` needs an older Snakemake than all the others, so it is left out.
    everything = [f"--extra={name}" for name in extras if name != "aws"]
    universal = ["--universal", f"--python-version={lowest}"]
    with tempfile.TemporaryDirectory(prefix="laion-fmri-constraints-") as folder:
        uv = install_uv(Path(folder))
        # "fewest": one release for all Pythons, rather than the newest for each.
        options = [*universal, "--fork-strategy=fewest"]
        what = "For .venv: all extras but aws, and what builds the packages."
        pins = write(uv, "constraints.txt", what, options, everything, [*build, *BUILD_TOOLS])
        write(uv, "aws.txt", "For .venv-aws: the AWS CLI.", options, None, [awscli])
        tools = [pin for pin in pins if pin.startswith(("setuptools==", "wheel=="))]
        options = [*universal, "--resolution=lowest-direct"]
        what = "For `make test-lowest`: what pyproject.toml allows at the lowest."
        write(uv, "lowest.txt", what, options, [], [*build, *tools])
        for python in pythons:
            check_wheels(uv, "constraints.txt", python)
            check_wheels(uv, "aws.txt", python)
        check_wheels(uv, "lowest.txt", lowest)


def install_uv(folder: Path) -> str:
    """Install uv below `folder` and return its path."""
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "uv"], check=True)
    return str(folder / "bin" / "uv")


def write(
    uv: str, name: str, what: str, options: list[str], extras: list[str] | None, more: Iterable[str]
) -> list[str]:
    """Pin what the project with `extras` (None: without it) and `more` need; return the pins."""
    sources = ["-"] if extras is None else [*extras, "pyproject.toml", "-"]
    pins = compile_pins(uv, [*options, *sources], "\n".join(more))
    header = HEADER.format(what=what, options=" ".join(options))
    (ROOT / "requirements" / name).write_text(header + pins)
    return pins.splitlines()


def check_wheels(uv: str, name: str, python: str) -> None:
    """Fail if a pin has no wheel for this Python on a platform, or asks for a newer Python."""
    pins = (ROOT / "requirements" / name).read_text().splitlines()
    wheels = "\n".join(pin for pin in pins if pin.partition("==")[0] not in SOURCE_ONLY)
    for platform in PLATFORMS:
        options = [f"--python-version={python}", f"--python-platform={platform}"]
        compile_pins(uv, [*options, "--no-deps", "--only-binary=:all:", "-"], wheels)


def compile_pins(uv: str, arguments: list[str], text: str = "") -> str:
    """Return what `uv pip compile` prints, with `text` as its standard input."""
    # With the Python at hand, whatever it is: uv would look for one of the version that is asked.
    options = ["--quiet", "--no-header", "--no-annotate", f"--python={sys.executable}"]
    done = subprocess.run(
        [uv, "pip", "compile", *options, *arguments],
        cwd=ROOT,
        input=text,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


if __name__ == "__main__":
    main()
