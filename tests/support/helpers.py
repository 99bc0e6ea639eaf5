"""What the end-to-end tests share: the ways in, and a reading of the contract of their own.

Nothing here takes selection rules from the package: what a run has to bring is worked out from the
text of the keys alone, so a mistake in the package cannot be mirrored by its tests.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from warm import can_be_warm, find_starter

REPO = Path(__file__).resolve().parents[2]
DERIVATIVES = "derivatives/glmsingle-tedana"
ROOT_FILES = {"README", "dataset_description.json", "participants.tsv", "participants.json"}
#: What nobody may get, whatever is asked for.
REFUSED = re.compile(
    "^(?!derivatives/localizers/.*_task-oloc_).*/ses-3[1-4]/|^stimuli/task-images_stimuli[.]h5$"
)
#: The filters that also choose scopes.
CHOOSERS = {"run", "echo", "part", "hemi", "res", "label", "contrast"}
#: The maps that a loader derives the brain mask from.
PINNED = re.compile("_desc-(R2mean_statmap|meanR2gt15mask_mask)[.]nii[.]gz$")

#: The beginning of a pipeline that embeds the workflow, with its settings in ``config.yaml``; to be
#: formatted with the path of the workflow's Snakefile.
HOST = """
configfile: "config.yaml"

module laion:
    snakefile: "{workflow}"
    config: config["laion"]

use rule * from laion as laion_*
"""

ESCAPE = "\x1b["
#: Whose Snakemake runs pipelines: another one to try other releases with.
PYTHON = os.environ.get("LAION_FMRI_TEST_PYTHON") or sys.executable
#: Makes its standard input the terminal of its session, where Ctrl-C comes from, and goes on.
TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""

Values = str | Iterable[str] | None
#: Few and small, and without root files: what a test needs that is not about the selection.
TINY = (
    "derivatives/glmsingle-tedana/sub-03/ses-01/func/sub-03_ses-01_task-images_desc-A_trials.tsv",
    "derivatives/glmsingle-tedana/sub-03/ses-01/func/sub-03_ses-01_task-images_desc-B_trials.tsv",
    "derivatives/glmsingle-tedana/sub-03/sub-03_task-images_desc-C_summary.json",
    "derivatives/rois/sub-03/retinotopy/sub-03_space-T1w_res-1pt8_label-V1_mask.nii.gz",
)


def as_list(values: Values) -> list[str]:
    """Return the values of a filter as a list."""
    if values is None:
        return []
    return [values] if isinstance(values, str) else list(values)


def scope_of(key: str) -> str:
    """Return the scope that a key is in; empty at the root."""
    if found := re.match("derivatives/([^/]+)/sub-", key):
        return found[1]
    first, _, rest = key.partition("/")
    if not rest:
        return ""
    return "raw" if first.startswith("sub-") else first


def expected_keys(
    objects: Iterable[str], subject: str | list[str], *, include_stimuli: bool = False, **filters
) -> set[str]:
    """Work out, from the keys' text, what a download of `subject` with `filters` has to bring."""
    objects = list(objects)
    brain = matched_keys(objects, subject, **filters)
    if any(value != "averages" for value in as_list(filters.get("ses"))):
        scopes = {scope_of(key) for key in brain} & {"glmsingle-tedana"}
        alone = matched_keys(objects, subject, scope=sorted(scopes)) if scopes else ()
        brain |= {key for key in alone if PINNED.search(key)}
    stimuli = {key for key in objects if include_stimuli and key.startswith("stimuli/")}
    extra = ROOT_FILES.intersection(objects) | stimuli
    return {key for key in brain | extra if not REFUSED.search(key)}


def matched_keys(
    objects: Iterable[str], subject: str | list[str], scope: Values = None, **filters: Values
) -> set[str]:
    """Return the keys in scopes that every filter lets pass and that may be had."""
    filters = {name: as_list(values) for name, values in filters.items() if values is not None}
    everything = _in_scopes(objects, subject, scope)
    found = everything
    for name in set(filters) & CHOOSERS:
        having = {scope_of(key) for key in everything if read_entity(key, name) is not None}
        found = [key for key in found if scope_of(key) in having]
    return {
        key
        for key in found
        if not REFUSED.search(key)
        and all(_passes(key, name, values, everything) for name, values in filters.items())
    }


def _in_scopes(objects: Iterable[str], subject: str | list[str], scope: Values) -> list[str]:
    wanted = [f"sub-{value.removeprefix('sub-')}" for value in as_list(subject)]
    scopes = ["glmsingle-tedana", "rois"] if scope is None else as_list(scope)
    return [
        key
        for key in objects
        if scope_of(key)
        and ("all" in scopes or scope_of(key) in scopes)
        and (
            scope_of(key) in ("stimuli", "archive")
            or subject == "all"
            or re.search("(sub-[^/]+)/", key)[1] in wanted
        )
    ]


def is_refused(
    objects: Iterable[str], subject: str | list[str], scope: Values = None, **filters: Values
) -> bool:
    """Whether a selection is an error: a filter has no value that exists, or nothing matches."""
    there_is = _in_scopes(objects, subject, scope)
    kept = {scope_of(key) for key in there_is}
    for name in set(filters) & CHOOSERS:
        kept &= {scope_of(key) for key in there_is if read_entity(key, name) is not None}
    for name, values in filters.items():
        open_to = [key for key in there_is if name in CHOOSERS or scope_of(key) != "freesurfer"]
        existing = {read_entity(key, name) for key in open_to} - {None}
        if name == "ses":
            public = [k for k in there_is if scope_of(k) in kept and not REFUSED.search(k)]
            open_to = [key for key in public if _takes(key, "ses")]
            existing = {read_entity(key, "ses") for key in public} - {None}
            if any(read_entity(key, "ses") is None for key in public):
                existing.add("averages")
        asked = _bare(name, as_list(values))
        if open_to and not any(_mean(name, value, existing) & existing for value in asked):
            return True
    return not matched_keys(objects, subject, scope=scope, **filters)


def read_entity(key: str, name: str) -> str | None:
    """Return what the text of a key says of an entity, its suffix or its extension."""
    stem, _, extension = key.rpartition("/")[2].partition(".")
    if name == "extension":
        return extension or None
    if name == "suffix":
        return stem.split("_")[-1] or None
    carried = re.findall(f"(?:/|_){name}-([^/_.]+)", key)
    return carried[-1].replace("-", "") if carried and name == "label" else (carried or [None])[-1]


def _takes(key: str, name: str) -> bool:
    """Whether a filter applies to the scope of a key."""
    scope = scope_of(key)
    has_sessions = scope in ("glmsingle-tedana", "tedana", "localizers", "raw")
    return scope != "freesurfer" and (name != "ses" or has_sessions)


def _bare(name: str, values: list[str]) -> list[str]:
    mark = "." if name == "extension" else f"{name}-"
    bare = [value if name == "suffix" else value.removeprefix(mark) for value in values]
    return [value.replace("-", "") for value in bare] if name == "label" else bare


def _mean(name: str, value: str, there_is: set[str]) -> set[str]:
    """Return what a value means: itself, or the one value of words that it begins."""
    begun = {known for known in there_is if known.lower().startswith(value.lower())}
    is_word = name in ("task", "space", "desc", "stat", "label", "contrast")
    if is_word and value not in there_is and len(begun) == 1 and not value.isdigit():
        return begun
    return {value}


def _passes(key: str, name: str, values: list[str], beside: list[str]) -> bool:
    if not _takes(key, name):
        return True
    there_is = {read_entity(other, name) for other in beside if _takes(other, name)} - {None}
    meant = set().union(*(_mean(name, value, there_is) for value in _bare(name, values)))
    carried = read_entity(key, name)
    if name == "ses" and carried is None:
        return "averages" in meant
    return carried is None or carried in meant


def expected_tree(objects: Mapping[str, bytes], subject: str | list[str], **filters):
    """Return key -> content of what a download of `subject` with `filters` has to bring."""
    return {key: objects[key] for key in expected_keys(objects, subject, **filters)}


def read_tree(data_dir: Path) -> dict[str, bytes]:
    """Return relative path -> content of every file of a data directory but our own state."""
    return {
        file.relative_to(data_dir).as_posix(): file.read_bytes()
        for file in Path(data_dir).rglob("*")
        if file.is_file() and file.relative_to(data_dir).parts[0] != ".laion_fmri"
    }


def write_tree(data_dir: Path, objects: Mapping[str, bytes]) -> None:
    """Put `objects` where a download would have put them."""
    for key, content in objects.items():
        file = Path(data_dir, key)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def list_all(data_dir: Path) -> list[str]:
    """Return every path below a folder, our own state included."""
    return sorted(path.relative_to(data_dir).as_posix() for path in Path(data_dir).rglob("*"))


def stat_all(data_dir: Path, keys: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return key -> (inode, mtime in nanoseconds)."""
    found = {key: Path(data_dir, key).stat() for key in keys}
    return {key: (stat.st_ino, stat.st_mtime_ns) for key, stat in found.items()}


def list_runs(data_dir: Path) -> list[str]:
    """Return the names of the runs of a data directory that the user's state folder remembers."""
    state = Path(os.environ["HOME"], ".local", "state", "laion_fmri")
    digest = hashlib.sha256(os.fsencode(Path(data_dir).resolve())).hexdigest()[:16]
    return sorted(run.name for run in (state / digest).glob("*"))


@contextlib.contextmanager
def sandbox(home: Path, endpoint_url: str | None = None) -> Iterator[pytest.MonkeyPatch]:
    """Live in an empty home, with AWS settings that would break anything that read them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            ours = name.startswith("LAION_FMRI_") and name != "LAION_FMRI_AWS"
            aws = name.startswith("AWS_") and name != "AWS_CA_BUNDLE"
            if ours or aws or name.startswith(("XDG_", "SNAKEMAKE_")) or "_proxy" in name.lower():
                patch.delenv(name)
        broken = home / "broken.ini"
        broken.write_text("[default\nregion = = nowhere\n")
        settings = {
            "HOME": home,
            "XDG_CONFIG_HOME": home / "config",
            "XDG_CACHE_HOME": home / "cache",
            "AWS_PROFILE": "missing",
            "AWS_CONFIG_FILE": broken,
            "AWS_SHARED_CREDENTIALS_FILE": broken,
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
            "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
            "AWS_REGION": "mars-north-1",
            "AWS_DEFAULT_REGION": "mars-north-1",
            "AWS_ACCESS_KEY_ID": "wrong",
            "AWS_SECRET_ACCESS_KEY": "wrong",
            "no_proxy": "127.0.0.1,localhost",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        for name, value in settings.items():
            patch.setenv(name, str(value))
        if endpoint_url:
            patch.setenv("LAION_FMRI_ENDPOINT_URL", endpoint_url)
        yield patch


def find_aws() -> str:
    """Return the path of the real AWS CLI; the tests cannot do without."""
    command = os.environ.get("LAION_FMRI_AWS") or "aws"
    found = shutil.which(command)
    if found is None:
        pytest.fail(f"no AWS CLI ({command}): install one, or set LAION_FMRI_AWS", pytrace=False)
    return str(Path(found).absolute())


def wrap_aws(folder: Path, before: str = "", after: str = "") -> Path:
    """Write a script that runs shell lines `before` and `after` the real AWS CLI."""
    script = folder / "aws-wrapper"
    real = f"'{find_aws()}'"
    script.write_text(f'#!/bin/sh\n{before}\n{real} "$@"\nstatus=$?\n{after}\nexit $status\n')
    script.chmod(0o755)
    return script


def count_aws(folder: Path, log: Path, before: str = "true") -> Path:
    """Wrap aws so that each call writes a line to `log`: how many run then, its job, its words.

    A transfer kills an aws that has brought everything, so nothing can be written at its end.
    """
    lock, pids = f"'{log}.lock'", f"'{log}.pids'"
    script = folder / "aws-counter"
    script.write_text(f"""#!/bin/sh
until mkdir {lock} 2> /dev/null; do sleep 0.01; done
running=1
for pid in $(cat {pids} 2> /dev/null); do
    kill -0 $pid 2> /dev/null && running=$((running + 1))
done
echo $$ >> {pids}
echo "$running ${{SLURM_JOB_ID:-none}} $*" >> '{log}'
rmdir {lock}
{before}
exec '{find_aws()}' "$@"
""")
    script.chmod(0o755)
    return script


def run(
    command: Iterable[object], *, cwd: Path | None = None, **settings: object
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, by default in the sandbox's home; `settings` go to its environment.

    A setting of None is taken out of the environment.
    """
    environment = {k: str(v) for k, v in (os.environ | settings).items() if v is not None}
    words = [str(word) for word in command]
    if can_be_warm(words, environment):
        place = str(cwd or os.environ["HOME"])
        return find_starter().run(words[2:], place, environment, timeout=120)
    return subprocess.run(
        words,
        cwd=cwd or os.environ["HOME"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


#: For an environment that lives for one test: pip compiles nothing, which takes half of its time.
#: This is how a variable says ``--no-compile``: the option that it turns off is ``compile``.
QUICK_PIP = {"PIP_NO_COMPILE": "0"}
#: What a command says on stderr every ten seconds, so only on a slow machine.
PROGRESS = re.compile(r"^[\d,]+ of [\d,]+ files, .*\n", re.MULTILINE)


def run_command(*arguments: object, cwd: Path | None = None, **settings: object):
    """Run the ``laion-fmri`` command with its output in pipes, without its lines of progress."""
    done = run([sys.executable, "-m", "laion_fmri", *arguments], cwd=cwd, **settings)
    done.stderr = PROGRESS.sub("", done.stderr)
    return done


def complaints(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what a command has said on stderr, but for its lines of progress."""
    return PROGRESS.sub("", done.stderr).splitlines()


def run_script(text: str, *, cwd: Path | None = None, **settings: object):
    """Run `text` as a plain Python script that lies in the sandbox's home."""
    script = Path(os.environ["HOME"], "script.py")
    script.write_text(text)
    return run([sys.executable, "-W", "error", script], cwd=cwd, **settings)


def start_on_terminal(
    *arguments: object,
    columns: int,
    rows: int = 40,
    before: Iterable[str] = (),
    **settings: object,
) -> tuple[subprocess.Popen[bytes], int]:
    """Start the ``laion-fmri`` command on a terminal, after the words `before`.

    Returns the process, and the descriptor of what the terminal is seen and typed on with. The
    `settings` go to its environment; one of None is taken out of it.
    """
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    given = {"TERM": "xterm-256color", "COLUMNS": None, "LINES": None, **settings}
    process = subprocess.Popen(
        [*before, sys.executable, "-m", "laion_fmri", *map(str, arguments)],
        cwd=os.environ["HOME"],
        env={k: str(v) for k, v in (os.environ | given).items() if v is not None},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    return process, screen


def run_on_terminal(
    *arguments: object, typed: str = "", columns: int = 140, **settings: object
) -> tuple[int, str]:
    """Run the ``laion-fmri`` command on a terminal; return its status and what the screen got.

    The `settings` go to its environment; one of None is taken out of it.
    """
    process, screen = start_on_terminal(*arguments, columns=columns, **settings)
    os.write(screen, typed.encode())
    seen = b""
    with contextlib.suppress(OSError):  # the terminal is gone when the command is
        while chunk := os.read(screen, 65536):
            seen += chunk
    os.close(screen)
    return process.wait(60), seen.decode()


def on_terminal(
    *words: object, columns: int, typed: str = "", asks: str = "? [y/N] ", **settings: str
) -> tuple[int, str]:
    """Run the command on a terminal of its own, and type when it `asks`.

    Returns its status and what it sent to the terminal.
    """
    before = [sys.executable, "-ISc", TAKE_TERMINAL]
    settings = {"NO_COLOR": None, **settings}
    process, screen = start_on_terminal(*words, columns=columns, before=before, **settings)
    seen = b""
    with contextlib.suppress(OSError):  # the terminal is gone when the command is
        while chunk := os.read(screen, 65536):
            seen += chunk
            if typed and asks.encode() in seen:
                os.write(screen, typed.encode())
                typed = ""
    os.close(screen)
    return process.wait(60), seen.decode()


def copy_clone(folder: Path, **config: object) -> Path:
    """Copy what a clone holds to `folder`, with a ``config/config.yaml`` of its own."""
    for name in ("workflow", "laion_fmri", "profiles", "config"):
        shutil.copytree(
            REPO / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".snakemake")
        )
    shutil.copy(REPO / "Snakefile", folder)
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def run_snakemake(clone: Path, *arguments: object, **settings: object):
    """Run plain ``snakemake`` in a clone."""
    return run([PYTHON, "-m", "snakemake", *arguments], cwd=clone, **settings)


def drop_capabilities() -> list[str]:
    """Return a command prefix under which file permissions hold, for root as well."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
