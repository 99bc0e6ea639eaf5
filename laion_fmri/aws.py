"""Where the AWS CLI is, and how to get it. What it is told to do is in ``transfer.py``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from laion_fmri.errors import AwsNotFoundError


def aws_command() -> str:
    """Return the name or path of the AWS CLI: ``$LAION_FMRI_AWS``, else ``aws``."""
    command = os.environ.get("LAION_FMRI_AWS") or "aws"
    # The jobs run in another working directory than the user's.
    return str(Path(command).expanduser().absolute()) if "/" in command else command


def find_aws_command() -> str:
    """Return the full path of the AWS CLI.

    Raises
    ------
    AwsNotFoundError
        With three ways to get it.
    """
    command = aws_command()
    found = shutil.which(command)
    if found is None:
        raise AwsNotFoundError(
            f"the AWS CLI ({command}) is not found; get it with 'uv tool install awscli', "
            "'conda install -c conda-forge awscli' or from https://aws.amazon.com/cli, or set "
            "LAION_FMRI_AWS to its path"
        )
    return found
