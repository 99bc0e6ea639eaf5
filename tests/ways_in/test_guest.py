"""A guest in somebody's pipeline: it brings what the rules ask for, and leaves the rest to them."""

import re
import shutil
from pathlib import Path
from textwrap import dedent

import pytest
from faults import FaultServer
from helpers import DERIVATIVES, REPO, read_tree, run_snakemake

SUBJECTS = [f"sub-0{number}" for number in (1, 3, 5, 6, 7)]


def name_table(subject: str, session: int, run: int = 1) -> str:
    """Return the key of a trial table."""
    folder = f"{DERIVATIVES}/{subject}/ses-{session:02}/func"
    return f"{folder}/{subject}_ses-{session:02}_task-images_run-{run:02}_trials.tsv"


#: Three tables of each of 150 sessions.
OBJECTS = {
    name_table(subject, session, run): f"{subject} {session} {run}\n".encode()
    for subject in SUBJECTS
    for session in range(1, 31)
    for run in (1, 2, 3)
}
ONE = name_table("sub-03", 7)
A, B, C = (name_table("sub-03", 1, run) for run in (1, 2, 3))
MODULE = """
module laion:
    snakefile: "{workflow}"
    config: dict(subject={subject!r}, data_dir="data")

use rule * from laion as laion_*
"""
USE = """
use rule fetch_object from laion as laion_fetch_object with:
"""


def make_host(folder: Path, *parts: str, subject: str = "none") -> Path:
    """Write a pipeline with our module and `parts`."""
    workflow = REPO / "workflow" / "Snakefile"
    folder.mkdir(exist_ok=True)
    texts = [MODULE.format(workflow=workflow, subject=subject), *map(dedent, parts)]
    (folder / "Snakefile").write_text("\n".join(texts))
    return folder


def copy_rule(keys: list[str], *, is_target: bool = True) -> str:
    """Return a rule that joins the files of `keys`."""
    return f"""
        rule join:
            default_target: {is_target}
            input: {[f"data/{key}" for key in keys]!r}
            output: "joined.txt"
            shell: "cat {{input:q}} > {{output:q}}"
    """


def snakemake(folder: Path, *words: object, status: int = 0, cores: int = 4) -> str:
    """Run the pipeline, which ends with `status`, and return what it said."""
    done = run_snakemake(folder, "--cores", cores, *words)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("subject", ["all", "none", "sub-03"])
@pytest.mark.parametrize("cores", [1, 2, 8])
def test_one_table_of_150_sessions(bench, tmp_path, subject, cores):
    """What no rule asks for is not fetched, whatever is selected, with any number of cores."""
    host = make_host(tmp_path / "host", copy_rule([ONE]), subject=subject)
    said = snakemake(host, cores=cores)
    assert read_tree(host / "data") == {ONE: OBJECTS[ONE]}
    assert set(bench.gets_by_key()) == {ONE}
    assert "files have arrived" not in said
    before = len(bench.exchanges)
    assert "Nothing to be done" in snakemake(host, cores=cores)
    assert {e.key for e in bench.exchanges[before:] if e.method == "GET"} <= {None, ""}


def test_many_are_fetched_together(bench, tmp_path):
    """The 150 files of 150 jobs come with a few starts of aws, and each has a job of its own."""
    keys = [name_table(subject, session) for subject in SUBJECTS for session in range(1, 31)]
    host = make_host(tmp_path / "host", copy_rule(keys))
    said = snakemake(host)
    assert read_tree(host / "data") == {key: OBJECTS[key] for key in keys}
    assert bench.gets_by_key() == dict.fromkeys(keys, 1)
    assert (host / "joined.txt").read_bytes() == b"".join(OBJECTS[key] for key in keys)
    assert len(re.findall(r"Finished jobid: \d+ \(Rule: laion_fetch_object\)", said)) == 150
    folder = next((host / ".snakemake" / "laion_fmri").iterdir())
    groups = list(folder.glob("*.lock"))
    assert 1 <= len(groups) <= 8
    kept = host / "data" / ".laion_fmri" / "kept"
    assert [file for file in kept.rglob("*") if file.is_file()] == []


def test_a_refused_object_fails_its_own_job_alone(bench, tmp_path):
    """Its mates arrive, and stay; one that nobody asks for is not even asked for."""
    bench.break_("403", B, method="*")
    host = make_host(tmp_path / "host", copy_rule([A, C]))
    snakemake(host)
    assert bench.gets(B) == 0
    func = f"data/{A.rpartition('/')[0]}/sub-03_ses-01_task-images_run-"
    each = """
        rule all:
            default_target: True
            input: expand("copy-{run}.txt", run=["01", "02", "03"])

        rule copy:
            input: "FUNC{run}_trials.tsv"
            output: "copy-{run}.txt"
            shell: "cp {input:q} {output:q}"
    """.replace("FUNC", func)
    other = make_host(tmp_path / "other", each)
    said = snakemake(other, "--keep-going", status=1)
    assert read_tree(other / "data") == {A: OBJECTS[A], C: OBJECTS[C]}
    assert {file.name for file in other.glob("copy-*")} == {"copy-01.txt", "copy-03.txt"}
    assert bench.gets(B) <= 1
    assert "denied (403)" in said
    failed = re.findall(r"Error in rule (\w+)", said)
    assert set(failed) == {"laion_fetch_object"}
    log = re.search(r"log: (\S+\.log)", said)[1]
    assert "403" in (other / log).read_text()


def test_what_was_used_and_dropped_stays_dropped(bench, tmp_path):
    """Raw data are deleted to save room: nothing is to be done, and with a changed rule as well."""
    model = copy_rule([A, B])
    host = make_host(tmp_path / "host", model)
    snakemake(host)
    for key in (A, B):
        (host / "data" / key).unlink()
    for words in ((), ("-n",), ("-n", "--rerun-triggers", "mtime", "params", "code")):
        assert "Nothing to be done" in snakemake(host, *words)
    # From another environment, and after a run that has fetched something else.
    other = make_host(
        host, model, 'rule more:\n    input: "data/' + C + '"\n    output: touch("more")'
    )
    snakemake(other, "more")
    assert "Nothing to be done" in snakemake(other)
    assert bench.gets(A) == bench.gets(B) == 1


def test_the_rule_can_be_adapted(bench, tmp_path):
    """As any other: temporary outputs, resources, retries."""
    changes = {
        "output": 'temp("data/{key}")',
        "retries": "2",
        "resources": "mem_mb=77",
        "message": '"bring {wildcards.key}"',
    }
    adapt = USE + "".join(f"    {name}: {value}\n" for name, value in changes.items())
    host = make_host(tmp_path / "host", adapt, copy_rule([A, B, C]))
    said = snakemake(host)
    assert read_tree(host / "data") == {}
    assert (host / "joined.txt").read_bytes() == b"".join(OBJECTS[key] for key in (A, B, C))
    assert bench.gets_by_key() == {A: 1, B: 1, C: 1}
    assert f"bring {A}" in said
    assert "Nothing to be done" in snakemake(host)


def test_a_rule_of_its_own_beside_the_others(bench, tmp_path):
    """`use rule` for some of the files; the module is read again for it, and listed once."""
    host = make_host(
        tmp_path / "host",
        """
        use rule fetch_object from laion as fetch_now with:
            output: temp("data/{key}")

        ruleorder: fetch_now > laion_fetch_object
        """,
        copy_rule([A]),
    )
    said = snakemake(host)
    assert "Finished jobid: 1 (Rule: fetch_now)" in said
    assert read_tree(host / "data") == {}
    own = [e for e in bench.exchanges if e.key in (None, "") and e.method == "GET"]
    assert len(own) == len({str(e) for e in own}), own


def test_compute_rules_get_their_cores(bench, tmp_path):
    """One slow fetch and three rules that are ready: these do not wait for it."""
    bench.break_("delay", A, delay=6.0)
    host = make_host(
        tmp_path / "host",
        """
        rule all:
            default_target: True
            input: expand("done-{n}", n=range(3)), "joined.txt"

        rule compute:
            output: touch("done-{n}")
            shell: "sleep 0.2"
        """,
        copy_rule([A], is_target=False),
    )
    snakemake(host)
    arrived = (host / "data" / A).stat().st_ctime
    assert all((host / f"done-{n}").stat().st_ctime < arrived for n in range(3))


def test_commands_can_be_pasted(bench, tmp_path):
    """They show where an object comes from and goes to, in the terms of aws."""
    host = make_host(tmp_path / "host", copy_rule([A]))
    said = snakemake(host, "-n", "-p")
    bucket = bench_bucket(bench)
    assert re.search(rf"-- aws s3 cp .*s3://{bucket}/{A} data/{A}", said), said
    assert "laion_fetch_object" in snakemake(host, "--list-rules")


def bench_bucket(bench: FaultServer) -> str:
    """Return the name of the bucket behind the fault bench."""
    import os

    assert bench
    return os.environ["LAION_FMRI_BUCKET"]


@pytest.mark.parametrize("place", ["before", "after"])
def test_workdir_of_the_host(bench, tmp_path, place):
    """Before or after the module: relative paths are those below it."""
    host = make_host(tmp_path / "host", copy_rule([A]))
    (host / "work").mkdir()
    file = host / "Snakefile"
    rules = file.read_text()
    where = 'workdir: "work"\n'
    marker = "use rule * from laion as laion_*\n"
    after = rules.replace(marker, f"{marker}\n{where}")
    file.write_text(where + rules if place == "before" else after)
    said = snakemake(host)
    assert read_tree(host / "work" / "data") == {A: OBJECTS[A]}
    assert (host / "work" / "joined.txt").read_bytes() == OBJECTS[A]
    assert not (host / "data").exists()
    assert "Traceback" not in said
    assert "Nothing to be done" in snakemake(host)


def test_a_storage_provider_for_all_paths_is_refused(bench, tmp_path):
    """It would look for the files of the bucket in that storage; one line says what to do."""
    host = make_host(tmp_path / "host", copy_rule([A]))
    said = snakemake(
        host, "--default-storage-provider", "fs", "--default-storage-prefix", tmp_path, status=1
    )
    assert "--default-storage-provider fs" in said
    assert "local()" in said
    assert "Traceback" not in said


def test_folders_named_by_path_are_listed_together(bench, tmp_path):
    """450 files in 150 folders: one listing for each subject, and not one for each folder."""
    host = make_host(tmp_path / "host", copy_rule(sorted(OBJECTS)))
    snakemake(host, "-n")
    listed = [e.query.get("prefix") for e in bench.exchanges if not e.key and e.method == "GET"]
    assert sorted(listed) == [f"{DERIVATIVES}/{subject}/" for subject in SUBJECTS]


def test_files_that_are_needed_again_are_fetched_together(bench, tmp_path):
    """What an earlier run has brought, and the user has removed, costs few starts of aws again."""
    keys = [name_table("sub-03", session) for session in range(1, 13)]
    host = make_host(tmp_path / "host", copy_rule(keys))
    listings = []
    for _ in range(2):
        snakemake(host, "-F")
        listings.append(sum(1 for e in bench.exchanges if not e.key))
        if len(listings) == 1:
            shutil.rmtree(host / "data" / "derivatives")
            bench.clear()
    assert read_tree(host / "data") == {key: OBJECTS[key] for key in keys}
    assert bench.gets_by_key() == dict.fromkeys(keys, 1)
    assert listings[1] <= listings[0]  # each aws lists a folder
