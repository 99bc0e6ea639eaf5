"""The data directory, argument > environment > saved choice, and the configuration's schema."""

from __future__ import annotations

import datetime
import inspect
import json
import os
import sys
from pathlib import Path

import pytest
import yaml
from helpers import REPO, drop_capabilities, run

from laion_fmri.base.bids import FILTERS
from laion_fmri.config import (
    check_data_dir,
    dataset_initialize,
    find_data_dir,
    get_data_dir,
)
from laion_fmri.download import download
from laion_fmri.errors import ConfigError, DataDirError, DataDirNotSetError
from laion_fmri.settings import Settings, make_schema, read_config, read_settings

SCHEMA = make_schema()


def saved_choice() -> Path:
    """Return where the contract says that the choice is saved."""
    return Path(os.environ["XDG_CONFIG_HOME"], "laion_fmri", "config.json")


def validate(**config) -> Settings:
    """Return the settings that `config` makes."""
    return read_config(config)


def explain(**config) -> str:
    """Return what is said of a configuration that the schema refuses."""
    with pytest.raises(ConfigError) as caught:
        validate(**config)
    return str(caught.value)


def test_argument_before_environment_before_saved_choice(tmp_path, monkeypatch):
    """Each source counts only while the ones before it are silent."""
    dataset_initialize(tmp_path / "saved")
    assert tmp_path / "saved" == get_data_dir()
    monkeypatch.setenv("LAION_FMRI_DATA_DIR", str(tmp_path / "environment"))
    assert tmp_path / "environment" == get_data_dir()
    assert tmp_path / "argument" == get_data_dir(tmp_path / "argument")
    monkeypatch.setenv("LAION_FMRI_DATA_DIR", "")
    assert tmp_path / "saved" == get_data_dir()


def test_says_where_the_choice_comes_from(tmp_path, monkeypatch):
    """The command shows the file or the variable that a choice is from."""
    dataset_initialize(tmp_path / "saved")
    assert str(saved_choice()) in find_data_dir()[1]
    monkeypatch.setenv("LAION_FMRI_DATA_DIR", str(tmp_path))
    assert "LAION_FMRI_DATA_DIR" in find_data_dir()[1]


def test_saves_an_absolute_path(tmp_path, monkeypatch):
    """A relative choice means the same folder from everywhere afterwards."""
    monkeypatch.chdir(tmp_path)
    assert tmp_path / "here" == dataset_initialize("here")
    monkeypatch.chdir("/")
    assert {"data_dir": f"{tmp_path}/here"} == json.loads(saved_choice().read_text())
    assert (tmp_path / "here", True) == (get_data_dir(), (tmp_path / "here").is_dir())


@pytest.mark.parametrize("source", ["argument", "environment"])
@pytest.mark.parametrize("text", ["x", "~/x"])
def test_a_path_is_made_absolute(tmp_path, monkeypatch, source, text):
    """A relative path belongs to the current folder, a tilde to the home."""
    monkeypatch.chdir(tmp_path)
    if source == "environment":
        monkeypatch.setenv("LAION_FMRI_DATA_DIR", text)
    expected = {"x": tmp_path / "x", "~/x": Path(os.environ["HOME"], "x")}[text]
    assert expected == get_data_dir(text if source == "argument" else None)


def test_the_home_without_xdg(tmp_path, monkeypatch):
    """Without $XDG_CONFIG_HOME the choice is in ~/.config, on every system."""
    monkeypatch.delenv("XDG_CONFIG_HOME")
    dataset_initialize(tmp_path / "data")
    assert Path(os.environ["HOME"], ".config", "laion_fmri", "config.json").is_file()
    assert tmp_path / "data" == get_data_dir()


def test_a_second_choice_replaces_the_first(tmp_path):
    """The last choice counts, nothing is left beside it, and existing data stay."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("mine")
    for name in ("a", "b", "a"):
        dataset_initialize(tmp_path / name)
    assert (tmp_path / "a", [saved_choice()]) == (
        get_data_dir(),
        [*saved_choice().parent.iterdir()],
    )
    assert (tmp_path / "a" / "file").read_text() == "mine"


def test_nothing_is_chosen():
    """The error names all three ways to choose."""
    with pytest.raises(DataDirNotSetError) as caught:
        get_data_dir()
    ways = ["laion-fmri config --data-dir", "LAION_FMRI_DATA_DIR", "data_dir"]
    assert [way in str(caught.value) for way in ways] == [True] * 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b'"x"',
        b"\xff\xfe\0",
        b'{"data_dir": 3}',
        b'{"data_dir": null}',
    ],
)
def test_a_corrupt_saved_choice(content):
    """What cannot be read is no choice; the error names the file and how to write a new one."""
    saved_choice().parent.mkdir(parents=True)
    saved_choice().write_bytes(content)
    with pytest.raises(DataDirNotSetError) as caught:
        get_data_dir()
    assert [text in str(caught.value) for text in (str(saved_choice()), "--data-dir")] == [
        True,
        True,
    ]


@pytest.mark.parametrize("content", [b"{", b'{"data_dir": ""}'])
def test_a_corrupt_saved_choice_is_replaced(tmp_path, content):
    """A new choice does not stumble over the old one, nor does an argument."""
    saved_choice().parent.mkdir(parents=True)
    saved_choice().write_bytes(content)
    assert tmp_path == get_data_dir(tmp_path)
    dataset_initialize(tmp_path)
    assert tmp_path == get_data_dir()


@pytest.mark.parametrize("content", [b'{"data_dir": ""}', b'{"data_dir": "relative/path"}'])
def test_a_saved_choice_that_is_no_absolute_path(content):
    """Only an absolute path is ever saved, so another one is not a choice."""
    saved_choice().parent.mkdir(parents=True)
    saved_choice().write_bytes(content)
    with pytest.raises(DataDirNotSetError):
        get_data_dir()


def test_a_missing_parent(tmp_path):
    """It is not made: a typing error must not grow a tree. Nothing is saved either."""
    with pytest.raises(DataDirError, match="missing does not exist"):
        dataset_initialize(tmp_path / "missing" / "data")
    assert ((tmp_path / "missing").exists(), saved_choice().exists()) == (False, False)


@pytest.mark.parametrize("name", ["file", "file/data"])
def test_a_file_is_no_data_directory(tmp_path, name):
    """Neither as the directory nor as its parent; the message names it."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataDirError, match=str(tmp_path / name)):
        dataset_initialize(tmp_path / name)
    assert (saved_choice().exists(), (tmp_path / "file").read_text()) == (False, "mine")


def test_check_of_a_data_directory(tmp_path):
    """Missing and file are told apart, each with what to do; an empty directory is fine."""
    (tmp_path / "file").touch()
    (tmp_path / "data").mkdir()
    assert None is check_data_dir(tmp_path / "data")
    with pytest.raises(DataDirError, match=r"missing does not exist; .*laion-fmri config"):
        check_data_dir(tmp_path / "missing")
    with pytest.raises(DataDirError, match="is a file"):
        check_data_dir(tmp_path / "file")


def test_a_read_only_data_directory(tmp_path):
    """One with files may be complete and passes; an empty one is of no use, and says why."""
    for name in ("empty", "used"):
        (tmp_path / name).mkdir()
    (tmp_path / "used" / "README").touch()
    script = (
        "import os, sys; from pathlib import Path\n"
        "from laion_fmri.config import check_data_dir\n"
        "for name in ('used', 'empty'):\n"
        f"    path = Path({str(tmp_path)!r}, name); path.chmod(0o555)\n"
        "    check_data_dir(path); print(name)\n"
    )
    done = run([*drop_capabilities(), sys.executable, "-c", script])
    assert (done.returncode, done.stdout) == (1, "used\n")
    assert f"DataDirError: the data directory {tmp_path}/empty is not writable" in done.stderr


def test_an_empty_path():
    """An empty string is no directory, rather than the current one."""
    with pytest.raises(DataDirError, match="empty"):
        get_data_dir("")


#: What is said to a run, and not written down.
OF_THE_RUN = {"n_jobs", "dry_run", "profile", "checksums"}


def test_every_argument_is_a_key_of_the_schema():
    """What download() takes, a configuration takes; and the places, which it has beside them."""
    arguments = set(inspect.signature(download).parameters) - OF_THE_RUN
    expected = arguments | {"bucket", "region", "endpoint_url"}
    assert set() == expected - set(SCHEMA["properties"])
    # A scope of the dataset needs no subject.
    assert [way["required"] for way in SCHEMA["anyOf"]] == [["subject"], ["scope"]]


def test_defaults_are_those_of_the_function():
    """What a configuration leaves out is what download() takes by default."""
    parameters = inspect.signature(download).parameters
    settings = validate(subject="sub-03")
    named = set(parameters) - OF_THE_RUN - {"subject"} - set(FILTERS)
    assert {name: getattr(settings, name) for name in named} == {
        name: parameters[name].default for name in named
    }
    assert settings == read_settings({"subject": "sub-03"})


def test_null_stands_for_the_default():
    """A key without a value is as good as one that is left out."""
    given = dict.fromkeys(("ses", "data_dir", "max_bandwidth", "stall_timeout"))
    assert validate(subject="03", **given) == validate(subject="03")


def test_the_example_is_valid():
    """The configuration of a clone passes, also with each example line put in force."""
    text = (REPO / "config" / "config.yaml").read_text()
    examples = [
        line[2:] for line in text.splitlines() if line.startswith("# ") and '": ' not in line
    ]
    examples = [line for line in examples if line.split(":")[0] in SCHEMA["properties"]]
    assert len(examples) >= 8
    assert validate(**yaml.safe_load(text)).subject == "sub-03"
    assert validate(**yaml.safe_load(text + "\n" + "\n".join(examples))).include_stimuli is True


@pytest.mark.parametrize(
    "name", ["subject", "ses", "task", "desc", "extension", "held_out_sessions"]
)
@pytest.mark.parametrize("text", ["01", "010", "[ses-01, 02]", "1.5"])
def test_an_unquoted_number(name, text):
    """YAML has made a number of it; one line says which, and to quote it."""
    value = yaml.safe_load(text)
    if name == "held_out_sessions" and not isinstance(value, list):
        value = [value]
    odd = value[-1] if isinstance(value, list) else value
    said = explain(**{"subject": "sub-03", name: value})
    assert (f"{name}: {odd!r} is not a string" in said, "quote it" in said) == (True, True)
    assert (said.count("\n"), said.count("; quote") - 1) == (0, 0)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, ["lacks 'subject'", "sub-03"]),
        ({"subject": None}, ["subject", "None"]),
        ({"subject": ""}, ["subject", "''"]),
        ({"subject": []}, ["subject", "[]"]),
        ({"subject": "03", "sess": "01"}, ["'sess'"]),
        ({"subject": "03", "n_jobs": 4}, ["'n_jobs'"]),
        ({"subject": "03", "ses": []}, ["ses", "[]", "list of strings"]),
        ({"subject": "03", "ses": ""}, ["ses", "''"]),
        ({"subject": "03", "ses": {"a": "b"}}, ["ses", "{'a': 'b'}"]),
        ({"subject": "03", "ses": "a\nb\n", "desc": ["\n", 1]}, ["desc", "1", "quote"]),
        ({"subject": "03", "ses": [["01"]]}, ["ses", "[['01']]"]),
        ({"subject": "03", "ses": [None, "01"]}, ["ses", "None"]),
        ({"subject": "03", "ses": datetime.date(2020, 1, 1)}, ["ses", "2020"]),
        ({"subject": "03", "include_stimuli": "yes"}, ["include_stimuli", "'yes'", "true"]),
        ({"subject": "03", "include_stimuli": 1}, ["include_stimuli", "1", "true"]),
        ({"subject": "03", "data_dir": ["a"]}, ["data_dir", "['a']"]),
        ({"subject": "03", "ses": 1, "task": 2}, ["ses: 1", "task: 2"]),
        ({"subject": "03", "ses": 1, "held_out_sessions": [1]}, ["ses: 1", "held_out_sessions: 1"]),
    ],
    ids=str,
)
def test_what_is_said_of_a_bad_configuration(config, words):
    """One line names the key, the value, and what is expected."""
    said = explain(**config)
    assert ([word for word in words if word not in said], said.count("\n")) == ([], 0)


@pytest.mark.parametrize(
    ("key", "near"), [("sess", "ses"), ("max_bandwith", "max_bandwidth"), ("Subject", "subject")]
)
def test_an_unknown_key_names_the_nearest_known_one(key, near):
    """A slip of the pen is met with what may have been meant, and with all that there is."""
    said = explain(subject="03", **{key: "x"})
    assert f"{key!r} is not a known key; did you mean '{near}'" in said
    assert "held_out_sessions" in said


def test_the_configuration_is_left_as_it_is():
    """Reading fills in no defaults: what else reads it sees what was written."""
    config = {"subject": "03"}
    read_config(config)
    assert config == {"subject": "03"}
