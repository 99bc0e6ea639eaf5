"""Which version an aws has: by the place where it is installed, or by asking it."""

from __future__ import annotations

import pytest

from laion_fmri.fetch.aws_process import ask_version, read_old_version

#: What it says itself, which is only heard where the place does not tell.
STUB = "#!/bin/sh\necho aws-cli/2.9.19 Python/3.11.2 Linux\n"


@pytest.fixture
def tell(tmp_path):
    """Return a function that installs an aws, and tells the version if it is taken to be old."""

    def ask(program: str, *others: str, link: str = "") -> str | None:
        file, run = tmp_path / program, tmp_path / "run"
        for folder in (file.parent, run, *(tmp_path / other for other in others)):
            folder.mkdir(parents=True, exist_ok=True)
        file.write_text(STUB)
        file.chmod(0o755)
        if link:
            (tmp_path / link).symlink_to(file)
        ask_version(str(tmp_path / (link or program)), run / "aws.config")
        return read_old_version(run)

    return ask


@pytest.mark.parametrize(
    ("installed", "old"),
    [
        ("2.27.21", None),
        ("2.27.20", "2.27.20"),
        ("2.100.0", None),
        ("1.40.21", None),
        ("1.40.20", "1.40.20"),
        ("1.9.99", "1.9.99"),
    ],
)
def test_the_installer_has_it_in_its_path(tell, installed, old):
    """The program on PATH is a link to it."""
    assert tell(f"aws-cli/v2/{installed}/dist/aws", link="aws") == old


@pytest.mark.parametrize("lib", ["lib/python3.13/site-packages", "lib/python3/dist-packages"])
def test_an_environment_has_it_in_its_metadata(tell, lib):
    """That of pip, conda or Debian."""
    assert tell("env/bin/aws", f"env/{lib}/awscli-1.46.3.dist-info") is None


@pytest.mark.filterwarnings("ignore:subprocess:ResourceWarning")  # it is not waited for
@pytest.mark.parametrize(
    "others",
    [
        (),  # a wrapper, such as that of pyenv
        ("env/lib/python3.13/site-packages/awscli-2.36.dist-info",),
        ("env/lib/python3.13/site-packages/awscli_plugin-2.36.7.dist-info",),
        (
            "env/lib/python3.9/site-packages/awscli-1.46.3.dist-info",
            "env/lib/python3.13/site-packages/awscli-2.36.7.dist-info",
        ),
    ],
)
def test_elsewhere_it_is_asked(tell, others):
    """Where nothing is found, or more than one."""
    assert tell("env/bin/aws", *others) == "2.9.19"
