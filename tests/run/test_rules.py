"""What the rules say of themselves."""

from laion_fmri.bucket.listing import Bucket
from laion_fmri.dataset import Facts
from laion_fmri.fetch.job import Job
from laion_fmri.run.rules import Rules
from laion_fmri.run.run_folder import RunFolder


def spell(*names: str) -> str:
    """Return the command that a batch of `names` is shown with."""
    folder = RunFolder(
        "/run", "/d", Bucket("laion-fmri", "us-west-2", None), Facts(), rule_dir="/d"
    )
    job = Job("batch_1", "x/", names, tuple((f"x/{name}", 1) for name in names))
    return Rules(folder).spell_copy(job)


def test_a_command_of_a_batch_is_shown_whole():
    """It can be pasted."""
    assert spell("a b", "c").endswith(
        "--recursive --exclude '*' --include 'a b' --include c s3://laion-fmri/x/ /d/x/"
    )


def test_a_command_of_many_patterns_is_cut():
    """It is a comment in the shell line of a job, whose length the system limits."""
    said = spell(*(f"{number:04}{'n' * 200}" for number in range(1000)))
    assert len(said) < 5000
    assert "1,000" in said
