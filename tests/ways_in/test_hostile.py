"""A bucket that nobody vouches for, and links in the data directory: nothing leaves it."""

from __future__ import annotations

import os
import re
import time
import warnings
from collections import Counter
from pathlib import Path

import pytest
from helpers import (
    HOST,
    REPO,
    copy_clone,
    read_tree,
    run_command,
    run_snakemake,
    stat_all,
    write_tree,
)

from laion_fmri.bucket.listing import Bucket
from laion_fmri.dataset import PUBLISHED
from laion_fmri.download import download
from laion_fmri.errors import DownloadError
from laion_fmri.folder.obstacles import Obstacles, find_conflicts, is_safe_key
from laion_fmri.selection.filters import Selection
from laion_fmri.selection.table import find_keys
from laion_fmri.settings import read_settings

GLM = "derivatives/glmsingle-tedana/"
TOP = GLM + "sub-03/"
FUNC = TOP + "ses-01/func/"
MASKS = "derivatives/rois/sub-03/retinotopy/"
WAYS = ("command", "python", "snakemake")

#: Names that read like something else, but are plain files on every disk; ``pwned`` would appear if
#: a shell saw one of them.
FINE = [
    *["$(touch pwned)", "`touch pwned`", "a;touch pwned;", "|touch pwned", "&&touch pwned"],
    *["';touch pwned;'", '";touch pwned;"', ">pwned", "$HOME", "$IFS", "!!", "a&b", "(a)", "^"],
    *["it's", 'so "called"', "'", '"', "\\", "a\\b", "\\n", "%s", "%(x)s", "%2e%2e", "%2e%2e%2fx"],
    *["*", "?", "[a]", "[!a]", "a]", "**", "a*b", "a+b", "#", "a=b", "a,b", "a:b", "<", "a>b"],
    *["-rf", "--delete", "--include", "-", "~", "~root", "...", ".hidden", "temp(x)", "a.ABCDEF12"],
    *[" leading", "trailing ", " ", "two  spaces", "日本", "µ", "😀", "e\u0301", "x" * 246],
    *["-d/x", "~d/x", "$(touch pwned)d/x", "%2e%2ed/x", "..../x", ".laion_fmri/x", "[d]/*"],
    "/".join(["$(touch pwned)s"] * 40),
    " d /x",
    *["folder/a", "Twins/a", "twins/b"],
]
#: Names that are none, or not everywhere, or that one of our programs would take for another.
BAD = [
    *["../../../../../../pwned", "..", "../..", "./a", ".", "a/./b", "a/../b", "/a", "//a", "a//b"],
    *["new\nline", "tab\t", "nul\0", "bell\a", "del\x7f", "esc\x1b[2J", "a\rb", "\u0085", "\xa0"],
    *["\u202eright", "\u200fleft", "soft\xadhyphen", "zero\u200bwidth", "line\u2028", "\ufeff"],
    *["{a}", "a{", "}", "<results>", "<a b>", "\ufffd", "x" * 247, "µ" * 124, "y/" * 350 + "z"],
    # Side by side with others.
    *["folder", "Folder", "one/a", "ONE/A", "caf\xe9", "cafe\u0301", "stra\xdfe", "STRASSE"],
]


@pytest.fixture(scope="module")
def hostile_objects(server):
    """Serve the names in the bucket ``hostile``, in the folder of a session, with a marker."""
    made = {FUNC + name: f"{name!r}\n".encode() for name in FINE + BAD}
    server.add_bucket("hostile", {**made, FUNC + "marker/": b"no file"})
    return made


@pytest.fixture
def hostile(bucket, hostile_objects, monkeypatch):
    """Point the package at the bucket ``hostile``."""
    monkeypatch.setenv("LAION_FMRI_BUCKET", "hostile")
    return bucket


def find_pwned(*folders: Path) -> list[Path]:
    """Return what a shell would have made of the keys."""
    return [path for folder in folders for path in folder.rglob("pwned")]


def fetch(way: str, data_dir: Path, clone: Path) -> tuple[str, list[str]]:
    """Download sub-03 one way; return how it ended and the lines that it warned with."""
    if way == "command":
        done = run_command("download", "--subject", "03", "--n-jobs", "2", "--data-dir", data_dir)
        return str(done.returncode), done.stderr.splitlines()
    if way == "snakemake":
        copy_clone(clone, subject="03", data_dir=str(data_dir))
        done = run_snakemake(clone, "--cores", "2")
        said = [line for line in done.stderr.splitlines() if line.startswith("laion-fmri:")]
        return str(done.returncode), said
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            download("03", n_jobs=2, data_dir=data_dir)
        except DownloadError as error:
            return "1", [*(str(warning.message) for warning in caught), str(error)]
    return "0", [str(warning.message) for warning in caught]


@pytest.mark.parametrize("way", WAYS)
def test_a_hostile_bucket(way, hostile, hostile_objects, tmp_path):
    """The bad keys are named in one line, the others arrive whole, and nothing else happens."""
    data_dir, clone = tmp_path / "a" / "b" / "data", tmp_path / "clone"
    data_dir.mkdir(parents=True)
    status, said = fetch(way, data_dir, clone)
    expected = {FUNC + name: hostile_objects[FUNC + name] for name in FINE}
    assert expected == read_tree(data_dir)
    complaints = [line for line in said if "cannot be files" in line]
    assert (status, len(complaints)) == ("0", 1)
    assert [name for name in BAD if repr(FUNC + name) not in complaints[0]] == []
    assert f"{len(BAD)} keys" in complaints[0]
    clones = ["clone"] if way == "snakemake" else []
    outside = [
        path.name for folder in (tmp_path, *data_dir.parents[:2]) for path in folder.iterdir()
    ]
    assert ["a", "b", *clones, "data"] == sorted(outside)
    assert find_pwned(tmp_path, Path.home()) == []
    assert set(hostile.gets(bucket="hostile")) <= set(expected)


def test_hostile_keys_that_a_pipeline_names(hostile, hostile_objects, tmp_path):
    """Each is a job of its own, whose key passes a shell twice."""
    names = ["$(touch pwned)", "';touch pwned;'", '";touch pwned;"', "-rf", "[a]", " "]
    keys = [FUNC + name for name in names]
    write_tree(
        tmp_path,
        {
            "config.yaml": b"laion: {subject: none, data_dir: data}\n",
            "Snakefile": (
                HOST.format(workflow=REPO / "workflow" / "Snakefile")
                + "rule mine:\n    default_target: True\n"
                + f"    input: {[f'data/{key}' for key in keys]!r}\n"
                + "    output: touch('done')\n"
            ).encode(),
        },
    )
    done = run_snakemake(tmp_path, "--cores", "4")
    assert done.returncode == 0, done.stderr
    assert {key: hostile_objects[key] for key in keys} == read_tree(tmp_path / "data")
    assert find_pwned(tmp_path, Path.home()) == []


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        *[(FUNC + name, True) for name in FINE],
        *[(FUNC + name, False) for name in BAD[: BAD.index("folder")]],
        ("/etc/passwd", False),
        ("~/bashrc", True),
        ("~/.bashrc", False),
        (".git/config", False),
        ("derivatives/a/.Git/hooks/post-checkout", False),
        ("a/GIT~1/config", False),
        ("code/sitecustomize.py", False),
        ("code/conftest.py", False),
        ("sub-01/HEAD", False),
        ("code/run.py", True),
        ("a/x.pth", False),
        ("workflow/Snakefile", False),
        ("a/.gitignore", True),
        ("", False),
        ("a/", False),
        (".laion_fmri", False),
        (".laion_fmri/stamp", False),
        (".Laion_FMRI/stamp", False),  # the same folder, on the disk of a Mac
        (".laion_fmri2/stamp", True),
        ("a/.laion_fmri/b", True),
        ("\ud800", False),  # half a character, which no file system takes
        ("a\udcffb", False),
        ("x" * 246 + "/" + "x" * 246, True),
        ("µ" * 123, True),
        ("x/" * 349 + "xx", True),
        ("x/" * 350 + "x", False),
    ],
    ids=ascii,
)
def test_which_keys_can_be_files(key, expected):
    """A plain path of visible characters, short enough for every disk, and not in our own state."""
    assert expected is is_safe_key(key)


@pytest.mark.parametrize(
    ("listed", "refused"),
    [
        (["a", "b", "a.b", "c/a", "c/b"], []),
        (["a", "a/b"], ["a"]),
        (["a/b", "a"], ["a"]),
        (["a", "a/b", "a/b/c/d"], ["a", "a/b"]),
        (["a/b", "a-b", "a/bc"], []),
        (["A", "a/b"], ["A"]),
        (["A/b", "a/c"], []),  # two folders may become one; their files do not
        (["A/b", "a/B", "a/c"], ["A/b", "a/B"]),
        (["a", "A", "\xe5", "A\u030a"], ["A", "A\u030a", "a", "\xe5"]),
        (["\u212a", "k", "K"], ["K", "k", "\u212a"]),  # the sign of the Kelvin
        (["\ufb01", "fi"], ["fi", "\ufb01"]),  # a ligature
        (["\u0390", "\u03b9\u0308\u0301"], ["\u0390", "\u03b9\u0308\u0301"]),
        (["caf\xe9/x", "cafe\u0301"], ["cafe\u0301"]),
        (["x\u0345\u0301", "x\u0301\u0345"], ["x\u0301\u0345", "x\u0345\u0301"]),
        ([], []),
    ],
    ids=ascii,
)
def test_which_keys_cannot_be_side_by_side(listed, refused):
    """Files that are folders too, and names that some disk takes for one; nothing else."""
    assert refused == sorted(find_conflicts(listed))


def test_a_twin_is_refused_though_only_one_is_selected(bucket, monkeypatch, tmp_path):
    """Which of two came first must not decide what a mirror holds, nor what else is selected."""
    twins = [FUNC + "sub-03_desc-A_x.tsv", FUNC + "sub-03_desc-a_x.tsv"]
    folder = FUNC + "sub-03_desc-A_y.tsv"
    keys = [*twins, folder, folder + "/desc-B_z.tsv", FUNC + "sub-03_desc-A_z.tsv"]
    bucket.add_bucket("twins", dict.fromkeys(keys, b"x"))
    monkeypatch.setenv("LAION_FMRI_BUCKET", "twins")
    selection = Selection.from_settings(read_settings({"subject": "03", "desc": "A"}))
    table = find_keys(selection, PUBLISHED, Bucket.from_settings(), tmp_path)
    assert [keys[4]] == [row.key for row in table.rows]
    assert [twins[0], folder] == list(table.refused)


# Links, and what else is in the way.

TINY_A = FUNC + "sub-03_ses-01_task-images_desc-A_trials.tsv"
TINY_B = FUNC + "sub-03_ses-01_task-images_desc-B_trials.tsv"
TINY_C = TOP + "sub-03_task-images_desc-C_summary.json"
TINY_V1 = MASKS + "sub-03_space-T1w_res-1pt8_label-V1_mask.nii.gz"


@pytest.mark.parametrize(
    ("way", "there"), [("command", "part"), ("python", "nothing"), ("snakemake", "part")]
)
def test_a_folder_that_leads_out_is_not_written_through(way, there, tiny, tiny_objects, tmp_path):
    """What is complete behind it counts, what is not is named; a link that stays inside is fine.

    The data directory is a link itself.
    """
    real, data_dir, outside = tmp_path / "real", tmp_path / "data", tmp_path / "outside"
    for folder in (real / TOP, real / "elsewhere", real / "derivatives/rois/sub-03", outside):
        folder.mkdir(parents=True)
    data_dir.symlink_to(real)
    (data_dir / TOP / "ses-01").symlink_to(outside)
    (data_dir / MASKS).symlink_to("../../../elsewhere")
    inside = {"func/" + Path(TINY_A).name: tiny_objects[TINY_A]}
    if there == "part":
        inside["func/" + Path(TINY_B).name] = b"?"
    write_tree(outside, inside)
    for file in outside.rglob("*.tsv"):
        os.utime(file, (4e9, 4e9))  # from the future, so that a stamp would have to set it back
    before = stat_all(outside, inside)
    status, said = fetch(way, data_dir, tmp_path / "clone")
    assert status == "1"
    expected = f"{TINY_B}: the folder {data_dir / TOP}/ses-01 is a link that leads out of the data"
    assert len({line for line in said if expected in line}) == 1, said
    assert [line for line in said if TINY_A in line] == []
    assert {
        TINY_C: tiny_objects[TINY_C],
        f"elsewhere/{Path(TINY_V1).name}": tiny_objects[TINY_V1],
    } == {key: content for key, content in read_tree(real).items() if "/ses-01/" not in key}
    assert inside == read_tree(outside)
    assert before == stat_all(outside, inside)
    assert Counter([TINY_C, TINY_V1]) == tiny.gets(bucket="tiny")


def test_a_file_that_is_a_link_is_replaced_and_not_written_through(tiny, tiny_objects, tmp_path):
    """A link to a file of the wrong size elsewhere becomes a file; the other stays as it is."""
    data_dir, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    elsewhere.write_bytes(b"?")
    (data_dir / TOP).mkdir(parents=True)
    (data_dir / TINY_C).symlink_to(elsewhere)
    assert fetch("python", data_dir, tmp_path) == ("0", [])
    assert (tiny_objects, b"?") == (read_tree(data_dir), elsewhere.read_bytes())
    assert not (data_dir / TINY_C).is_symlink()


@pytest.fixture
def ground(tmp_path):
    """A data directory with something of each kind in it."""
    top = tmp_path / "data"
    (top / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "data-2").mkdir()
    (top / "file").write_text("x")
    os.mkfifo(top / "pipe")
    links = {
        "out": tmp_path / "other",
        "beside": "../data-2",
        "up": "..",
        "self": ".",
        "in": "folder",
        "folder/back": "../folder/deep",
        "folder/out": "/",
        "nowhere": "gone",
        "loop": "loop",
        "to-file": "file",
        "to-pipe": "pipe",
    }
    for name, target in links.items():
        (top / name).symlink_to(target)
    return top


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("new", None),
        ("file", None),
        ("to-file", None),
        ("new/new/new", None),
        ("folder/new", None),
        ("folder/deep/new", None),
        ("in/new", None),
        ("in/deep/new", None),
        ("folder/back/new", None),
        ("self/self/in/new", None),
        ("folder", "there is a folder at {top}/folder; move it away"),
        ("in", "there is a folder at {top}/in; move it away"),
        ("out", "there is a folder at {top}/out; move it away"),
        ("pipe", "there is something at {top}/pipe that is not a file; move it away"),
        ("to-pipe", "there is something at {top}/to-pipe that is not a file; move it away"),
        ("nowhere", "there is a link to nowhere at {top}/nowhere; fix or remove it"),
        ("loop", "there is a link to nowhere at {top}/loop; fix or remove it"),
        ("file/x/y", "there is a file at {top}/file, where a folder belongs; move it away"),
        ("to-file/x", "there is a file at {top}/to-file, where a folder belongs; move it away"),
        ("pipe/x", "there is a file at {top}/pipe, where a folder belongs; move it away"),
        ("nowhere/x", "the folder {top}/nowhere is a link to nowhere; fix or remove it"),
        ("loop/x", "the folder {top}/loop is a link to nowhere; fix or remove it"),
        ("out/x", "the folder {top}/out is a link that leads out of the data directory"),
        ("out/new/new/x", "the folder {top}/out is a link that leads out of the data directory"),
        ("beside/x", "the folder {top}/beside is a link that leads out of the data directory"),
        ("up/x", "the folder {top}/up is a link that leads out of the data directory"),
        ("up/data/x", "the folder {top}/up is a link that leads out of the data directory"),
        ("in/out/x", "the folder {top}/in/out is a link that leads out of the data directory"),
        ("x" * 200 + "/" + ("y" * 200 + "/") * 19 + "z", "the path .* is too long for this system"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_in_the_way(ground, path, expected):
    """Each obstacle is named with its own path; what does not hinder is no obstacle."""
    said = Obstacles(str(ground)).find(f"{ground}/{path}")
    assert (expected is None) == (said is None)
    assert re.match((expected or "").format(top=re.escape(str(ground))), said or "")


def test_without_a_data_directory_no_link_leads_out(ground):
    """All else is told."""
    paths = ["out/x", "nowhere/x", "file/x", "folder"]
    said = [Obstacles().find(f"{ground}/{path}") is None for path in paths]
    assert said == [True, False, False, False]


def test_how_deep_a_folder_lies_costs_no_key(tmp_path):
    """Folders are looked at once, and not for each of the keys that are in them."""
    deep = "/".join(f"d{n}" for n in range(60))
    (tmp_path / deep).mkdir(parents=True)
    seconds = {}
    for folder in ("d0", deep):
        keys = [f"{tmp_path}/{folder}/{n}" for n in range(3_000)]
        rounds = []
        for _ in range(3):
            found = Obstacles(f"{tmp_path}/")
            begun = time.process_time()
            assert {found.find(key) for key in keys} == {None}
            rounds.append(time.process_time() - begun)
        seconds[folder] = min(rounds)
    assert seconds[deep] < 8 * seconds["d0"]
