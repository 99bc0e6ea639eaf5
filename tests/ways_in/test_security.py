"""A shared folder with a hostile member, tried as two users: what an audit found stays closed.

The attacker is a member of the group that shares the data directory, or a stranger in a folder that
everybody can write. The victim only runs the command.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import TINY, find_aws, read_tree

pytestmark = [
    pytest.mark.cold,
    pytest.mark.faults,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as two other users"),
]
VICTIM, ATTACKER, LAB = 61_001, 61_002, 61_000
KEY = TINY[0]
FOLDER = KEY.rpartition("/")[0]


def become(user: int, *, read: bool | None = None) -> list[str]:
    """Return the words that run a command as another user, a member of the lab.

    A Python that only root may read is read all the same; what may be written is not changed.
    """
    ids = [f"--reuid={user}", f"--regid={user}", f"--groups={LAB}"]
    caps = "+dac_read_search" if read or (read is None and user == VICTIM) else "-all"
    return ["setpriv", *ids, f"--inh-caps={caps}", f"--ambient-caps={caps}"]


#: Makes a state folder as an earlier download would have.
PLANT = "mkdir .laion_fmri; chmod --reference=. .laion_fmri"


@dataclass
class Lab:
    """A data directory that two users share, and the home of each."""

    data: Path
    home: Path
    lair: Path
    settings: dict[str, str]

    def victim(self, *words: object, umask: int = 0o002, **settings: object):
        """Run the command as the victim."""
        environment = os.environ | self.settings | {k: str(v) for k, v in settings.items()}
        return subprocess.run(
            [*become(VICTIM), sys.executable, "-m", "laion_fmri", *map(str, words)],
            env=environment | {"HOME": str(self.home), "USER": "victim", "LOGNAME": "victim"},
            cwd=self.home,
            umask=umask,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )

    def download(self, **more: object):
        """Let the victim download everything of the subject."""
        return self.victim("download", "--subject", "03", "--data-dir", self.data, **more)

    def attacker(self, script: str) -> None:
        """Run a shell script as the attacker, in the data directory."""
        subprocess.run(
            [*become(ATTACKER), "sh", "-ec", script],
            cwd=self.data,
            umask=0o002,
            env={"PATH": os.environ["PATH"], "HOME_OF_VICTIM": str(self.home)},
            timeout=60,
            check=True,
        )

    def make_slow_aws(self) -> Path:
        """Write an AWS CLI that takes a second longer."""
        script = self.home.parent / "aws"
        script.write_text(f'#!/bin/sh\nsleep 1\nexec "{find_aws()}" "$@"\n')
        script.chmod(0o755)
        return script

    def see(self) -> dict[str, bytes]:
        """Return what is in the victim's home, but for what the command keeps there."""
        return {
            name: content
            for name, content in read_tree(self.home).items()
            if not name.startswith((".cache/", ".local/state/laion_fmri/", ".config/"))
        }


@pytest.fixture(params=[0o2775, 0o1777], ids=["group", "sticky"])
def lab(request, tiny, tiny_objects) -> Iterator[Lab]:
    """Make a folder that both users can write, and a home of the victim with something in it."""
    top = Path(tempfile.mkdtemp(prefix="laion-fmri-lab-"))
    top.chmod(0o755)
    homes = {}
    for name, uid in (("home", VICTIM), ("lair", ATTACKER)):
        homes[name] = top / name
        homes[name].mkdir()
        os.chown(homes[name], uid, uid)
        homes[name].chmod(0o755)
    precious = homes["home"] / "work" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years of work")
    private = homes["home"] / "private"
    private.write_text("secret")
    private.chmod(0o600)
    for path in (precious.parent, precious, private):
        os.chown(path, VICTIM, VICTIM)
    long_ago = time.time() - 10 * 24 * 3600
    os.utime(precious.parent, (long_ago, long_ago))
    data = top / "data"
    data.mkdir()
    os.chown(data, 0, LAB)
    data.chmod(request.param)
    settings = {
        "LAION_FMRI_AWS": find_aws(),
        "XDG_CONFIG_HOME": str(homes["home"] / ".config"),
        "XDG_CACHE_HOME": str(homes["home"] / ".cache"),
        "XDG_STATE_HOME": str(homes["home"] / ".local" / "state"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    yield Lab(data, homes["home"], homes["lair"], settings)
    shutil.rmtree(top)


def test_nothing_hostile(lab, tiny_objects):
    """Left alone, the victim gets the files, and both can read them."""
    done = lab.download()
    assert done.returncode == 0, done.stderr
    assert read_tree(lab.data) == tiny_objects


def test_a_state_folder_that_is_a_link(lab):
    """The whole state folder leads to the home: one line says so, and nothing there changes."""
    before = lab.see()
    lab.attacker('ln -s "$HOME_OF_VICTIM" .laion_fmri')
    done = lab.download()
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert ".laion_fmri is a link" in done.stderr
    assert before == lab.see()


@pytest.mark.parametrize(
    ("name", "umask"),
    [("partial", 0o002), ("partial", 0o077), ("kept", 0o002), ("corrupt", 0o002), ("alive", 0o002)],
)
def test_a_part_of_the_state_that_is_a_link(lab, name, umask):
    """Nothing is swept, moved or written through it: neither by a download nor by a repair."""
    before = lab.see()
    lab.attacker(f'{PLANT}; ln -s "$HOME_OF_VICTIM" .laion_fmri/{name}')
    for words in (("download", "--subject", "03"), ("verify", "--repair")):
        done = lab.victim(*words, "--data-dir", lab.data, umask=umask)
        assert "Traceback" not in done.stderr
        assert before == lab.see()
    modes = {path.name: oct(path.stat().st_mode) for path in lab.home.iterdir()}
    assert modes["private"] == "0o100600"


@pytest.mark.parametrize("part", ["kept", "corrupt"])
@pytest.mark.parametrize(
    "words", [("download", "--subject", "03"), ("verify", "--repair")], ids=str
)
def test_files_that_would_be_put_back_into_the_home(lab, part, words):
    """A folder of the mirror is a link to the home: what was planted does not get there."""
    before = lab.see()
    lab.attacker(
        f"{PLANT}; mkdir .laion_fmri/{part} .laion_fmri/{part}/x;"
        f" chmod --reference=. .laion_fmri/{part} .laion_fmri/{part}/x;"
        f" echo evil > .laion_fmri/{part}/x/.bash_profile;"
        ' ln -s "$HOME_OF_VICTIM" x'
    )
    done = lab.victim(*words, "--data-dir", lab.data)
    assert "Traceback" not in done.stderr
    assert before == lab.see()


@pytest.mark.parametrize("name", ["claims", "repair.lock", "licenses.json"])
def test_a_state_file_that_is_a_link(lab, name):
    """A private file keeps its mode and its content."""
    lab.attacker(f'{PLANT}; ln -s "$HOME_OF_VICTIM/private" .laion_fmri/{name}')
    for words in (("download", "--subject", "03"), ("verify", "--repair")):
        done = lab.victim(*words, "--data-dir", lab.data)
        assert "Traceback" not in done.stderr
    private = lab.home / "private"
    assert (private.read_text(), oct(private.stat().st_mode)) == ("secret", "0o100600")


@pytest.mark.parametrize("name", ["claims", "alive/alive-x", "repair.lock", "licenses.json"])
def test_a_fifo_in_place_of_a_state_file(lab, name):
    """Nothing waits for its other end: the run goes on, or says what is in its way."""
    lab.attacker(
        f"{PLANT}; mkdir .laion_fmri/alive; chmod --reference=. .laion_fmri/alive;"
        f" mkfifo .laion_fmri/{name}; chmod a+rw .laion_fmri/{name}"
    )
    commands = (("download", "--subject", "03"), ("verify", "--repair"))
    for words in commands[name == "repair.lock" :][:1]:
        done = lab.victim(*words, "--data-dir", lab.data)
        assert "Traceback" not in done.stderr
        assert done.returncode == 0 or f"{name} is a FIFO" in done.stderr


@pytest.mark.parametrize("part", ["", "/partial", "/kept"])
def test_a_state_folder_that_any_user_could_swap(lab, part):
    """Writable for everybody without the sticky bit: refused in one line, with what to do."""
    lab.attacker(
        f"{PLANT}; [ -z '{part}' ] || mkdir .laion_fmri{part}; chmod 777 .laion_fmri{part}"
    )
    done = lab.download()
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert re.search(f"laion_fmri{part} is writable for every user.*'chmod", done.stderr)


def test_what_the_jobs_read_is_the_victims_own(lab):
    """Jobs, settings and logs are where nobody else can write, and not in the shared folder."""
    done = lab.download()
    assert done.returncode == 0, done.stderr
    shared = {p.relative_to(lab.data).as_posix() for p in lab.data.rglob("*") if p.is_file()}
    assert shared == {*TINY, ".laion_fmri/claims"}
    own = lab.home / ".local" / "state" / "laion_fmri"
    files = list(own.rglob("*"))
    assert [path for path in files if path.name == "snakemake.log"] != []
    assert {path.stat().st_uid for path in [own, *files]} == {VICTIM}
    assert oct(own.stat().st_mode & 0o777) == "0o700"


def test_claims_can_be_locked_by_those_who_share_the_folder_and_nobody_else(lab):
    """The mode of what is shared follows that of the folder."""
    lab.download()
    mode = (lab.data / ".laion_fmri" / "claims").stat().st_mode & 0o777
    everybody = bool(lab.data.stat().st_mode & 0o002)
    assert oct(mode) == ("0o666" if everybody else "0o660")


#: Lets the victim's aws wait until the attacker has done his part.
WAIT = (
    'touch "{lair}/asked"; n=0; until [ -e "{lair}/done" ] || [ $n -gt 100 ];'
    " do n=$((n+1)); sleep 0.1; done"
)


def swap_while_it_runs(lab: Lab, script: str, *words: object, **settings: object):
    """Run the victim's command, and the attacker's script while its aws is about to start."""
    lab.lair.chmod(0o777)
    wrapper = lab.lair / "aws"
    wait = WAIT.format(lair=lab.lair)
    wrapper.write_text(f'#!/bin/sh\n{wait}\nexec "{find_aws()}" "$@"\n')
    wrapper.chmod(0o755)
    watch = (
        f'until [ -e "{lab.lair}/asked" ]; do sleep 0.05; done; {script}; touch "{lab.lair}/done"'
    )
    with subprocess.Popen(
        [*become(ATTACKER), "sh", "-c", watch],
        cwd=lab.data,
        env={"PATH": os.environ["PATH"], "HOME_OF_VICTIM": str(lab.home), "LAIR": str(lab.lair)},
    ):
        return lab.victim(*words, LAION_FMRI_AWS=wrapper, **settings)


def test_a_folder_of_the_mirror_becomes_a_link_while_a_run_lasts(lab):
    """Nothing is written where it leads."""
    if not lab.data.stat().st_mode & 0o020:
        pytest.skip("in a sticky folder nobody can swap the folders of others")
    before = lab.see()
    (lab.data / "derivatives").mkdir()
    shutil.chown(lab.data / "derivatives", group=LAB)
    (lab.data / "derivatives").chmod(0o2775)
    words = ("download", "--subject", "03", "--data-dir", lab.data)
    done = swap_while_it_runs(
        lab, 'mv derivatives "$LAIR/away"; ln -s "$HOME_OF_VICTIM" derivatives', *words
    )
    assert "Traceback" not in done.stderr
    assert before == lab.see()


def test_the_staging_folder_is_swapped_while_a_run_lasts(lab):
    """aws writes into the folder that it was given, whatever stands in its place by now."""
    before = lab.see()
    script = (
        "cd .laion_fmri/partial; for name in *; do mv $name $name.away;"
        ' ln -s "$HOME_OF_VICTIM" $name; done'
    )
    words = ("download", "--subject", "03", "--data-dir", lab.data)
    done = swap_while_it_runs(lab, script, *words)
    assert "Traceback" not in done.stderr
    assert before == lab.see()


def test_two_members_take_turns(lab, tiny_objects):
    """What one has fetched the other one takes as it is, and may replace where it is broken."""
    assert lab.download().returncode == 0
    inodes = {key: (lab.data / key).stat().st_ino for key in TINY}
    again = subprocess.run(
        [*become(ATTACKER), "sh", "-c", f"printf x >> '{lab.data / KEY}'"], check=False
    )
    done = lab.download()
    assert done.returncode == 0, done.stderr
    assert read_tree(lab.data) == tiny_objects
    assert {key: (lab.data / key).stat().st_ino for key in TINY[1:]} == {
        key: inodes[key] for key in TINY[1:]
    }
    assert again.returncode in (0, 1, 2)


def start(lab: Lab, user: int, home: Path) -> subprocess.Popen[str]:
    """Start a download by one of the two users, in a process group of its own."""
    names = {"HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "LOGNAME": str(user)}
    return subprocess.Popen(
        [
            *become(user, read=True),
            *(sys.executable, "-m", "laion_fmri", "download", "--subject", "03"),
            *("--data-dir", str(lab.data)),
        ],
        env=os.environ | lab.settings | names | {"XDG_CACHE_HOME": str(home / "cache")},
        cwd=home,
        umask=0o002,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("is_killed", [False, True])
def test_two_members_at_once(lab, tiny_objects, is_killed):
    """Both end well, whatever each has fetched; if one is killed, the other one goes on."""
    lab.settings["LAION_FMRI_AWS"] = str(lab.make_slow_aws())
    first = start(lab, ATTACKER, lab.lair)
    second = start(lab, VICTIM, lab.home)
    if is_killed:
        partial = lab.data / ".laion_fmri" / "partial"
        deadline = time.monotonic() + 30
        while not (partial.exists() and list(partial.iterdir())) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(first.pid, signal.SIGKILL)
    ends = [process.communicate(timeout=90) for process in (first, second)]
    assert second.returncode == 0, ends
    assert is_killed or first.returncode == 0, ends
    assert read_tree(lab.data) == tiny_objects
    assert "Traceback" not in ends[1][1]
