"""Snakemake profiles that send jobs to a cluster: which there are, and what matters of them."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from laion_fmri.base.files import StrPath, expand_path
from laion_fmri.errors import ConfigError

#: Jobs at once of a profile that does not say, and of one that sets no limit.
JOBS, MOST_JOBS = 8, 100
#: The files that Snakemake would read in the folder of a profile, the newest first.
FILES = ("profile.yaml", "config.v9+.yaml", "config.v8+.yaml", "config.yaml")


class Profile(NamedTuple):
    """A folder with the ``config.yaml`` of a profile, and how many jobs it runs at once."""

    folder: Path
    jobs: int


def find_profile(name: StrPath) -> Profile:
    """Find a profile: ours by the name ``slurm``, a folder, or one that Snakemake knows by name."""
    import yaml
    from platformdirs import site_config_path, user_config_path

    name = os.fspath(name)
    package = Path(__file__).parent.parent
    if name == "slurm":
        places = [folder / "profiles" / name for folder in (package / "workflow", package.parent)]
    else:
        known = (
            path("snakemake", appauthor=False) for path in (user_config_path, site_config_path)
        )
        places = [expand_path(name).absolute(), *(folder / name for folder in known)]
    files = [place / file for place in places for file in FILES]
    file = next(filter(Path.is_file, files), None)
    if file is None:
        raise ConfigError(
            f"there is no profile {name!r}; write 'slurm' for ours, or the folder of one of yours,"
            " with a config.yaml in it"
        )
    try:
        content: Any = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        reason = str(error).replace("\n", " ")
        raise ConfigError(f"the profile {file} cannot be read: {reason}") from None
    if not isinstance(content, dict) or not content.get("executor"):
        raise ConfigError(f"the profile {file} names no executor, such as executor: slurm")
    jobs = str(content.get("jobs", JOBS))
    return Profile(file.parent, int(jobs) if jobs.isdigit() and int(jobs) else MOST_JOBS)
