"""The documentation site, built once for all tests of the project."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from helpers import REPO, run


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as ``make docs`` does, every warning being an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    done = run(command, cwd=REPO, NO_MKDOCS_2_WARNING=1)
    assert done.returncode == 0, done.stderr
    return folder
