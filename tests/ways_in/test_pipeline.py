"""The workflow inside somebody's pipeline: real host pipelines, on the sample bucket."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from helpers import (
    REPO,
    drop_capabilities,
    matched_keys,
    read_entity,
    read_tree,
    run,
    run_command,
    run_snakemake,
    stat_all,
    write_tree,
)

from laion_fmri.errors import SelectionError
from laion_fmri.pipeline import expand_targets, target, targets
from laion_fmri.run.pipeline_modules import MODULES, Process, read_allowed_rules
from laion_fmri.run.plan import Crew
from laion_fmri.run.rules import find_job

GLM = "derivatives/glmsingle-tedana"
BETAS = "_space-T1w_stat-effect_desc-SingletrialBetas_statmap.nii.gz"
TRIALS = "_desc-SingletrialBetas_trials.tsv"
FREESURFER = "derivatives/freesurfer/sub-01/stats/aseg.stats"


def key_of(subject: str, session: str, end: str) -> str:
    """Return the key of a file of one session."""
    stem = f"sub-{subject}_ses-{session}_task-images"
    return f"{GLM}/sub-{subject}/ses-{session}/func/{stem}{end}"


def make_module(name: str = "laion", more: str = "", **config: object) -> str:
    """Return the statements that embed the workflow with `config`."""
    return dedent(f"""
        module {name}:
            snakefile: "{REPO / "workflow" / "Snakefile"}"
            config: {config!r}
            {more}
        use rule * from {name} as {name}_*
    """)


def make_host(folder: Path, *parts: str) -> Path:
    """Write a pipeline of `parts` that imports our functions, into a new folder."""
    folder.mkdir(exist_ok=True)
    start = "from laion_fmri.pipeline import expand_targets, target, targets\n"
    (folder / "Snakefile").write_text(start + "\n".join(dedent(part) for part in parts))
    return folder


def run_host(folder: Path, *arguments: object, cores: int = 2):
    """Run the pipeline in `folder`, which has to succeed; return what it said."""
    done = run_snakemake(folder, "--cores", cores, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def fail_host(folder: Path, *arguments: object) -> str:
    """Run the pipeline in `folder`, which has to fail; return what it said."""
    done = run_snakemake(folder, "--cores", "2", *arguments)
    assert done.returncode != 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def take(path: str) -> str:
    """Return a pipeline whose one rule takes one file."""
    return f"""
        rule size:
            default_target: True
            input: {path!r}
            output: "size.txt"
            shell: "wc -c < {{input:q}} | tr -d ' ' > {{output:q}}"
    """


#: The rule is Python, so Snakemake reads the pipeline again in a process for each of its jobs.
ENCODE = """
    rule encode:
        input:
            betas=target(desc="SingletrialBetas", suffix="statmap", extension="nii.gz"),
            trials=target(suffix="trials", extension="tsv"),
        output: "results/sub-{sub}_ses-{ses}.txt"
        run:
            open(output[0], "w").write(f"{input.betas}\\n{input.trials}\\n")
"""


def test_inputs_by_filter(bucket, objects, tmp_path):
    """Wildcards of the rule fill in the filters; selected or not, just what is named arrives."""
    host = make_host(
        tmp_path / "host",
        make_module(subject=["sub-03"], ses=["ses-01"], desc="R2", data_dir="data"),
        """
        rule all:
            default_target: True
            input:
                expand_targets("results/sub-{sub}_ses-{ses}.txt", suffix="trials"),
                "results/sub-01_ses-02.txt",
        """,
        ENCODE,
    )
    run_host(host)
    wanted = [
        key_of(*where, end) for where in (("03", "01"), ("01", "02")) for end in (BETAS, TRIALS)
    ]
    arrived = read_tree(host / "data")
    assert {key: objects[key] for key in wanted} == {key: arrived[key] for key in wanted}
    said = (host / "results" / "sub-01_ses-02.txt").read_text()
    assert [f"data/{key_of('01', '02', end)}" for end in (BETAS, TRIALS)] == said.split()
    # The trees of the module's subject and its root, and those of the other subject: once each.
    prefixes = [request.query.get("prefix") for request in bucket.listings()]
    trees = [f"derivatives/{tree}/sub-0{n}/" for n in "13" for tree in ("glmsingle-tedana", "rois")]
    assert sorted(["", *trees]) == sorted(p for p in prefixes if p in ("", *trees))
    assert len(prefixes) <= 5 + 4, prefixes  # and the folders that recursive copies list
    before = stat_all(host / "data", arrived)
    bucket.clear_requests()
    assert "Nothing to be done" in run_host(host)
    assert (before, {}) == (stat_all(host / "data", arrived), dict(bucket.gets()))


def test_a_host_that_selects_nothing_gets_what_it_names(bucket, objects, tmp_path):
    """By path, from a tree that no download walks; what is broken is healed before it is read."""
    host = make_host(
        tmp_path / "host", make_module(subject="none", data_dir="data"), take(f"data/{FREESURFER}")
    )
    sizes = []
    for damage in (None, b"broken", None):
        if damage:
            (host / "data" / FREESURFER).write_bytes(damage)
        bucket.clear_requests()
        run_host(host)
        sizes.append((dict(bucket.gets()), (host / "size.txt").read_text()))
        assert read_tree(host / "data") == {FREESURFER: objects[FREESURFER]}
    size = f"{len(objects[FREESURFER])}\n"
    assert sizes == [({FREESURFER: 1}, size), ({FREESURFER: 1}, size), ({}, size)]


def test_a_host_that_selects_nothing_has_nothing_for_all(bucket, tmp_path):
    """Asked for everything, it says in one line what is missing."""
    host = make_host(
        tmp_path / "host", make_module(subject="none", data_dir="data"), "rule mine: output: 'x'"
    )
    assert "write a subject" in fail_host(host, "laion_all")


def test_two_modules_with_selections_that_overlap(bucket, objects, tmp_path):
    """Each object is fetched once, by the rule of one of them, and both selections are whole."""
    host = make_host(
        tmp_path / "host",
        make_module("one", subject="sub-03", ses="ses-01", suffix="trials", data_dir="data"),
        make_module("two", subject="all", suffix="trials", extension="tsv", data_dir="data"),
        """
        rule both:
            default_target: True
            input: rules.one_all.input, rules.two_all.input
        """,
    )
    run_host(host)
    one = matched_keys(objects, "03", ses="ses-01", suffix="trials")
    two = matched_keys(objects, "all", suffix="trials", extension="tsv")
    assert {key: objects[key] for key in one | two} == {
        key: content for key, content in read_tree(host / "data").items() if key in one | two
    }
    assert {1} == {count for key, count in bucket.gets().items() if key in one | two}


def test_two_modules_with_folders_of_their_own(bucket, objects, tmp_path):
    """A target is looked up in the module that is meant; where none is named, that is refused."""
    modules = [
        make_module("one", subject="sub-03", ses="ses-01", data_dir="here"),
        make_module("two", subject="sub-01", ses="ses-02", data_dir="there"),
    ]
    rule = """
        rule copy:
            default_target: True
            input: target(suffix="trials", extension="tsv"{which})
            output: "copy.tsv"
            shell: "cp {{input:q}} {{output:q}}"
    """
    host = make_host(tmp_path / "host", *modules, rule.format(which=", data_dir='there'"))
    run_host(host)
    assert objects[key_of("01", "02", TRIALS)] == (host / "copy.tsv").read_bytes()
    make_host(host, *modules, rule.format(which=""))
    assert "say which is meant with data_dir" in fail_host(host, "--forceall")


def test_a_prefix_goes_before_the_data(bucket, objects, tmp_path):
    """With ``prefix:``, the files lie where the other outputs of the module would."""
    key = key_of("03", "01", TRIALS)
    module = make_module(more='prefix: "external"', subject="03", ses="01", data_dir="data")
    rule = """
        rule copy:
            default_target: True
            input: target(suffix="trials", extension="tsv"), "external/data/README"
            output: "copy.tsv"
            shell: "cp {input[0]:q} {output:q}"
    """
    host = make_host(tmp_path / "host", module, rule)
    run_host(host)
    assert objects[key] == (host / "copy.tsv").read_bytes()
    assert objects[key] == (host / "external" / "data" / key).read_bytes()
    assert not (host / "data").exists()
    (host / "external" / "data" / key).write_bytes(b"broken")
    run_host(host)
    assert objects[key] == (host / "copy.tsv").read_bytes()


def test_one_module_with_a_prefix_and_one_without(bucket, objects, tmp_path):
    """The same data directory in both configurations is two folders."""
    key = key_of("03", "01", TRIALS)
    modules = [
        make_module("one", more='prefix: "external"', subject="none", data_dir="data"),
        make_module("two", subject="none", data_dir="data"),
    ]
    rule = f"""
        rule compare:
            default_target: True
            input:
                "data/{key}", "external/data/{key}",
                target(data_dir="data", suffix="mask", res="1pt8", label="V1"),
            output: touch("same")
            shell: "cmp {{input[0]:q}} {{input[1]:q}}"
    """
    host = make_host(tmp_path / "host", *modules, rule.replace("suffix=", "subject='03', suffix="))
    run_host(host)
    roi = "derivatives/rois/sub-03/retinotopy/sub-03_space-T1w_res-1pt8_label-V1_mask.nii.gz"
    assert {key, roi} == set(read_tree(host / "data"))
    assert {key: objects[key]} == read_tree(host / "external" / "data")


def test_rules_named_like_ours(bucket, objects, tmp_path):
    """A host with its own `all`, `fetch_object` and working directory is served all the same."""
    key = key_of("03", "01", TRIALS)
    rules = f"""
        rule all:
            default_target: True
            input: "copy.tsv"

        rule fetch_object:
            input: "data/{key}"
            output: "copy.tsv"
            shell: "cp {{input:q}} {{output:q}}"
    """
    host = make_host(tmp_path / "host", make_module(subject="none", data_dir="data"), rules)
    (tmp_path / "elsewhere").mkdir()
    run_host(host, "--directory", tmp_path / "elsewhere")
    assert objects[key] == (tmp_path / "elsewhere" / "copy.tsv").read_bytes()
    assert {key: objects[key]} == read_tree(tmp_path / "elsewhere" / "data")


def test_a_working_directory_of_the_host(bucket, objects, tmp_path):
    """A ``workdir:`` before the module holds for its relative data directory as well."""
    key = key_of("03", "01", TRIALS)
    workdir = f"workdir: '{tmp_path / 'work'}'"
    host = make_host(
        tmp_path / "host",
        workdir,
        make_module(subject="none", data_dir="data"),
        take(f"data/{key}"),
    )
    run_host(host)
    assert {key: objects[key]} == read_tree(tmp_path / "work" / "data")


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (key_of("03", "31", TRIALS), "is held out"),
        (key_of("03", "99", TRIALS), "Missing input files"),
        (f"{GLM}/sub-03/../x", "Missing input files"),
    ],
    ids=["held out", "absent", "unsafe"],
)
def test_a_file_that_cannot_be_had(bucket, tmp_path, key, reason):
    """The pipeline stops before it starts, and says why."""
    host = make_host(
        tmp_path / "host", make_module(subject="none", data_dir="data"), take(f"data/{key}")
    )
    assert reason in fail_host(host)
    assert dict(bucket.gets()) == {}


def test_a_complete_selection_that_may_not_be_written(bucket, objects, tmp_path):
    """In a shared folder that only others write, every process of the pipeline finds its inputs."""
    shared = tmp_path / "shared"
    keys = [key_of("03", "01", end) for end in (BETAS, TRIALS)]
    write_tree(shared, {key: objects[key] for key in keys})
    module = make_module(subject="none", data_dir=str(shared))
    host = make_host(tmp_path / "host", module, ENCODE)
    for folder in (shared, *shared.rglob("*")):
        folder.chmod(0o555 if folder.is_dir() else 0o444)
    words = [*drop_capabilities(), sys.executable, "-m", "snakemake", "--cores", "1"]
    done = run([*words, "results/sub-03_ses-01.txt"], cwd=host)
    for folder in (shared, *shared.rglob("*")):
        folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    said = (host / "results" / "sub-03_ses-01.txt").read_text()
    assert [f"{shared}/{key}" for key in keys] == said.split()
    assert not (shared / ".laion_fmri").exists()


def test_stimuli_ask_for_nothing_by_path(bucket, objects, tmp_path):
    """Named by a rule, each comes; the images are refused with where to ask for them."""
    key, images = "stimuli/task-images_metadata.csv", "stimuli/task-images_stimuli.h5"
    host = make_host(
        tmp_path / "host", make_module(subject="none", data_dir="data"), take(f"data/{key}")
    )
    run_host(host)
    assert {key: objects[key]} == read_tree(host / "data")
    other = make_host(
        tmp_path / "other", make_module(subject="none", data_dir="data"), take(f"data/{images}")
    )
    assert "https://laion-fmri.hebartlab.com/request" in fail_host(other)


def test_what_stands_in_the_way_is_left_alone(bucket, tmp_path):
    """A folder where a file belongs is named, and still there afterwards."""
    key = key_of("03", "01", TRIALS)
    host = make_host(
        tmp_path / "host", make_module(subject="none", data_dir="data"), take(f"data/{key}")
    )
    (host / "data" / key).mkdir(parents=True)
    assert "move it away" in fail_host(host)
    assert (host / "data" / key).is_dir()


def test_one_folder_has_one_spelling(bucket, tmp_path):
    """Snakemake compares paths as text, so two spellings would be fetched twice."""
    data = tmp_path / "host" / "data"
    modules = [
        make_module("one", subject="none", data_dir="data"),
        make_module("two", subject="none", data_dir=str(data)),
    ]
    data.mkdir(parents=True)
    host = make_host(tmp_path / "host", *modules, take("data/README"))
    assert "write it the same way in both" in fail_host(host)


def test_the_host_is_clean(bucket, tmp_path):
    """``snakemake --lint`` has nothing to say of a pipeline that embeds ours."""
    rule = """
        rule copy:
            default_target: True
            input: target(suffix="trials", extension="tsv")
            output: "copy.tsv"
            log: "copy.log"
            conda: "none.yaml"
            shell: "cp {input:q} {output:q} 2> {log:q}"
    """
    module = make_module(subject="03", ses="01", data_dir="data")
    module = module.replace(f'"{REPO / "workflow" / "Snakefile"}"', 'config["snakefile"]')
    host = make_host(tmp_path / "host", module, rule)
    where = f"snakefile={REPO / 'workflow' / 'Snakefile'}"
    done = run_snakemake(host, "--lint", "--config", where)
    assert done.returncode == 0, done.stderr
    assert not re.search("^ *[*] ", done.stdout + done.stderr, re.MULTILINE)


def test_the_command_prints_the_snakefile():
    """What it prints is a file, and the one of this package."""
    done = run_command("snakefile")
    assert (done.returncode, done.stdout) == (0, f"{REPO / 'workflow' / 'Snakefile'}\n")


def test_the_snakefile_can_be_embedded_by_what_the_command_prints(bucket, objects, tmp_path):
    """The path as it is printed works in ``module``, from an empty folder."""
    key = key_of("03", "01", TRIALS)
    module = make_module(subject="none", data_dir="data").replace(
        str(REPO / "workflow" / "Snakefile"), run_command("snakefile").stdout.strip()
    )
    host = make_host(tmp_path / "host", module, take(f"data/{key}"))
    run_host(host)
    assert {key: objects[key]} == read_tree(host / "data")


# What the functions find, without a Snakemake around them.


class Workflow:
    """Stands for the workflow object of a pipeline, which is only compared."""


@pytest.fixture
def module(bucket, tmp_path):
    """Open a module of a pipeline in this process."""
    workflow = Workflow()

    def open_module(subject: str = "none", **config: object):
        process = Process(workflow, True, Crew(4), None, False, "laion", str)
        config |= {"subject": subject, "data_dir": str(tmp_path)}
        return MODULES.open(config, process).rules

    return open_module


#: What a key has to carry where it is named.
CARRIED = ("desc", "stat", "run", "echo", "hemi", "label", "contrast")
STRICT = [
    {"subject": "03", "desc": "SingletrialBetas"},
    {"subject": "03", "ses": ["01", "02"], "suffix": "statmap"},
    {"subject": ["01", "03"], "stat": "rsquare"},
    {"subject": "03", "ses": "averages", "extension": "nii.gz"},
    {"subject": "all", "label": "V1", "extension": "nii.gz"},
    {"subject": "03", "scope": "rois", "label": ["FFA-1", "psts"], "hemi": "L"},
    {"subject": "05", "scope": "raw", "run": "01", "echo": "2", "extension": "nii.gz"},
    {"subject": "all", "scope": "freesurfer", "suffix": "aparc+aseg"},
    {"subject": "01", "scope": "localizers", "contrast": "object", "ses": "31"},
    {"subject": "all", "scope": "stimuli", "desc": "CLIP"},
]


@pytest.mark.parametrize("filters", STRICT, ids=str)
def test_an_input_carries_what_is_named(module, objects, tmp_path, filters):
    """As a download selects, but an object without the entity does not pass."""
    module()
    carried = {
        key
        for key in matched_keys(objects, **filters)
        if all(f"_{name}-" in key for name in CARRIED if name in filters)
        and ("suffix" not in filters or read_entity(key, "suffix") == filters["suffix"])
        and (filters.get("ses") != "averages" or "/rois/" not in key)
        and ("statmap" in str(filters) or "extension" not in filters or key.endswith("nii.gz"))
    }
    assert sorted(f"{tmp_path}/{key}" for key in carried) == targets(**filters)({})


def test_wildcards_fill_in_what_is_not_given(module, tmp_path):
    """By their own names, or named in a value; a filter that is given comes first."""
    module(subject="03", ses="01")
    expected = f"{tmp_path}/{key_of('01', '02', TRIALS)}"
    kind = {"suffix": "trials", "extension": "tsv"}
    assert expected == target(**kind)({"sub": "01", "ses": "02"})
    assert expected == target(**kind)({"subject": "sub-01", "ses": "ses-02"})
    assert expected == target(**kind, subject="{who}", ses=["{when}"])({"who": "01", "when": "02"})
    assert expected == target(**kind, ses="02")({"sub": "01", "ses": "01"})
    assert f"{tmp_path}/{key_of('03', '01', TRIALS)}" == target(**kind)({})


def test_a_mask_has_no_session(module, tmp_path):
    """A session by wildcard or of the module does not keep a mask away, nor bring all of them."""
    module(subject="03", ses="01")
    mask = "derivatives/rois/sub-03/retinotopy/sub-03_space-T1w_res-1pt8_label-V1_mask.nii.gz"
    kind = {"suffix": "mask", "res": "1pt8", "label": "V1"}
    assert f"{tmp_path}/{mask}" == target(**kind)({"sub": "03", "ses": "01"})
    assert f"{tmp_path}/{mask}" == target(**kind, scope="rois")({})
    assert f"{tmp_path}/{mask}" == target(suffix="mask", res="1pt8", label="{roi}")({"roi": "V1"})
    assert not [path for path in targets(extension="nii.gz")({}) if "/rois/" in path]


def test_a_pattern_is_filled_in_once_for_each_combination(module):
    """The held-out session is left out, and nothing is named twice."""
    module(subject="all")
    expand = expand_targets("{sub}-{ses}", suffix=["trials", "statmap"], ses=["01", "02"])
    assert sorted(expand({})) == ["01-01", "01-02", "03-01", "03-02"]
    every = expand_targets("{sub}-{ses}", suffix="trials", subject="03")({})
    assert every == ["03-01", "03-02", "03-04"]


@pytest.mark.parametrize(
    ("find", "wildcards", "message"),
    [
        (target(subject="03", suffix="trials"), {}, "objects match .*use targets"),
        (targets(suffix="trials"), {}, "no subject is named"),
        (targets(subject="99"), {}, "the bucket has nothing of sub-99"),
        (targets(subject="03", desc="trialbetas"), {}, "did you mean 'SingletrialBetas'"),
        (targets(ses="07"), {"sub": "03"}, "ses '07' matches nothing"),
        (targets(subject="03", suffix="mask", desc="R2"), {}, "no object of sub-03 .*carries all"),
        (targets(subject="03", scope="roi"), {}, "scope 'roi' is not in .*did you mean 'rois'"),
        (targets(subject="03", ses="31"), {}, "ses '31' matches nothing"),
        (expand_targets("{ses}", subject="03", label="V1"), {}, "has no 'ses' for"),
    ],
)
def test_what_cannot_be_found_is_said_in_a_line(module, find, wildcards, message):
    """What is wrong, and what there is."""
    module()
    with pytest.raises(SelectionError, match=message) as caught:
        find(wildcards)
    assert str(caught.value).count("\n") == 0


def test_a_filter_may_be_any_iterable(module):
    """An iterator can be read only once, and an input function is called for each job."""
    module()
    find = targets(subject="03", ses=(ses for ses in ("01", "02")), suffix="trials")
    assert find({}) == find({})


def test_a_wildcard_that_the_rule_does_not_have(module):
    """It is named, with those that there are."""
    module()
    with pytest.raises(SelectionError, match="needs a wildcard 'who'; the rule has: sub"):
        targets(subject="{who}")({"sub": "01"})


def test_the_line_is_shared_by_what_a_pipeline_names(module):
    """With four cores two jobs fetch at once, and each has half of the limit."""
    opened = module(max_bandwidth=8)
    assert opened.find_source("README", lambda: ["README"]) == "s3://laion-fmri/README"
    (job,) = Path(opened.folder.path).glob("object_*.json")
    assert json.loads(job.read_text())["max_bandwidth"] == 4_000_000


def test_all_subjects_are_looked_up_once(module, bucket):
    """And not for each job of the pipeline."""
    module()
    bucket.clear_requests()
    find = targets(subject="all", suffix="trials")
    assert find({}) == find({})
    assert len([r for r in bucket.listings() if r.query.get("prefix") == f"{GLM}/"]) == 1


@pytest.mark.parametrize(
    ("rule", "job"),
    [
        ("laion_batch_0123456789", "batch_0123456789"),
        ("object_0123456789_laion", "object_0123456789"),
        ("fetch_object_laion", "object"),
        ("encode", "encode"),
    ],
)
def test_a_rule_may_have_another_name(rule, job):
    """A pipeline puts something before or behind it, and a process still finds its job."""
    assert job == find_job(rule)


def test_an_unknown_filter_is_refused_at_once():
    """A misspelt filter would otherwise select more than was meant."""
    with pytest.raises(TypeError, match="'sufix' is not a filter; there are: subject, scope, ses"):
        target(sufix="trials")


def test_without_a_module(module, tmp_path):
    """The functions say what the pipeline lacks."""
    with pytest.raises(
        SelectionError, match="no module of laion-fmri with the data directory '/x'"
    ):
        targets(subject="03", data_dir="/x")({})


def test_a_subject_is_listed_once(module, bucket):
    """However many inputs ask for it, and the module's own subjects never again."""
    module(subject="03", ses="01")
    bucket.clear_requests()
    for _ in range(3):
        targets(subject="03", suffix="trials")({})
        targets(subject="01", suffix="trials")({})
    prefixes = sorted(request.query["prefix"] for request in bucket.listings())
    assert prefixes == [f"derivatives/{tree}/sub-01/" for tree in ("glmsingle-tedana", "rois")]


def test_the_rules_of_a_process_are_read_from_its_command_line():
    """All words after the option, up to the next one."""
    argv = ["snakemake", "--allowed-rules", "laion_batch_0", "encode", "--cores", "1"]
    assert read_allowed_rules(argv) == ["laion_batch_0", "encode"]
    assert read_allowed_rules(["snakemake", "--cores", "1"]) == []


def test_names_that_no_disk_can_tell_apart(server, bucket, tmp_path, monkeypatch):
    """A rule that names one is refused with the reason; a filter passes them over."""
    folder = f"{GLM}/sub-03/ses-01/func"
    twins = {f"{folder}/{name}_x.tsv": name.encode() for name in ("Twin", "twin")}
    server.add_bucket("twins", {**twins, f"{folder}/other_x.tsv": b"other"})
    monkeypatch.setenv("LAION_FMRI_BUCKET", "twins")
    module = make_module(subject="none", data_dir="data")
    named = make_host(tmp_path / "named", module, take(f"data/{folder}/twin_x.tsv"))
    assert "only in case" in fail_host(named)
    assert read_tree(named / "data") == {}
    rule = """
        rule every:
            default_target: True
            input: targets(subject="03", suffix="x")
            output: "names.txt"
            shell: "printf '%s' {input:q} > {output:q}"
    """
    run_host(make_host(tmp_path / "host", module, rule))
    assert (tmp_path / "host" / "names.txt").read_text() == f"data/{folder}/other_x.tsv"


def test_a_run_that_has_what_was_asked_for_ends_in_silence(bucket, objects, tmp_path):
    """What is selected and nobody has asked for is not counted as missing."""
    wanted = key_of("03", "01", TRIALS)
    host = make_host(
        tmp_path / "host",
        make_module(subject="sub-03", ses=["ses-01", "ses-02"], scope="all", data_dir="data"),
        take(f"data/{wanted}"),
    )
    said = run_host(host)
    assert read_tree(host / "data")[wanted] == objects[wanted]
    assert "have arrived" not in said


def test_a_data_directory_with_variables(bucket, objects, tmp_path, monkeypatch):
    """``$SCRATCH`` is filled in as a shell would, and named where it is not set."""
    key = key_of("03", "01", TRIALS)
    module = make_module(subject="none", data_dir="${SCRATCH}/laion")
    rule = """
        from laion_fmri.pipeline import target
        rule take:
            default_target: True
            input: target(subject="03", ses="01", suffix="trials", extension="tsv")
            output: touch("done")
    """
    host = make_host(tmp_path / "host", module, rule)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    (tmp_path / "scratch" / "laion").mkdir()
    run_host(host)
    assert {key: objects[key]} == read_tree(tmp_path / "scratch" / "laion")
    monkeypatch.delenv("SCRATCH")
    assert "the variable ${SCRATCH} is not set" in fail_host(host)
    assert sorted(path.name for path in host.iterdir() if not path.name.startswith(".")) == [
        "Snakefile",
        "done",
    ]


@pytest.mark.parametrize(
    "words", ["--unlock", "--lint", "--list-rules", "--list-target-rules", "-l"]
)
def test_what_asks_for_no_file_needs_no_network(tmp_path, monkeypatch, words):
    """The rules are read, and nothing is listed; the data directory need not be there."""
    monkeypatch.setenv("LAION_FMRI_ENDPOINT_URL", "http://127.0.0.1:9")
    module = make_module(subject="sub-03", data_dir="/nonexistent/data")
    rule = """
        rule take:
            output: touch("done")
            log: "take.log"
            conda: "env.yaml"
            shell: "true 2> {log:q}"
    """
    host = make_host(tmp_path / "host", module, rule)
    (host / "env.yaml").write_text("dependencies: []")
    done = run_snakemake(host, words)
    # Of the linter, that the host names absolute paths.
    assert done.returncode == int(words == "--lint"), done.stdout + done.stderr
    assert "laion-fmri" not in done.stderr
    if "list" in words or words == "-l":
        assert "laion_fetch_object" in done.stdout or "target" in words
