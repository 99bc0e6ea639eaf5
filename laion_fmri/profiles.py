"""Snakemake profiles that send jobs to a cluster: which there are, and what matters of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from laion_fmri.config import StrPath
from laion_fmri.errors import ConfigError


class Profile(NamedTuple):
    """A folder with the ``config.yaml`` of a profile, and how many jobs it runs at once."""

    folder: Path
    jobs: int


def find_profile(name: StrPath) -> Profile:
    """Find a profile: ours by the name ``slurm``, a folder, or one that Snakemake knows by name.

    Raises
    ------
    ConfigError
        If there is none, it cannot be read, or it names no executor.
    """
    import yaml

    name = os.fspath(name)
    package = Path(__file__).parent
    if name == "slurm":
        places = [folder / "profiles" / name for folder in (package / "workflow", package.parent)]
    else:
        places = [Path(name).expanduser().absolute(), *_find_user_folders(name)]
    folder = next((place for place in places if (place / "config.yaml").is_file()), None)
    if folder is None:
        raise ConfigError(
            f"there is no profile {name!r}; write 'slurm' for ours, or the folder of one of yours,"
            " with a config.yaml in it"
        )
    try:
        content: Any = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, yaml.YAMLError) as error:
        reason = str(error).replace("\n", " ")
        raise ConfigError(f"the profile {folder} cannot be read: {reason}") from None
    if not isinstance(content, dict) or not content.get("executor"):
        raise ConfigError(f"the profile {folder} names no executor, such as executor: slurm")
    jobs = content.get("jobs", 1)
    return Profile(folder, jobs if isinstance(jobs, int) and jobs > 0 else 1)


def _find_user_folders(name: str) -> list[Path]:
    """Return where Snakemake itself looks for a profile of this name."""
    from platformdirs import site_config_path, user_config_path

    places = (user_config_path, site_config_path)
    return [place("snakemake", appauthor=False) / name for place in places]
