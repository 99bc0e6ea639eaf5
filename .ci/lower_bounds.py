"""Check the lower bounds of pyproject.toml: the lowest releases, together, fetch the sample.

Run by `make test-lowest` with the Python of .venv, which serves the sample bucket. The environment
under test is made in a temporary folder, with the lowest Python that the package supports.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from laion_fmri.keys import key_table
from laion_fmri.sample import sample_objects, serve_sample

ROOT = Path(__file__).parent.parent
SELECTION = ("--subject", "sub-03", "--ses", "ses-01")
#: The commands do without pandas; the functions return its tables.
TABLES = """\
from laion_fmri.discovery import describe, list_entities
from laion_fmri.download import download
print(describe(), list_entities("sub-03"), download("sub-03", ses="ses-01"))
"""


def main() -> None:
    """Install what pyproject.toml allows at the lowest, and run the commands with it."""
    with tempfile.TemporaryDirectory(prefix="laion-fmri-lowest-") as name, serve_sample() as server:
        folder = Path(name)
        install(folder)
        os.environ |= {
            "LAION_FMRI_ENDPOINT_URL": server.endpoint_url,
            "LAION_FMRI_BUCKET": server.bucket,
            "LAION_FMRI_DATA_DIR": str(folder / "data"),
            "XDG_CONFIG_HOME": str(folder / "settings"),
        }
        for made in ("data", "clone"):
            (folder / made).mkdir()
        for part in ("config", "workflow"):
            shutil.copytree(ROOT / part, folder / "clone" / part)
        shutil.copy(ROOT / "Snakefile", folder / "clone")
        # What the pinned releases select is what the lowest ones have to bring.
        expected = {key: sample_objects()[key] for key in key_table("sub-03", ses="ses-01")["key"]}
        laion_fmri, clone = folder / "bin" / "laion-fmri", folder / "clone"
        run(clone, laion_fmri, "download", *SELECTION, "--n-jobs", "2")
        if read_tree(folder / "data") != expected:
            sys.exit("error: what was downloaded is not what the sample bucket has")
        if run(clone, laion_fmri, "ls", *SELECTION).split() != sorted(expected):
            sys.exit("error: ls does not list what download fetched")
        run(clone, laion_fmri, "status", "--html", "page.html")
        run(clone, laion_fmri, "verify", *SELECTION)
        run(clone, folder / "bin" / "python", "-c", TABLES)
        if "fetch" not in run(clone, folder / "bin" / "snakemake", "-n"):
            sys.exit("error: snakemake -n plans nothing")
        check_pipelines(folder)
    print(f"The lower bounds hold: {len(expected)} files fetched.")


def check_pipelines(folder: Path) -> None:
    """Run the pipelines of the tests with the Snakemake of the environment in `folder`."""
    os.environ["LAION_FMRI_TEST_PYTHON"] = str(folder / "bin" / "python")
    for name in ("LAION_FMRI_ENDPOINT_URL", "LAION_FMRI_BUCKET", "LAION_FMRI_DATA_DIR"):
        os.environ.pop(name, None)
    # All but a plugin that is not in it, and some combinations.
    which = "not storage and not none and not sub-03"
    tests = ["tests/ways_in/test_guest.py", "-k", which]
    run(ROOT, sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *tests)


def install(folder: Path) -> None:
    """Make an environment in `folder` with the package and the lowest releases of what it needs."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = settings["project"]
    # Extras have bounds of their own, which nothing here reads.
    bounds = [lower_bound(text) for text in settings["build-system"]["requires"]]
    bounds += (wanted := [lower_bound(text) for text in project["dependencies"]])
    (folder / "bounds.txt").write_text("\n".join(bounds))
    # What these need in turn is pinned too. It contradicts bounds.txt if a bound has moved since.
    shutil.copy(ROOT / "requirements" / "lowest.txt", folder)
    run(folder, find_python(project["requires-python"].removeprefix(">=")), "-m", "venv", ".")
    os.environ["PIP_CONSTRAINT"] = os.environ["PIP_BUILD_CONSTRAINT"] = "bounds.txt lowest.txt"
    print("Installing", *bounds, flush=True)
    try:
        run(folder, "bin/python", "-m", "pip", "install", "--quiet", ROOT, *wanted)
    except SystemExit:
        print("Has a bound moved since `make constraints` was run?", file=sys.stderr)
        raise


def lower_bound(requirement: str) -> str:
    """Return `name==version` for a requirement such as `name>=version,<other`."""
    found = re.match(r"([\w.-]+)>=([\w.]+)", requirement)
    if not found:
        sys.exit(f"error: {requirement} in pyproject.toml has no lower bound")
    return "==".join(found.groups())


def find_python(version: str) -> str:
    """Return the command of the Python of this version."""
    if version == "{}.{}".format(*sys.version_info):
        return sys.executable
    return shutil.which(f"python{version}") or sys.exit(f"error: this needs Python {version}")


def read_tree(data_dir: Path) -> dict[str, bytes]:
    """Return the content of every file of the bucket that is here, by its key."""
    return {
        file.relative_to(data_dir).as_posix(): file.read_bytes()
        for file in data_dir.rglob("*")
        if file.is_file() and ".laion_fmri" not in file.parts
    }


def run(folder: Path, *command: str | Path) -> str:
    """Run a command in `folder` and return what it printed; end with its messages if it failed."""
    words = [str(word) for word in command]
    print("$", Path(words[0]).name, *words[1:], flush=True)
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stdout + done.stderr
        sys.exit(f"{said}\nerror: {words[0]} ended with exit status {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main()
