"""Check the newest Python to be had: with it, and the pinned releases, pipelines get their files.

Run by `make test-newest` with the Python of .venv. The environment is made in a temporary folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lower_bounds import ROOT, check_pipelines, run


def main() -> None:
    """Install the package with the newest Python, and run the pipelines of the tests with it."""
    found = find_newest()
    if not found:
        print("There is no Python here that is newer than that of .venv: nothing to check.")
        return
    with tempfile.TemporaryDirectory(prefix="laion-fmri-newest-") as name:
        folder = Path(name)
        run(folder, found, "-m", "venv", ".")
        os.environ["PIP_CONSTRAINT"] = str(ROOT / "requirements" / "constraints.txt")
        run(folder, "bin/python", "-m", "pip", "install", "--quiet", ROOT)
        check_pipelines(folder)


def find_newest() -> str | None:
    """Return the command of the newest Python that is newer than this one, if there is any."""
    for minor in range(sys.version_info.minor + 5, sys.version_info.minor, -1):
        command = shutil.which(f"python3.{minor}")
        pyenv = Path.home() / ".pyenv" / "versions"
        places = [command, *map(str, pyenv.glob(f"3.{minor}.*/bin/python"))]
        for place in filter(None, places):
            done = subprocess.run(
                [place, "-c", "import ssl, venv"], capture_output=True, check=False
            )
            if done.returncode == 0:
                return place
    return None


if __name__ == "__main__":
    main()
