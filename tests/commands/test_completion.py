"""Tab completion in real shells, and what listings leave for it."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
from helpers import drop_capabilities, run, run_command, sandbox

from laion_fmri.base.bids import parse_key
from laion_fmri.bucket.listing import Bucket
from laion_fmri.dataset import make_scope
from laion_fmri.keys import key_table
from laion_fmri.selection.completion import (
    MOST_FILES,
    MOST_VALUES,
    recall_listing,
    remember_listing,
    suggest_values,
)
from laion_fmri.selection.filters import Group

PLACE = "glmsingle-tedana"
GLM = f"derivatives/{PLACE}"
KNOWN = {
    "glmsingle-tedana": {
        "01": {"ses": ["01"], "desc": ["R2"], "extension": ["nii.gz"]},
        "03": {"ses": ["01", "02"], "desc": ["R2", "Mask"], "extension": ["tsv"]},
    },
    "stimuli": {"none": {"desc": ["CLIP"], "extension": ["h5"]}},
    "raw": {"05": {"ses": ["03"], "run": ["01"]}},
}
#: What each shell has to do to put all that it can complete on its line, when ESC * is typed.
BASH = r"""
PS1= HISTFILE=
bind 'set enable-bracketed-paste off'
bind '"\e*": insert-completions'
eval "$(laion-fmri completion bash)"
"""
ZSH = r"""
PS1= HISTFILE= RPS1= PROMPT_SP= PROMPT_EOL_MARK=
unset zle_bracketed_paste
autoload -Uz compinit && compinit -u -D
zle -C all-matches complete-word _generic
zstyle ':completion:all-matches:*' completer _all_matches _complete
zstyle ':completion:all-matches:*' insert yes
bindkey -e
bindkey '\e*' all-matches
eval "$(laion-fmri completion zsh)"
"""
SHELLS = {"bash": (["--norc", "--noprofile", "-i"], BASH), "zsh": (["-f", "-i"], ZSH)}
_numbers = count()


class Shell:
    """A real shell on a terminal, or fish, which completes for whoever asks."""

    def __init__(self, name: str) -> None:
        """Start it, with the script of the command loaded."""
        self.name = name
        self.process = None
        self.home = Path(os.environ["HOME"])
        self.environment = {**os.environ, "PATH": search_path()}
        if name == "fish":
            return
        arguments, setup = SHELLS[name]
        self.words = self.home / "words"
        self.screen, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [name, *arguments],
            cwd=self.home,
            env={**self.environment, "TERM": "dumb", "INPUTRC": os.devnull},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)
        file = self.home / f"setup.{name}"
        file.write_text(setup)
        self.type(f". {shlex.quote(str(file))}; echo rea''dy\n")
        self.read_until("ready")

    def complete(self, line: str) -> list[str]:
        """Return the words that could come at the end of `line`."""
        if self.name == "fish":
            script = "laion-fmri completion fish | source; complete -C $argv[1]"
            done = run(
                ["fish", "--no-config", "-c", script, line], cwd=self.home, **self.environment
            )
            assert done.stderr == ""
            return sorted(found.split("\t")[0] for found in done.stdout.splitlines())
        # The line, as it is when all is put on it, becomes what printf writes to a file.
        self.words.unlink(missing_ok=True)
        self.type(f"{line}\x1b*\x01printf '%s\\n' \x05 > {self.words}; echo don''e\n")
        self.read_until("done")
        typed = shlex.split(line)
        before = typed if re.search(r"(?<!\\) $", line) else typed[:-1]
        words = self.words.read_text().splitlines()
        assert before == words[: len(before)]
        found = words[len(before) :]
        return [] if found == typed[len(before) :] else sorted(found)

    def type(self, text: str) -> None:
        """Type `text`."""
        os.write(self.screen, text.encode())

    def read_until(self, mark: str) -> str:
        """Return what is shown until `mark` is."""
        seen = ""
        while mark not in seen:
            seen += os.read(self.screen, 65536).decode()
        return seen

    def end(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(60)
            os.close(self.screen)


def search_path() -> str:
    """Return a PATH on which our command comes first."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture(scope="module", params=["bash", "zsh", "fish"])
def shell(request, server, tmp_path_factory) -> Iterator[Shell]:
    """Start a shell, after a command has listed the bucket."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    with sandbox(tmp_path_factory.mktemp("home"), server.endpoint_url):
        assert run_command("entities").returncode == 0
        Path(os.environ["HOME"], "some folder").mkdir()
        Path(os.environ["HOME"], "some.tsv").touch()
        running = Shell(request.param)
        yield running
        running.end()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("dow", ["download"]),
        ("completion f", ["fish"]),
        ("download --subject ", ["all", "sub-01", "sub-03"]),
        ("info --subject 0", ["01", "03"]),
        ("verify --subject sub-01 s", ["sub-03"]),
        ("ls --subject=a", ["--subject=all"]),
        ("download --ses ", ["averages", "ses-01", "ses-02", "ses-04"]),
        ("ls --ses ses-01 ses-", ["ses-02", "ses-04"]),
        ("entities --desc R", ["R2", "R2mean"]),
        ("ls --subject sub-03 --desc mean", ["meanR2gt15mask"]),
        ("ls --desc desc-Singl", ["desc-SingletrialBetas"]),
        ("download --stat ", ["effect", "rsquare"]),
        ("download --task ", ["images"]),
        ("download --space T", ["T1w"]),
        ("download --suffix t", ["trials"]),
        ("download --extension .t", [".tsv"]),
        ("download --include-s", ["--include-stimuli"]),
        ("download --scope ra", ["raw"]),
        ("download --scope rois --label p", ["pSTSfaces"]),
        ("download --label FFA-", []),
        ("download --data-dir so", ["some folder/", "some.tsv"]),
        ("download --manifest ./some.", ["./some.tsv"]),
        ("download --profile some\\ ", ["some folder/"]),
    ],
)
def test_what_a_shell_completes(shell, line, expected):
    """Commands, options, files, and subjects, sessions and values as the listing had them."""
    assert expected == shell.complete(f"laion-fmri {line}")


def test_a_subject_is_not_offered_what_it_lacks(shell):
    """Values are those of the subjects that were named before."""
    assert shell.complete("laion-fmri ls --subject sub-01 --desc mean") == []


@pytest.mark.parametrize(
    ("name", "folder"), [("zsh", "functions"), ("fish", "config/fish/completions")]
)
def test_a_script_that_is_saved_is_loaded(bucket, name, folder):
    """Kept where its comment says, the script works without a line in any other file."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    place = Path(os.environ["HOME"], folder, "laion-fmri.fish" if name == "fish" else "_laion-fmri")
    place.parent.mkdir(parents=True)
    done = run_command("completion", name)
    place.write_text(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    if name == "fish":
        script = "complete -C 'laion-fmri entit'"
        shown = run(["fish", "-c", script], PATH=search_path())
        assert shown.stdout.startswith("entities")
    else:
        script = f"fpath=({place.parent} $fpath); autoload -U compinit; compinit -u -D; "
        script += "echo $_comps[laion-fmri]"
        assert run(["zsh", "-f", "-c", script]).stdout == "_laion-fmri\n"


def test_a_shell_that_is_not_known_is_refused():
    """One line names those that are."""
    done = run_command("completion", "tcsh")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search("'tcsh'.*bash.*zsh.*fish", done.stderr.splitlines()[-1])


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_the_script_says_where_to_put_it(name):
    """A comment, in the first lines, in a script that its shell can read."""
    done = run_command("completion", name)
    comment = "\n".join(line for line in done.stdout.splitlines()[:6] if line.startswith("#"))
    place = {"bash": "~/.bashrc", "zsh": "~/.zshrc", "fish": "~/.config/fish/completions"}[name]
    assert place in comment
    assert f"laion-fmri completion {name}" in comment


def ask(line: str, **settings: object) -> list[str]:
    """Ask the command itself what can come at the end of `line`, as the scripts do."""
    out = Path(os.environ["HOME"], "answer")
    out.unlink(missing_ok=True)
    given = {"COMP_LINE": line, "COMP_POINT": len(line), "COMP_TYPE": 9, "_ARGCOMPLETE": 1}
    given |= {"_ARGCOMPLETE_IFS": "|", "_ARGCOMPLETE_STDOUT_FILENAME": out}
    done = run([sys.executable, "-m", "laion_fmri"], **given, **settings)
    assert (done.returncode, done.stdout) == (0, "")
    return [word.strip() for word in out.read_text().split("|") if word]


def test_nothing_is_known_before_the_first_listing(bucket):
    """Then only the special values are offered, and nothing is asked of the bucket."""
    bucket.clear_requests()
    assert ask("laion-fmri ls --subject ") == ["all"]
    assert ask("laion-fmri ls --ses ") == ["averages"]
    assert ask("laion-fmri ls --desc ") == []
    assert ask("laion-fmri download --n-jobs ") == []
    assert list(bucket.requests) == []


@pytest.mark.parametrize(
    "words",
    ["info", "ls", "entities", "status", "verify --subject 01", "download --subject 01 --dry-run"],
)
def test_commands_that_list_leave_what_they_have_seen(bucket, tmp_path, words):
    """After each of them, what it listed is offered."""
    run_command(*words.split(), LAION_FMRI_DATA_DIR=tmp_path)
    assert "sub-01" in ask("laion-fmri download --subject ")


def test_a_selection_that_matches_nothing_leaves_what_there_is(bucket):
    """That is when completion is wanted most."""
    assert run_command("ls", "--desc", "betas", "--suffix", "trials").returncode == 2
    assert ask("laion-fmri ls --desc Si") == ["SingletrialBetas"]


def test_another_bucket_or_endpoint_is_another_one(bucket, tiny):
    """What one has is not offered for another."""
    run_command("ls", "--subject", "03")
    assert ask("laion-fmri ls --desc ") == ["A", "B", "C"]
    assert ask("laion-fmri ls --desc ", LAION_FMRI_BUCKET="laion-fmri") == []
    assert ask("laion-fmri ls --desc ", LAION_FMRI_ENDPOINT_URL="http://127.0.0.1:9") == []
    assert ask("laion-fmri ls --desc ", LAION_FMRI_ENDPOINT_URL="nonsense") == []


def test_a_listing_of_a_python_program_is_not_kept(bucket):
    """Nobody expects a function that returns a table to write to the user's cache."""
    assert len(key_table("03", data_dir="/nowhere"))
    assert cache_files() == []


def list_imports(*words: str, **settings: object) -> set[str]:
    """Return the packages that the command imports."""
    done = run([sys.executable, "-X", "importtime", "-m", "laion_fmri", *words], **settings)
    names = re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE)
    return {name.partition(".")[0] for name in names}


def test_an_answer_takes_no_heavy_modules(bucket):
    """Neither the network nor pandas is loaded for one; and nothing of it for anything else."""
    heavy = {"boto3", "botocore", "numpy", "pandas", "rich", "snakemake", "yaml"}
    asked = {"_ARGCOMPLETE": 1, "COMP_LINE": "laion-fmri ls --desc ", "COMP_POINT": 21}
    out = Path(os.environ["HOME"], "answer")
    imports = list_imports(**asked, _ARGCOMPLETE_STDOUT_FILENAME=out)
    assert "argcomplete" in imports
    assert set() == heavy & imports
    assert set() == {*heavy, "argcomplete"} & list_imports("config")


@pytest.mark.parametrize(
    ("name", "prefix", "expected"),
    [
        ("subject", "", ["sub-01", "sub-03", "all"]),
        ("subject", "sub-", ["sub-01", "sub-03"]),
        ("subject", "03", ["03"]),
        ("subject", "x", []),
        ("ses", "", ["ses-01", "ses-02", "averages"]),
        ("ses", "0", ["01", "02"]),
        ("ses", "a", ["averages"]),
        ("desc", "", ["Mask", "R2"]),
        ("desc", "desc-", ["desc-Mask", "desc-R2"]),
        ("desc", "r", []),
        ("extension", "", ["nii.gz", "tsv"]),
        ("extension", ".", [".nii.gz", ".tsv"]),
        ("suffix", "", []),
        ("scope", "r", ["raw", "rois"]),
        ("scope", "al", ["all"]),
    ],
)
def test_values_take_the_form_that_was_begun(name, prefix, expected):
    """Subjects and sessions in full, the others bare, unless the other form was begun."""
    assert expected == suggest_values(name, prefix, KNOWN)


@pytest.mark.parametrize(
    ("subjects", "given", "expected"),
    [
        (["01"], [], ["ses-01", "averages"]),
        (["sub-01"], ["01"], ["averages"]),
        (["all"], ["ses-02", "averages"], ["ses-01"]),
        (["sub-99"], [], ["ses-01", "ses-02", "averages"]),
    ],
)
def test_values_are_those_of_the_subjects(subjects, given, expected):
    """Of the subjects that were named, if they are known; what stands there is not repeated."""
    assert expected == suggest_values("ses", "", KNOWN, subjects=subjects, given=given)


@pytest.mark.parametrize(
    ("name", "scopes", "expected"),
    [
        ("desc", ["stimuli"], ["CLIP"]),
        ("subject", ["stimuli"], ["all"]),
        ("subject", ["raw"], ["sub-05", "all"]),
        ("run", [], []),
        ("run", ["raw", "stimuli"], ["01"]),
        ("ses", ["unknown"], ["ses-01", "ses-02", "ses-03", "averages"]),
    ],
)
def test_values_are_those_of_the_scopes(name, scopes, expected):
    """Of the scopes that were named, or else of the defaults, if any of them is known."""
    assert expected == suggest_values(name, "", KNOWN, scopes=scopes)


HERE = Bucket("some-bucket", "us-west-2", None)


def keys_of(subject: str, *descs: str) -> list[str]:
    """Return a key for each description."""
    stem = f"{GLM}/sub-{subject}/ses-01/func/sub-{subject}_ses-01"
    return [f"{stem}_desc-{desc}_trials.tsv" for desc in descs]


def remember(keys: list[str], bucket: Bucket = HERE, *, is_whole: bool = True) -> None:
    """Keep a listing of these keys."""
    group = Group(make_scope(PLACE), [("", parse_key(key)) for key in keys])
    remember_listing(bucket, [group], is_whole=is_whole)


def recall(bucket: Bucket = HERE) -> dict:
    """Return what is known of the subjects."""
    return recall_listing(bucket).get(PLACE, {})


def cache_files() -> list[Path]:
    """Return all that is in the user's cache."""
    cache = Path(os.environ["XDG_CACHE_HOME"])
    return sorted(path for path in cache.rglob("*") if path.is_file())


def test_what_is_kept_of_a_listing():
    """The values of each subject, in one file; what is held out is left out."""
    keys = [*keys_of("01", "A"), f"{GLM}/sub-01/sub-01_space-T1w_stat-effect_map.nii.gz"]
    keys += [f"{GLM}/sub-01/ses-31/func/sub-01_ses-31_desc-Hidden_trials.tsv"]
    remember(keys)
    expected = {
        "ses": ["01"],
        "task": [],
        "space": ["T1w"],
        "desc": ["A"],
        "stat": ["effect"],
        "suffix": ["map", "trials"],
        "extension": ["nii.gz", "tsv"],
        **{key: [] for key in ("run", "echo", "part", "hemi", "res", "label", "contrast")},
    }
    assert {PLACE: {"01": expected}} == recall_listing(HERE)
    (file,) = cache_files()
    assert file.parent == Path(os.environ["XDG_CACHE_HOME"], "laion_fmri", "listings")
    assert "some-bucket" in file.name
    assert {PLACE: {"01": expected}} == json.loads(file.read_text())


def test_a_listing_replaces_what_it_covers():
    """That of a subject leaves the others alone; that of all is all there is."""
    remember(keys_of("01", "A") + keys_of("03", "A"))
    remember(keys_of("03", "B"), is_whole=False)
    known = recall()
    assert (known["01"]["desc"], known["03"]["desc"]) == (["A"], ["B"])
    remember(keys_of("03", "C"))
    assert {label: v["desc"] for label, v in recall().items()} == {"03": ["C"]}


def test_the_same_listing_writes_nothing():
    """Nothing is written again, until something has changed in between."""
    first, second = keys_of("03", "A"), keys_of("03", "B")
    remember(first, is_whole=False)
    (file,) = cache_files()
    os.utime(file, (1, 1))
    remember(first, is_whole=False)
    assert file.stat().st_mtime == 1
    remember(second)
    remember(first, is_whole=False)
    assert recall()["03"]["desc"] == ["A"]


def test_names_that_a_shell_should_not_see_are_not_kept():
    """What a shell could read as more than a word is left out, and too many are cut."""
    bad = ["$(touch x)", "a b", "`x`", "a;b", "--x", "é", "a'b", "a*", "a\nb", "\udc80"]
    many = [f"D{number:04}" for number in range(MOST_VALUES + 9)]
    remember(keys_of("03", *bad, *many) + keys_of("0;3", "A"))
    known = recall()
    assert {"03": many[:MOST_VALUES]} == {label: v["desc"] for label, v in known.items()}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{",
        b"[" * 100_000,
        b"1",
        b'{"03": 1, "01": {"desc": ["A"]}}',
        b'{"rois": {"03": 1, "01": {"desc": ["A"]}}}',
        b'{"rois": {"01": {"desc": 5, "ses": [1, null]}, "$x": {"desc": ["A"]}}}',
        b'{"rois": {"03": {"desc": ["$(x)", "a\\nb"]}}}',
        b'{"01": {"desc": 5, "ses": [1, null]}, "$x": {"desc": ["A"]}}',
        b'{"03": {"desc": ["$(x)", "a\\nb"]}}',
        b'{"$x": {"desc": ["A"]}, "03": {"desc": [1, null, {}]}}',
    ],
)
def test_a_broken_file_is_one_that_says_nothing(bucket, content):
    """Nothing of it reaches a shell, and the next listing writes it anew."""
    here = Bucket.from_settings()
    remember(keys_of("05", "A"), here)
    (file,) = cache_files()
    file.write_bytes(content)
    assert suggest_values("desc", "", recall_listing(here)) == []
    assert ask("laion-fmri ls --desc ") == []
    remember(keys_of("03", "A"), here)
    assert {label: v["desc"] for label, v in recall(here).items()} == {"03": ["A"]}


def test_a_cache_that_cannot_be_written_is_no_error(bucket, tmp_path):
    """The command does what it was asked for, and says nothing of it."""
    (tmp_path / "file").touch()
    (tmp_path / "closed").mkdir(mode=0o500)
    command = [*drop_capabilities(), sys.executable, "-m", "laion_fmri", "ls", "--subject", "03"]
    expected = run(command)
    for place in ("file", "closed", "file/below"):
        done = run(command, XDG_CACHE_HOME=tmp_path / place)
        assert (0, expected.stdout, expected.stderr) == (
            done.returncode,
            done.stdout,
            done.stderr,
        )
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["closed", "file"]


def test_without_a_home_nothing_lands_in_the_working_directory(monkeypatch, tmp_path):
    """A user that the system does not know has no cache."""
    monkeypatch.setenv("HOME", "~")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.chdir(tmp_path)
    remember(keys_of("03", "A"))
    assert list(tmp_path.iterdir()) == []


def test_the_oldest_files_are_dropped():
    """Servers of tests and demos have a new address each time; the last ones are kept."""
    places = [Bucket(f"bucket-{n}", "us-west-2", None) for n in range(MOST_FILES + 3)]
    for age, place in enumerate(places):
        remember(keys_of("03", "A"), place)
        for file in cache_files():
            if f"{place.name}%" in file.name:
                os.utime(file, (age, age))
    assert len(cache_files()) == MOST_FILES
    assert [recall_listing(place) for place in places[:3]] == [{}] * 3
    assert all(recall_listing(place) for place in places[3:])


def test_writers_and_readers_at_the_same_time():
    """Whoever reads gets a whole file, whoever writes leaves no scratch file."""

    def write(number: int) -> set[str]:
        remember(keys_of("03", f"D{number}"))
        return {value for values in recall().values() for value in values["desc"]}

    remember(keys_of("03", "D0"))
    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(write, range(200)))
    assert set() not in seen
    assert len(cache_files()) == 1
