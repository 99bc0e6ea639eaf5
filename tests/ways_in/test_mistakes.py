"""Mistakes of the command line: what each answers, so that a reader knows what to do next."""

from __future__ import annotations

import pytest
from helpers import list_all, run_command

D = "usage: laion-fmri download --subject SUBJECT"
#: The command line, its exit status, and what the answer has to contain.
MISTAKES = [
    # Nothing, and commands that there are not.
    ("", 0, ["usage: laion-fmri", "download", "config"]),
    ("help", 2, ["laion-fmri --help"]),
    ("dowload", 2, ["usage: laion-fmri COMMAND", "did you mean 'laion-fmri download'?"]),
    ("Download --subject sub-03", 2, ["did you mean 'laion-fmri download'?"]),
    ("get sub-03", 2, ["did you mean 'laion-fmri download'?"]),
    ("list", 2, ["did you mean 'laion-fmri ls'?"]),
    ("rm --subject sub-03", 2, ["did you mean 'laion-fmri remove'?"]),
    ("frobnicate", 2, ["'frobnicate' is not a command; there is: info, "]),
    ("sub-03", 2, ["'laion-fmri download --subject sub-03'"]),
    ("sub-03 --ses ses-01", 2, ["'laion-fmri download --subject sub-03 --ses ses-01'"]),
    ("--subject sub-03", 2, ["'laion-fmri download --subject sub-03'"]),
    # Options that there are not.
    ("download --subject 03 --session ses-01", 2, [D, "did you mean '--ses'?"]),
    ("download --subject 03 --sesion 1", 2, [D, "'--sesion' is not an option", "'--ses'?"]),
    ("download --subject 03 --jobs 4", 2, [D, "did you mean '--n-jobs'?"]),
    ("download --subject 03 --n_jobs 4", 2, [D, "did you mean '--n-jobs'?"]),
    ("download --subject 03 --threads=4", 2, [D, "'--threads'", "did you mean '--n-jobs'?"]),
    ("download --subject 03 --dryrun", 2, [D, "did you mean '--dry-run'?"]),
    ("download --subject 03 --output here", 2, [D, "did you mean '--data-dir'?"]),
    ("download --participant-label 03", 2, [D, "did you mean '--subject'?"]),
    ("download -subject 03", 2, [D, "did you mean '--subject'?"]),
    ("download --subject 03 --jobs 4 --sessions 1", 2, ["'--n-jobs'?", "'--ses'?"]),
    ("download --subject 03 --include", 2, [D, "--include-stimuli", "could match"]),
    (
        "download --subject 03 --colour red",
        2,
        [D, "is not an option of 'laion-fmri download'; see"],
    ),
    ("ls --jobs 4", 2, ["usage: laion-fmri ls ", "'--jobs' is not an option of 'laion-fmri ls'"]),
    ("verify --session 1", 2, ["usage: laion-fmri verify ", "did you mean '--ses'?"]),
    ("config --output here", 2, ["usage: laion-fmri config ", "did you mean '--data-dir'?"]),
    # Words that stand alone.
    ("download sub-03", 2, [D, "did you mean '--subject sub-03'?"]),
    ("download all", 2, [D, "did you mean '--subject all'?"]),
    ("download --n-jobs 4 ses-01", 2, [D, "did you mean '--ses ses-01'?"]),
    ("download -n 4", 2, [D, "did you mean '--n-jobs 4'?"]),
    ("config ./data", 2, ["did you mean '--data-dir ./data'?"]),
    ("info raw", 2, ["did you mean '--scope raw'?"]),
    ("license please", 2, ["'please' stands alone in 'laion-fmri license', which takes only"]),
    # Options without a value, and values that there are not.
    ("download --subject", 2, [D, "--subject", "at least one argument"]),
    ("download", 2, [D, "name a --subject, such as sub-03 or all"]),
    ("download --subject 03 -j", 2, [D, "--n-jobs", "one argument"]),
    ("download --subject 03 --max-bandwidth fast", 2, ["'fast' is not a number of MB/s above 0"]),
    ("completion tcsh", 2, ["usage: laion-fmri completion SHELL", "'tcsh'", "fish"]),
    ("ls --subject 3", 2, ["'sub-3' is not in", "did you mean 'sub-03'?", "sub-01, sub-03"]),
    ("ls --subject sub3", 2, ["subject 'sub3' is not in", "did you mean 'sub-03'?"]),
    ("ls --subject Sub-03", 2, ["'Sub-03' is not a subject label; write 'sub-03'"]),
    ("ls --subject 03 --ses 1", 2, ["ses '1' matches nothing", "did you mean '01'?"]),
    ("ls --subject 03 --desc betas", 2, ["desc 'betas'", "did you mean 'SingletrialBetas'?"]),
    ("ls --subject 03 --scope roi", 2, ["scope 'roi' is not in", "did you mean 'rois'?"]),
    ("remove --subject 03 --ses all --yes", 2, ["leave ses out to remove all of a subject"]),
    ("remove --yes", 2, ["name a --subject, such as sub-03, or all"]),
]


@pytest.mark.parametrize(("line", "status", "said"), MISTAKES, ids=lambda value: str(value)[:60])
def test_a_mistake_is_met(bucket, tmp_path, line, status, said):
    """The answer is short, names what is wrong and what to do, and nothing has been written."""
    done = run_command(*line.split(), cwd=tmp_path)
    answer = done.stdout + done.stderr
    assert (done.returncode, [text for text in said if text not in answer]) == (status, []), answer
    assert "Traceback" not in answer
    if status:
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) <= 2
    assert list_all(tmp_path) == []


@pytest.mark.parametrize(
    ("short", "long"), [("-n", "--dry-run"), ("-j 2 -n", "--n-jobs 2 --dry-run"), ("-n -q", "-nq")]
)
def test_short_options(tiny, tmp_path, short, long):
    """They are the same as the long ones."""
    words = ["download", "--subject", "03", "--data-dir", tmp_path]
    done, same = (run_command(*words, *flags.split()) for flags in (short, long))
    assert (done.returncode, done.stderr, done.stdout) == (0, "", same.stdout)
    assert list_all(tmp_path) == []


def test_all_sessions_are_all(bucket):
    """``--ses all`` leaves nothing out."""
    every = run_command("ls", "--subject", "03", "--keys").stdout
    assert run_command("ls", "--subject", "03", "--ses", "all", "--keys").stdout == every
