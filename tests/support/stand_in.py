"""In the place of programs that pages name and that tests do not run: look over what is asked for.

pip and the like would install from the internet, make would run the tests, and aws would ask S3
itself. A name or an extra that does not exist fails, as it would for a reader.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
#: What pages may tell people to install beside this package.
OTHERS = {"awscli", "matplotlib"}


def check_requirement(text: str) -> None:
    """Exit with a complaint if `text` names a package or an extra that nobody has heard of."""
    name, extras = re.fullmatch(r"([\w.-]+)(?:\[([\w,-]+)\])?", text).groups()
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    if name == project["name"]:
        missing = set((extras or "").split(",")) - {"", *project["optional-dependencies"]}
        if missing:
            sys.exit(f"there is no extra {missing}")
    elif name not in OTHERS or extras:
        sys.exit(f"nobody knows the package {text}")


def main(program: str, words: list[str]) -> None:
    """Look over the command line, or run what is harmless; exit with 1 if it cannot be right."""
    if program == "aws":
        clean = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        endpoint = ["--endpoint-url", os.environ["LAION_FMRI_ENDPOINT_URL"]]
        settings = {"AWS_REGION": "us-west-2", "AWS_EC2_METADATA_DISABLED": "true"}
        aws = os.environ["LAION_FMRI_AWS"]
        sys.exit(subprocess.run([aws, *endpoint, *words], env=clean | settings).returncode)
    if program == "make":
        plan = ["/usr/bin/env", "-u", "MAKEFLAGS", "PATH=/usr/bin:/bin", "make", "-n", *words]
        sys.exit(subprocess.run(plan, cwd=REPO, stdout=subprocess.DEVNULL).returncode)
    leading = ["tool", "install"] if program == "uv" else ["install"]
    if words[: len(leading)] != leading:
        sys.exit(f"{program} {' '.join(words)}: not what pages are known to ask for")
    rest = words[len(leading) :]
    if program == "conda":
        rest = rest[2:] if rest[:2] == ["-c", "conda-forge"] else sys.exit("no channel is named")
    for word in rest:
        check_requirement(word)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
