"""Making room: what is removed, what is left, and what is asked before."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import (
    DERIVATIVES,
    ESCAPE,
    ROOT_FILES,
    complaints,
    drop_capabilities,
    expected_keys,
    list_all,
    on_terminal,
    read_tree,
    run,
    run_command,
    write_tree,
)

from laion_fmri.check.removal import plan_removal
from laion_fmri.errors import (
    DataDirError,
    SelectionError,
    SelectionWarning,
    SubjectNotFoundError,
)
from laion_fmri.folder.claims import Claims
from laion_fmri.folder.presence import Presence
from laion_fmri.removal import remove
from laion_fmri.settings import read_settings

IMAGES = "stimuli/task-images_stimuli.h5"
FUNC = f"{DERIVATIVES}/sub-03/ses-01/func"
BETAS = f"{FUNC}/sub-03_ses-01_task-images_desc-SingletrialBetas_trials.tsv"


@pytest.fixture
def data(bucket, objects, tmp_path, monkeypatch) -> Path:
    """Have all of the two subjects, and the stimuli that may be had."""
    keys = expected_keys(objects, "all", include_stimuli=True)
    write_tree(tmp_path / "data", {key: objects[key] for key in keys})
    monkeypatch.setenv("LAION_FMRI_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def session(objects) -> set[str]:
    """Return the keys of ses-01 of sub-03, by the text of their paths alone."""
    return {key for key in objects if key.startswith(f"{DERIVATIVES}/sub-03/ses-01/")}


def outcomes(frame) -> dict[str, str]:
    """Return key -> outcome."""
    return dict(zip(frame["key"], frame["outcome"], strict=True))


# What is removed.


def test_a_session_goes_and_nothing_comes_along(data, session):
    """Neither the mean-R2 map nor the root files, which a download of the session brings along."""
    before = read_tree(data)
    frame = remove("sub-03", ses="ses-01")
    assert dict.fromkeys(session, "removed") == outcomes(frame)
    assert {k: c for k, c in before.items() if k not in session} == read_tree(data)


def test_sizes_are_those_on_disk(data, session, objects):
    """A partial file is removed as well, and both of its sizes are told."""
    (data / BETAS).write_bytes(b"part")
    frame = remove("sub-03", ses="ses-01").set_index("key")
    assert [4, len(objects[BETAS])] == list(frame.loc[BETAS, ["size", "listed_size"]])
    sizes = {key: 4 if key == BETAS else len(objects[key]) for key in session}
    assert sum(sizes.values()) == frame["size"].sum()


def test_filters_are_strict(data, objects):
    """A file without a description is not named by a filter on it: regions of interest stay."""
    frame = remove("sub-03", desc="SingletrialBetas")
    named = {key for key in objects if "/sub-03/" in key and "desc-SingletrialBetas" in key}
    named = {key for key in named if "/ses-31/" not in key}
    assert dict.fromkeys(named, "removed") == outcomes(frame)


def test_averages_are_named_by_their_word(data, objects):
    """The files without a session where there are sessions; masks of regions are no averages."""
    frame = remove("sub-03", ses="averages")
    named = {key for key in objects if re.match(f"{DERIVATIVES}/sub-03/(?!ses-)", key)}
    assert dict.fromkeys(named, "removed") == outcomes(frame)


def test_root_files_and_stimuli_stay_unless_named(data, objects):
    """All of all subjects: what is in the root stays, and the stimuli until they are named."""
    frame = remove("all")
    stimuli = {key for key in objects if key.startswith("stimuli/") and key != IMAGES}
    assert {"removed"} == set(frame["outcome"])
    assert ROOT_FILES | stimuli == set(read_tree(data))
    done = run_command("remove", "--subject", "all", "--include-stimuli", "--yes")
    assert (done.returncode, complaints(done)) == (0, [])
    assert set(read_tree(data)) == ROOT_FILES


def test_empty_folders_go_and_others_stay(data):
    """A folder with a file of the user's is kept, with that file."""
    write_tree(data, {f"{FUNC}/notes.txt": b"mine"})
    remove("sub-03", ses=["ses-01", "ses-02"])
    assert [f"{FUNC}/notes.txt"] == [key for key in read_tree(data) if "sub-03/ses-01/" in key]
    assert not (data / DERIVATIVES / "sub-03" / "ses-02").exists()
    assert (data / DERIVATIVES / "sub-03" / "ses-04").is_dir()


def test_what_is_no_key_of_the_bucket_is_never_touched(data, session):
    """Neither beside the files of a session nor under a name that looks like one."""
    mine = {f"{FUNC}/sub-03_ses-01_task-images_desc-Mine_statmap.nii.gz": b"mine"}
    write_tree(data, mine)
    remove("sub-03", ses="ses-01")
    assert mine == {k: c for k, c in read_tree(data).items() if "/sub-03/ses-01/" in k}


def test_a_dry_run_changes_nothing(data, session):
    """It says what would go."""
    before = list_all(data)
    assert dict.fromkeys(session, "planned") == outcomes(remove("03", ses="01", dry_run=True))
    assert before == list_all(data)


def test_what_is_removed_can_be_fetched_again(tiny, tiny_objects, tmp_path):
    """A download brings back the same, and needs no other command in between."""
    write_tree(tmp_path, tiny_objects)
    assert len(tiny_objects) == len(remove("sub-03", data_dir=tmp_path))
    assert [name for name in list_all(tmp_path) if not name.startswith(".laion_fmri")] == []
    done = run_command("download", "--subject", "sub-03", "--data-dir", tmp_path)
    assert done.returncode == 0
    assert tiny_objects == read_tree(tmp_path)


# What is left.


def test_links_are_left(data, tmp_path, objects, session):
    """A file that is a link, and files in a folder that is one, wherever it leads."""
    outside = tmp_path / "outside"
    (data / DERIVATIVES / "sub-03" / "ses-02").rename(outside)
    (data / DERIVATIVES / "sub-03" / "ses-02").symlink_to(outside)
    (data / BETAS).rename(tmp_path / "betas")
    (data / BETAS).symlink_to(tmp_path / "betas")
    inside = read_tree(outside)
    frame = remove("sub-03", ses=["ses-01", "ses-02"])
    left = {key for key, outcome in outcomes(frame).items() if outcome == "left"}
    assert left == {BETAS} | {f"{DERIVATIVES}/sub-03/ses-02/{name}" for name in inside}
    assert all("link" in reason for reason in frame[frame["outcome"] == "left"]["reason"])
    assert inside == read_tree(outside)
    assert objects[BETAS] == (tmp_path / "betas").read_bytes()
    assert (data / BETAS).is_symlink()


def test_a_folder_that_becomes_a_link_meanwhile_is_not_followed(data, tmp_path):
    """Between the plan and the removal, somebody moves the folder elsewhere."""
    removal = plan_removal(read_settings({"subject": "sub-03", "ses": "ses-01"}))
    assert removal.select("planned")
    (data / FUNC).rename(tmp_path / "elsewhere")
    (data / FUNC).symlink_to(tmp_path / "elsewhere")
    before = read_tree(tmp_path / "elsewhere")
    removal.carry_out()
    assert {"left"} == {item.outcome for item in removal.items}
    assert before == read_tree(tmp_path / "elsewhere")


def test_a_data_directory_may_be_a_link(data, session, tmp_path):
    """It is the user's own choice."""
    (tmp_path / "link").symlink_to(data)
    frame = remove("sub-03", ses="ses-01", data_dir=tmp_path / "link")
    assert dict.fromkeys(session, "removed") == outcomes(frame)


def test_what_is_no_file_is_left(data):
    """A folder in the place of a file."""
    (data / BETAS).unlink()
    (data / BETAS).mkdir()
    assert outcomes(remove("sub-03", ses="ses-01"))[BETAS] == "left"
    assert (data / BETAS).is_dir()


#: A process that claims a key until its standard input ends, as a transfer does.
HOLD = """
import sys
from pathlib import Path
from laion_fmri.folder.claims import Claims
claims = Claims(Path(sys.argv[1]))
print(claims.take(sys.argv[2:]), flush=True)
sys.stdin.read()
"""


def test_what_another_run_is_fetching_is_left(data, session):
    """A claimed key stays, and so do the folders, as long as that run lives."""
    presence = Presence(data)
    command = [sys.executable, "-c", HOLD, data, BETAS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert BETAS in other.stdout.readline().decode()
        frame = remove("sub-03", ses="ses-01")
        assert {BETAS: "left"} | dict.fromkeys(session - {BETAS}, "removed") == outcomes(frame)
        assert "another run" in frame.set_index("key").loc[BETAS, "reason"]
        assert (data / BETAS).exists()
        assert (data / FUNC / "figures").is_dir()
        other.stdin.close()
    presence.close()
    assert outcomes(remove("sub-03", ses="ses-01")) == {BETAS: "removed"}
    assert not (data / FUNC).exists()


def test_a_kept_link_does_not_bring_a_file_back(data, session):
    """What a failed job has kept for the next run is removed with the file."""
    kept = data / ".laion_fmri" / "kept" / BETAS
    kept.parent.mkdir(parents=True)
    kept.hardlink_to(data / BETAS)
    remove("sub-03", ses="ses-01")
    assert not kept.exists()


def test_claims_are_given_up(data):
    """Afterwards anybody can fetch the files again."""
    (data / ".laion_fmri").mkdir()
    remove("sub-03", ses="ses-01")
    claims = Claims(data)
    assert claims.take([BETAS]) == [BETAS]
    claims.close()


def test_held_out_files_stay_unless_their_session_is_named(data, objects):
    """They could not be fetched again."""
    held = {key for key in objects if "/sub-03/ses-31/" in key}
    write_tree(data, {key: objects[key] for key in held})
    frame = remove("sub-03", suffix="trials")
    expected = {key for key in held if re.search("_trials[.]", key)}
    assert expected == {key for key, outcome in outcomes(frame).items() if outcome == "left"}
    assert {"removed"} == set(remove("sub-03", ses="ses-31")["outcome"])


def test_a_refusal_of_the_system_costs_no_other_file(data, session):
    """Exit status 1, one line with the reason, and the rest is removed."""
    (data / FUNC / "figures").chmod(0o555)
    program = [*drop_capabilities(), sys.executable, "-m", "laion_fmri"]
    done = run([*program, "remove", "--subject", "sub-03", "--ses", "ses-01", "--yes"])
    (data / FUNC / "figures").chmod(0o755)
    figures = {key for key in session if "/figures/" in key}
    assert done.returncode == 1
    assert figures == {key for key in read_tree(data) if key in session}
    (line,) = done.stderr.splitlines()
    assert line.startswith("failed: the system refuses it (Permission denied); check")


def test_only_what_is_of_a_subject_goes_with_it(data, objects):
    """All scopes of a subject are not those of the dataset, unless they are named."""
    extra = {k: v for k, v in objects.items() if k.startswith(("stimuli/task-images_m", "sub-03/"))}
    write_tree(data, {k: v for k, v in extra.items() if "ses-31" not in k})
    gone = set(remove("sub-03", scope="all", dry_run=True)["key"])
    assert {key.split("/")[0] for key in gone} == {"derivatives", "sub-03"}
    named = remove("sub-03", scope=["stimuli"], suffix="metadata", dry_run=True)
    assert {"stimuli"} == {key.split("/")[0] for key in named["key"]}


# What is said and asked.


def test_bad_input_has_its_error(data):
    """A subject is required, and filters that match nothing say what there is."""
    with pytest.raises(SubjectNotFoundError):
        remove("sub-09")
    with pytest.raises(SubjectNotFoundError, match="name a subject"):
        remove(None)
    with pytest.raises(SelectionError, match="SingletrialBetas"):
        remove("sub-03", desc="trialbetas")
    with pytest.warns(SelectionWarning, match="ses '99'"):
        remove("sub-03", ses=["ses-99", "ses-01"], dry_run=True)
    with pytest.raises(DataDirError):
        remove("sub-03", data_dir=data / "nowhere")


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ([], "name a --subject"),
        (["--subject", "sub-03"], "add --yes"),
        (["--subject", "sub-09", "--yes"], "there is: sub-01, sub-03"),
        (["--subject", "sub-03", "--desc", "trialbetas", "--yes"], "SingletrialBetas"),
        (["--subject", "sub-03", "--yes", "--data-dir", "/nonexistent"], "name another"),
    ],
)
def test_bad_usage_is_one_line(data, arguments, advice):
    """Exit status 2, what is wrong, and what to do; nothing is removed."""
    before = read_tree(data)
    done = run_command("remove", *arguments)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith("error: ")
    assert advice in done.stderr
    assert before == read_tree(data)


def count(objects, keys) -> str:
    """Return files and bytes as the command writes them."""
    return f"{len(keys)} files, {sum(len(objects[key]) for key in keys) / 1000:.1f} kB"


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("settings", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_a_terminal_is_asked(data, session, objects, columns, settings):
    """Files and bytes by session are shown first; a yes removes them."""
    words = ["remove", "--subject", "sub-03", "--ses", "ses-01"]
    (data / BETAS).write_bytes(objects[BETAS] + b"more")
    objects = objects | {BETAS: objects[BETAS] + b"more"}
    code, sent = on_terminal(*words, columns=columns, typed="y\n", **settings)
    lines = sent.replace("\r", "").splitlines()
    shown = count(objects, session)
    files, size = shown.split(" files, ")
    assert code == 0
    assert f"sub-03   ses-01   glmsingle-tedana  {files:>5}  {size}                 1" in lines
    assert f"Remove {shown}? [y/N] " in sent
    assert f"removed {shown}" == lines[-1]
    assert bool(settings) != (ESCAPE in sent)
    assert max(len(line) for line in lines if str(data) not in line and ESCAPE not in line) <= 80
    assert not (data / FUNC).exists()


@pytest.mark.parametrize("typed", ["n\n", "\n", "\x04", "yeah\n"])
def test_anything_but_yes_removes_nothing(data, typed):
    """Also the end of the input; the exit status tells scripts."""
    before = read_tree(data)
    code, sent = on_terminal("remove", "--subject", "sub-03", columns=80, typed=typed)
    assert (code, sent.replace("\r", "").splitlines()[-1]) == (1, "nothing has been removed")
    assert before == read_tree(data)


def test_piped_it_is_plain(data, session, objects):
    """A dry run for a log: the table, no colour, nothing on stderr."""
    done = run_command(
        *["remove", "--subject", "sub-03", "--ses", "ses-01", "--dry-run"], FORCE_COLOR=1
    )
    assert (done.returncode, complaints(done)) == (0, [])
    assert ESCAPE not in done.stdout
    files, size = count(objects, session).split(" files, ")
    assert re.search(f"(?m)^sub-03 +ses-01 +glmsingle-tedana +{files} +{size}$", done.stdout)
    assert session <= set(read_tree(data))


def test_what_is_not_here_is_nothing_to_remove(data):
    """The second time there is nothing left to do, and that is no failure."""
    words = ["remove", "--subject", "sub-03", "--ses", "ses-01", "--yes"]
    assert run_command(*words).returncode == 0
    again = run_command(*words)
    assert (again.returncode, again.stderr) == (0, "")
    assert f"nothing to remove in {data}\n" == again.stdout


def test_pinned_maps_of_sessions_that_stay_are_told(data):
    """Loaders need the mean-R2 map for the brain mask; without sessions here nobody does."""
    words = ["remove", "--subject", "sub-03", "--dry-run"]
    text = "note: the mean-R2 map, or the mask, of sub-03 would go"
    assert text in run_command(*words, "--ses", "averages").stdout
    assert text not in run_command(*words).stdout
    assert text not in run_command(*words, "--ses", "ses-01").stdout


def test_an_interrupt_ends_it_with_130(data):
    """At the question, nothing is removed."""
    before = read_tree(data)
    code, sent = on_terminal("remove", "--subject", "sub-03", columns=80, typed="\x03")
    assert code == 130
    assert "interrupted" in sent
    assert before == read_tree(data)


def test_an_interrupt_in_the_middle_says_how_far_it_is(data, session):
    """What is removed stays removed, and the rest can be removed by the same again."""
    removal = plan_removal(read_settings({"subject": "sub-03", "ses": "ses-01"}))

    def stop(done: int) -> None:
        if done == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as stopped:
        removal.carry_out(stop)
    assert stopped.value.__notes__ == ["3 files are removed; the same again removes the rest"]
    assert len(session) - 3 == len(session.intersection(read_tree(data)))
    remove("sub-03", ses="ses-01")
    assert not (data / FUNC).exists()
