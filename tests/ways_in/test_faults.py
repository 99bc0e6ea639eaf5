"""What a fault of the network, the bucket or the disk costs, by each of the three ways in.

A story is one fault, or many side by side, met by ``snakemake --cores 4`` in a clone, by
``download()`` or by the command, with a bucket and a fault bench of its own; then the faults are
mended, and the same is run again. Each story is told by one way in by ``make test``, and by the
other two by ``make test-faults``.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from faults import FaultServer, serve_faults
from faults_http import PORTAL
from helpers import (
    HOST,
    copy_clone,
    drop_capabilities,
    list_all,
    read_tree,
    run,
    sandbox,
    stat_all,
    write_tree,
)

from laion_fmri.sample import SampleServer

FUNC = "derivatives/glmsingle-tedana/sub-03/ses-01/func/"
ROIS = "derivatives/rois/sub-03/rois/"
#: What aws lists for a batch, and boto3 does not: that lists the trees.
BATCH = "*/func/"
#: More than one request of aws, which asks for 16 MiB at a time.
TWO_PARTS = 17 * 2**20
#: Requests for one object that are few enough: three starts of aws, each with five attempts.
FEW = 3 * 5


def name_key(name: str) -> str:
    """Return the key of a file of a session for `name`, which may be any text."""
    return f"{FUNC}sub-03_ses-01_task-images_desc-{re.sub('[^a-zA-Z0-9]', '', name)}_trials.tsv"


def make_content(key: str, size: int, version: int = 0) -> bytes:
    """Return bytes that no other key and no other version has anywhere."""
    return random.Random(f"{key} {version}").randbytes(size)


SOUND = {
    key: make_content(key, size)
    for key, size in [
        (f"{ROIS}V1.nii.gz", 300),
        (f"{ROIS}V2.nii.gz", 400),
        (name_key("sound"), 500),
        (name_key("sound and empty"), 0),
        (name_key("sound and large"), TWO_PARTS),
    ]
}
FEW_OBJECTS = SOUND | {(key := name_key(f"more{n}")): make_content(key, 200 + n) for n in range(4)}


class Ended(NamedTuple):
    """The end of a run: its exit status, and what it said on stderr."""

    status: int
    said: str


@dataclass
class Stage:
    """Where one way in meets its faults: a bucket, what breaks it, and a data directory."""

    server: SampleServer
    bench: FaultServer
    bucket: str
    objects: dict[str, bytes]
    clone: Path
    data_dir: Path
    cwd: Path | None = None
    prefix: tuple[str, ...] = ()
    settings: dict[str, object] = field(default_factory=dict)
    made: float = field(default_factory=time.monotonic)

    @property
    def config(self) -> dict[str, object]:
        """The settings of a run."""
        return {"subject": "sub-03", "data_dir": str(self.data_dir), **self.settings}

    def run(self, *command: object, cwd: Path | None = None) -> Ended:
        """Run Python with the words of `command` in the environment of this stage."""
        where = {"ENDPOINT_URL": self.bench.endpoint_url, "BUCKET": self.bucket}
        environment = {f"LAION_FMRI_{name}": value for name, value in where.items()}
        done = run([*self.prefix, sys.executable, *command], cwd=cwd or self.cwd, **environment)
        assert "Traceback" not in done.stderr, done.stderr
        return Ended(done.returncode, done.stderr)

    def replace(self, key: str, more: int = 0) -> None:
        """Put another object at `key`, with `more` bytes, and a time that is surely another."""
        time.sleep(max(0, self.made + 3 - time.monotonic()))
        self.objects[key] = make_content(key, len(self.objects[key]) + more, 1)
        self.server.put(key, self.objects[key], self.bucket)

    def delete(self, key: str) -> None:
        """Take the object at `key` away."""
        del self.objects[key]
        self.server.delete(key, self.bucket)


def use_snakemake(stage: Stage) -> Ended:
    """Run plain ``snakemake --cores 4`` in the clone."""
    (stage.clone / "config" / "config.yaml").write_text(yaml.safe_dump(stage.config))
    return stage.run("-m", "snakemake", "--cores", "4", cwd=stage.clone)


DOWNLOAD = """
import json, sys
from laion_fmri.download import download
from laion_fmri.errors import BucketError, DownloadError
try:
    download(**json.loads(sys.argv[1]))
except DownloadError as error:
    for row in error.report[error.report["reason"] != ""].itertuples():
        print(f"{row.key}: {row.reason}", file=sys.stderr)
    sys.exit(1)
except BucketError as error:
    sys.exit(str(error))
"""


def use_download(stage: Stage) -> Ended:
    """Call ``download()``."""
    words = json.dumps({**stage.config, "n_jobs": 4})
    return stage.run("-W", "error", "-c", DOWNLOAD, words)


def use_command(stage: Stage) -> Ended:
    """Run ``laion-fmri download``."""
    words = [f"--{name.replace('_', '-')}={value}" for name, value in stage.config.items()]
    return stage.run("-m", "laion_fmri", "download", "--n-jobs=4", *words)


WAYS = {"snakemake": use_snakemake, "download": use_download, "command": use_command}
by_each_way = pytest.mark.parametrize("way", WAYS)
LATER = pytest.mark.faults
#: The stories that take less long, each with the way in that tells it first.
FIRST = {"storm": "snakemake", "obstacles": "snakemake"}


def by_story(*names: str, title: str = "name, way") -> pytest.MarkDecorator:
    """Let a test look at stories as they are told by each way in; all but the first later."""
    told = []
    for name in names:
        for way in WAYS:
            values = (name, way) if "name" in title else (way,)
            marks = () if FIRST.get(name) == way else LATER
            told.append(pytest.param(*values, marks=marks, id="-".join(values)))
    return pytest.mark.parametrize(title, told)


def find_reason(ended: Ended, key: str) -> str:
    """Return what a run has said of `key` in a line of its own, the last time; nothing if none."""
    line = f"(?:laion-fmri: |error: )?{re.escape(key)}: (.+)"
    said = [found[1] for found in map(re.compile(line).fullmatch, ended.said.splitlines()) if found]
    return said[-1] if said else ""


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """Copy a clone whose configuration the stories write."""
    return copy_clone(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def set_stage(server, clone, tmp_path_factory):
    """Return a context for a way in: a stage of its own, in a home of its own."""

    @contextmanager
    def set_it(name: str, objects: Mapping[str, bytes], seed: int = 0) -> Iterator[Stage]:
        bucket = f"faults-{name}".replace("_", "-")
        server.add_bucket(bucket, dict(objects))
        data_dir = tmp_path_factory.mktemp(name) / "data"
        data_dir.mkdir()
        with serve_faults(server, seed) as bench:
            yield Stage(server, bench, bucket, dict(objects), clone, data_dir)

    return set_it


class Story(NamedTuple):
    """What came of a run with faults, and of the next one without them.

    `objects` are those of the bucket in the end, `gets` and `times` (seconds) are of the requests
    for objects in the first run.
    """

    first: Ended
    tree: dict[str, bytes]
    gets: Counter[str]
    times: dict[str, list[float]]
    second: Ended
    settled: dict[str, bytes]
    objects: dict[str, bytes]


class Plot(NamedTuple):
    """The objects of a story, what breaks them, and what mends the disk."""

    objects: Mapping[str, bytes]
    begin: Callable[[Stage], object]
    mend: Callable[[Stage], object] = lambda stage: None


@pytest.fixture(scope="module")
def tell(set_stage, tmp_path_factory):
    """Return a function that tells a story by a way in, once, and returns it."""

    @cache
    def tell_it(name: str, way: str) -> Story:
        plot = PLOTS[name]
        home = tmp_path_factory.mktemp("home")
        with sandbox(home), set_stage(f"{name}-{way}", plot.objects) as stage:
            plot.begin(stage)
            first = WAYS[way](stage)
            tree, gets = read_tree(stage.data_dir), stage.bench.gets_by_key()
            times: dict[str, list[float]] = {key: [] for key in gets}
            for exchange in stage.bench.exchanges:
                if exchange.key in times:
                    times[exchange.key].append(exchange.time)
            stage.bench.mend()
            plot.mend(stage)
            second = WAYS[way](stage)
            return Story(first, tree, gets, times, second, read_tree(stage.data_dir), stage.objects)

    return tell_it


# Faults side by side, each at a key of its own.


class Fault(NamedTuple):
    """What befalls one object, and what comes of it.

    Attributes
    ----------
    begin : callable
        Takes the stage and the key.
    arrives : bool or None
        Whether the object arrives; None if it does so whole, in one version or the other, or fails.
    reason : str
        A pattern of the reason why not.
    size : int
        Bytes of the object.
    most : int
        GET requests for it at most.
    key : str
        The key, if it is to be another than one made of the name of the fault.
    """

    begin: Callable[[Stage, str], object]
    arrives: bool | None
    reason: str = "^$"
    size: int = 700
    most: int = FEW
    key: str = ""


def break_(fault: str, **about: object) -> Callable[[Stage, str], object]:
    """Break requests for the key."""
    return lambda stage, key: stage.bench.break_(fault, key, **about)


def before_listing(act: Callable[[Stage, str], None]) -> Callable[[Stage, str], object]:
    """Act when our own listing is done, and before aws makes its own."""
    return lambda stage, key: stage.settings.setdefault("acts", []).append((act, key))


def before_get(act: Callable[[Stage, str], None], skip: int = 0) -> Callable[[Stage, str], object]:
    """Act when aws asks for the object, or after it has asked for `skip` parts of it."""
    return lambda stage, key: stage.bench.break_(
        "call", key, times=1, skip=skip, do=lambda: act(stage, key)
    )


def obstruct(act: Callable[[Path], object]) -> Callable[[Stage, str], object]:
    """Put something where the file belongs."""

    def begin(stage: Stage, key: str) -> None:
        path = stage.data_dir / key
        path.parent.mkdir(parents=True, exist_ok=True)
        act(path)

    return begin


def enlarge(stage: Stage, key: str) -> None:
    """Replace the object by a larger one."""
    stage.replace(key, 11)


CHANGED = "has been replaced in the bucket since it was listed"
FAULTS = {
    "denied": Fault(break_("403", method="*"), False, r"denied \(403\)", most=1),
    "denied by HEAD": Fault(
        break_("403", method="*"), False, r"denied \(403\)", most=0, key="participants.json"
    ),
    "gone before aws lists": Fault(
        before_listing(Stage.delete), False, r"no longer in the bucket \(404\)", most=0
    ),
    "gone when aws asks": Fault(
        before_get(Stage.delete), False, r"no longer in the bucket \(404\)", most=1
    ),
    "replaced by as much before aws lists": Fault(before_listing(Stage.replace), False, CHANGED),
    "replaced by more before aws lists": Fault(before_listing(enlarge), False, CHANGED),
    "replaced by as much when aws asks": Fault(before_get(Stage.replace), None, CHANGED),
    "replaced by more when aws asks": Fault(before_get(enlarge), False, CHANGED),
    "replaced by as much between parts": Fault(
        before_get(Stage.replace, skip=1), None, CHANGED, TWO_PARTS
    ),
    "replaced by more between parts": Fault(before_get(enlarge, skip=1), None, CHANGED, TWO_PARTS),
    "replaced by as much between parts of a job of its own": Fault(
        before_get(Stage.replace, skip=1), None, CHANGED, TWO_PARTS, key="participants.tsv"
    ),
    "short once": Fault(break_("short", after=100, times=1), True),
    "reset once": Fault(break_("reset", after=100, times=1), True),
    "short once in a part": Fault(
        break_("short", after=2**20, times=1, skip=1), True, size=TWO_PARTS
    ),
    "reset once in a part": Fault(
        break_("reset", after=2**20, times=1, skip=1), True, size=TWO_PARTS
    ),
    "503 once": Fault(break_("503", times=1), True),
    "500 for ever": Fault(break_("500"), False, "500|InternalError"),
    "page": Fault(break_("html"), False, "HTML page"),
    "page of the right length": Fault(break_("html"), False, "HTML page", size=len(PORTAL)),
    "page for one part": Fault(break_("html", times=1), True, size=TWO_PARTS),
    "page for the other part": Fault(break_("html", times=1, skip=1), True, size=TWO_PARTS),
    "page for each part": Fault(break_("html"), False, "HTML page", size=TWO_PARTS),
    "page for HEAD": Fault(break_("html", method="*"), False, ".", most=FEW, key="README"),
    "redirect": Fault(break_("redirect"), False, "302|redirect"),
    "redirect for HEAD": Fault(
        break_("redirect", method="*"), False, "302|redirect", key="dataset_description.json"
    ),
    "link to nowhere": Fault(
        obstruct(lambda path: path.symlink_to("nowhere")), False, "link to nowhere at .*", most=0
    ),
    "folder": Fault(obstruct(Path.mkdir), False, "a folder at .*move it away", most=0),
    "FIFO": Fault(obstruct(os.mkfifo), False, "not a file; move it away", most=0),
}
KEYS = {name: fault.key or name_key(name) for name, fault in FAULTS.items()}
BROKEN = {KEYS[name]: make_content(KEYS[name], fault.size) for name, fault in FAULTS.items()}
OBSTACLES = ("link to nowhere", "folder", "FIFO")


IN_THE_WAY = {f"{ROIS}V1.nii.gz", *(KEYS[name] for name in OBSTACLES)}


def obstruct_all(stage: Stage) -> None:
    """Put something in the way of the files of some objects, and break nothing else."""
    for name in OBSTACLES:
        FAULTS[name].begin(stage, KEYS[name])


def begin_all(stage: Stage) -> None:
    """Let every fault of the table befall its key."""
    for name, fault in FAULTS.items():
        fault.begin(stage, KEYS[name])
    acts = stage.settings.pop("acts")

    acting = threading.Lock()

    def act_all() -> None:
        with acting:  # a second batch that lists the same folder waits until all is done
            while acts:
                act, key = acts.pop()
                act(stage, key)

    stage.bench.break_("call", listing=True, prefix=BATCH, do=act_all)


def clear_away(stage: Stage) -> None:
    """Remove what is in the way, if it is still what it was."""
    link, folder, fifo = (stage.data_dir / KEYS[name] for name in OBSTACLES)
    assert (link.is_symlink(), folder.is_dir(), fifo.is_fifo()) == (True, True, True)
    folder.rmdir()
    link.unlink()
    fifo.unlink()


def begin_storm(stage: Stage) -> None:
    """Let three in ten of all requests fail, one in ten in each of three ways."""
    for about in ({"method": "*"}, {"listing": True}):
        for nth, fault in enumerate(("500", "503", "reset-at-once")):
            stage.bench.break_(fault, share=0.1 / (1 - 0.1 * nth), **about)


def begin_portal(stage: Stage) -> None:
    """Let everything be answered by a login page, from the fourth request for an object on."""
    stage.bench.break_("html", method="*", skip=3)
    stage.bench.break_("redirect", listing=True, prefix=BATCH, skip=1)


STALLS = {
    name_key("stalls at once"): ("stall-at-once", 0),
    name_key("stalls after some bytes"): ("stall", 100),
    # One that brings something first would arrive in the end: what it brings is kept.
    name_key("stalls in a large object"): ("stall-at-once", 0),
    "README": ("stall-at-once", 0),
}


def begin_stalls(stage: Stage) -> None:
    """Let some objects never come, and give them up after a while in which aws surely starts."""
    stage.settings["stall_timeout"] = 4
    for key, (fault, after) in STALLS.items():
        stage.bench.break_(fault, key, method="*" if key == "README" else "GET", after=after)


def begin_silence(stage: Stage) -> None:
    """Let nothing come any more once our own listing is done."""
    stage.settings["stall_timeout"] = 2
    stage.bench.break_("stall-at-once", method="*")
    for prefix in (BATCH, "*/rois/"):
        stage.bench.break_("stall-at-once", listing=True, prefix=prefix)


PLOTS = {
    "each": Plot(SOUND | BROKEN, begin_all, clear_away),
    "storm": Plot(FEW_OBJECTS | {"README": b"x" * 50}, begin_storm),
    "portal": Plot(FEW_OBJECTS, begin_portal),
    "stalls": Plot(
        SOUND | {k: make_content(k, TWO_PARTS if "large" in k else 700 + len(k)) for k in STALLS},
        begin_stalls,
    ),
    "silence": Plot(FEW_OBJECTS, begin_silence),
    "obstacles": Plot({key: (SOUND | BROKEN)[key] for key in IN_THE_WAY}, obstruct_all, clear_away),
}


@by_story("each", title="way")
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_has_its_own_end(name, way, tell):
    """The object is there whole, or it is not and is named with the reason; requests are few."""
    key, fault, story = KEYS[name], FAULTS[name], tell("each", way)
    versions = {None, BROKEN[key], make_content(key, fault.size, 1)}
    versions.add(make_content(key, fault.size + 11, 1))
    arrived = story.tree.get(key)
    assert arrived in versions
    reason = find_reason(story.first, key)
    if arrived is None:
        assert re.search(fault.reason, reason), story.first.said
    else:
        assert reason == ""
    assert fault.arrives in (None, arrived is not None)
    assert story.gets[key] <= fault.most


@by_story("each", title="way")
def test_a_fault_costs_no_other_object(way, tell):
    """All that is sound arrives, and the run fails."""
    story = tell("each", way)
    assert story.first.status == 1
    expected = list(SOUND.items())
    assert expected == [(key, story.tree.get(key)) for key in SOUND]
    assert max(story.gets[key] for key in SOUND if len(SOUND[key]) < TWO_PARTS) <= 1


@by_story("each", title="way")
def test_attempts_are_further_and_further_apart(way, tell):
    """An object that fails for ever is asked for again after 2 and after 4 more seconds."""
    times = tell("each", way).times[KEYS["500 for ever"]]
    assert max(times) - min(times) > 6


@by_story(*PLOTS)
def test_the_next_run_settles_it(name, way, tell):
    """Without the faults, all that the bucket has now is here in the end, whole."""
    story = tell(name, way)
    assert story.second.status == 0, story.second.said
    assert sorted(story.objects) == sorted(story.settled)
    assert [key for key in story.objects if story.objects[key] != story.settled[key]] == []


@by_story("storm", title="way")
def test_three_in_ten_requests_fail(way, tell):
    """All arrives nevertheless, and no object is asked for again and again."""
    story = tell("storm", way)
    assert story.first.status == 0, story.first.said
    assert story.objects == story.tree
    assert max(story.gets.values()) <= 2 * FEW


@by_story("portal", title="way")
def test_a_login_page_from_some_moment_on(way, tell):
    """No page is taken for data; what is missing is named."""
    story = tell("portal", way)
    assert story.first.status == 1
    assert story.tree == {key: story.objects[key] for key in story.tree}
    missing = story.objects.keys() - story.tree.keys()
    assert missing
    assert sorted(missing) == sorted(key for key in missing if find_reason(story.first, key))


@by_story("stalls", "silence")
def test_what_stalls_is_given_up(name, way, tell):
    """After a while it is tried again, at last it is named, and the rest arrives meanwhile."""
    story = tell(name, way)
    stalled = set(STALLS) if name == "stalls" else set(story.objects)
    assert story.first.status == 1
    assert {k: v for k, v in story.objects.items() if k not in stalled} == story.tree
    for key in stalled:
        reason = find_reason(story.first, key)
        assert re.search("no byte has arrived for|[Tt]imeout|Max Retries Exceeded", reason)
    assert max(story.gets.values(), default=0) <= 2 * FEW


@by_story("obstacles", title="way")
def test_what_is_in_the_way_fails_the_run(way, tell):
    """The rest arrives, and the run fails, though each request is answered as it should be."""
    story = tell("obstacles", way)
    assert story.first.status == 1
    assert story.tree == {key: SOUND[key] for key in SOUND if key in IN_THE_WAY}
    reasons = [bool(find_reason(story.first, KEYS[name])) for name in OBSTACLES]
    assert reasons == [True, True, True]


# One thing at a time, for which a story would be too long.

SMALL = {key: make_content(key, 200) for key in map(name_key, ("one", "two", "three"))}


@by_each_way
def test_a_login_page_for_a_listing(way, set_stage):
    """A page, or the way to one, is not taken for an empty bucket; the next run completes."""
    with set_stage(f"portal-listing-{way}", SMALL) as stage:
        for fault in ("html", "redirect"):
            stage.bench.break_(fault, listing=True)
            ended = WAYS[way](stage)
            assert (ended.status, "captive portal" in ended.said) == (1, True), ended.said
            assert read_tree(stage.data_dir) == {}
            stage.bench.mend()
        assert WAYS[way](stage).status == 0
        assert read_tree(stage.data_dir) == SMALL


#: A name that a shell, an option parser or a pattern would stumble over.
ODD = '-it\'s "odd" $HOME & µ 日本 [a-z]*?; #%s\\n '.ljust(200, "x")


@by_each_way
def test_a_data_directory_with_an_odd_name(way, set_stage, tmp_path):
    """A link with a name of 200 characters, given relative, and to Snakemake also absolute."""
    with set_stage(f"odd-{way}", SMALL) as stage:
        (tmp_path / "here").mkdir()
        stage.cwd = tmp_path / "here"
        link = (stage.clone if way == "snakemake" else stage.cwd) / ODD
        link.symlink_to(stage.data_dir)
        gone = name_key("two")
        # To the other two ways in they are the same, and to Snakemake another text.
        paths = (ODD, link) if way == "snakemake" else (ODD,)
        for path in paths:
            stage.settings["data_dir"] = str(path)
            ended = WAYS[way](stage)
            assert ended.status == 0, ended.said
            assert read_tree(stage.data_dir) == SMALL
            (stage.data_dir / gone).unlink()
        assert stage.bench.gets_by_key() == dict.fromkeys(SMALL, 1) | {gone: len(paths)}
        assert link.is_symlink()
        assert list_all(tmp_path / "here") == ([] if way == "snakemake" else [ODD])
        link.unlink()


@by_each_way
def test_a_complete_selection_that_may_not_be_written(way, set_stage):
    """In a read-only folder there is nothing to do, and nothing is written."""
    with set_stage(f"read-only-{way}", SMALL) as stage:
        write_tree(stage.data_dir, SMALL)
        before = list_all(stage.data_dir), stat_all(stage.data_dir, SMALL)
        folders = [stage.data_dir, *(p for p in stage.data_dir.rglob("*") if p.is_dir())]
        for folder in folders:
            folder.chmod(0o555)
        stage.prefix = tuple(drop_capabilities())
        ended = WAYS[way](stage)
        for folder in folders:
            folder.chmod(0o755)
        assert ended.status == 0, ended.said
        assert before == (list_all(stage.data_dir), stat_all(stage.data_dir, SMALL))
        assert stage.bench.gets_by_key() == {}


ANALYSIS = """
rule analyse:
    default_target: True
    input: {inputs}
    output: "results/sizes.txt"
    shell: "wc -c {{input:q}} > {{output:q}}"
"""


def upgrade(clone: Path) -> None:
    """Change the rules' text and parameters, the transfer, and the environment of the rules."""
    rules = "workflow/rules/fetch.smk"
    edits = [
        (rules, "exec {params.transfer:q}", ": new; exec {params.transfer:q}"),
        (rules, "transfer=TRANSFER", "new=2, transfer=TRANSFER"),
        (
            "laion_fmri/fetch/transfer.py",
            "class Transfer",
            "# Something has changed.\nclass Transfer",
        ),
        ("workflow/envs/awscli.yaml", "dependencies:", "dependencies:\n  - new-dependency"),
    ]
    for name, old, new in edits:
        text = (clone / name).read_text()
        assert old in text
        (clone / name).write_text(text.replace(old, new))


MODES = {
    "profile": (),
    "no profile": ("--profile", "none", "--workflow-profile", "none"),
    "embedded": (),
}


@pytest.mark.parametrize(
    "mode", ["embedded", *(pytest.param(m, marks=pytest.mark.faults) for m in list(MODES)[:2])]
)
def test_an_upgrade_fetches_no_complete_file_again(mode, set_stage, tmp_path):
    """Whatever triggers Snakemake heeds, only the one file that is missing is fetched."""
    with set_stage(f"upgrade-{mode.replace(' ', '-')}", SMALL) as stage:
        clone = here = copy_clone(tmp_path / "clone", **stage.config)
        if mode == "embedded":
            here = tmp_path / "host"
            here.mkdir()
            inputs = ", ".join(repr(f"{stage.data_dir}/{key}") for key in SMALL)
            text = HOST.format(workflow=clone / "workflow" / "Snakefile")
            (here / "Snakefile").write_text(text + ANALYSIS.format(inputs=inputs))
            (here / "config.yaml").write_text(yaml.safe_dump({"laion": stage.config}))
        words = ["-m", "snakemake", "--cores", "4", *MODES[mode]]
        first = stage.run(*words, cwd=here)
        assert first.status == 0, first.said
        assert stage.bench.gets_by_key() == dict.fromkeys(SMALL, 1)
        gone = name_key("two")
        (stage.data_dir / gone).unlink()
        before = stat_all(stage.data_dir, SMALL.keys() - {gone})
        upgrade(clone)
        stage.bench.clear()
        if mode == "embedded":  # used and deleted, it is not missed
            assert "Nothing to be done" in stage.run(*words, cwd=here).said
            (here / "results" / "sizes.txt").unlink()
        for expected in ({gone: 1}, {}):
            again = stage.run(*words, cwd=here)
            assert again.status == 0, again.said
            assert expected == stage.bench.gets_by_key()
            assert before == stat_all(stage.data_dir, before)
            stage.bench.clear()
        assert read_tree(stage.data_dir) == SMALL
