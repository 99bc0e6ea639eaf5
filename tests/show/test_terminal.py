"""Every command on real terminals and in pipes: nothing is cut off, and colour is for eyes."""

from __future__ import annotations

import re

import pytest
from helpers import run_command, run_on_terminal, write_tree

from laion_fmri.commands.cli import make_parser

#: The commands with what they need; those that have tests of their own screens are in other files.
WORDS = {
    "info": ["info"],
    "info of a subject": ["info", "--subject", "sub-03"],
    "config": ["config"],
    "license": ["license"],
    "snakefile": ["snakefile"],
    "logout": ["logout"],
    "completion": ["completion", "bash"],
    "verify": ["verify", "--subject", "sub-03"],
    "ls": ["ls", "--subject", "sub-03"],
    "entities": ["entities", "--subject", "sub-03"],
    "status": ["status", "--subject", "sub-03"],
    "download": ["download", "--subject", "sub-03", "--dry-run"],
    "remove": ["remove", "--subject", "sub-03", "--dry-run"],
    "an error": ["ls", "--subject", "sub-99"],
}
ESCAPE = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07)")
#: Sentences and scripts, which a terminal folds by itself, have one of these; tables have none.
LONG = re.compile(r"/|laion-fmri|licen[cs]e|ETag|#")


@pytest.fixture
def here(tiny, tiny_objects, tmp_path, monkeypatch):
    """Have half of the bucket in a chosen data directory with a short name."""
    monkeypatch.setenv("LAION_FMRI_DATA_DIR", str(tmp_path))
    write_tree(tmp_path, dict(sorted(tiny_objects.items())[:2]))


def test_no_command_is_left_out():
    """What the parser knows is here; the demo and the login have tests of their own."""
    (commands,) = [a for a in make_parser()._actions if a.choices and a.metavar == "COMMAND"]
    assert {words[0] for words in WORDS.values()} == set(commands.choices) - {"demo", "login"}


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("columns", [80, 200])
def test_on_a_terminal(name, columns, here):
    """No table is wider than the terminal, and there is no stack of calls."""
    status, seen = run_on_terminal(*WORDS[name], columns=columns)
    lines = [ESCAPE.sub("", line).rstrip() for line in seen.splitlines()]
    assert status == (2 if name == "an error" else 0), seen
    assert "Traceback" not in seen
    assert [line for line in lines if len(line) > columns and not LONG.search(line)] == []


@pytest.mark.parametrize("name", sorted(WORDS.keys() - {"completion"}))
def test_nothing_breaks_within_a_word(name, here):
    """What is wider than the terminal is a path, a key or a command alone, to be copied whole."""
    _, seen = run_on_terminal(*WORDS[name], columns=80)
    lines = [ESCAPE.sub("", line).rstrip() for line in seen.splitlines()]
    words = re.compile(r"\s*('laion-fmri [^']*'\S*|\S+|\S+ \(.*\))")
    assert [line for line in lines if len(line) > 80 and not words.fullmatch(line)] == []


def test_help_breaks_no_option():
    """An option such as --dry-run, and a value such as sub-03, stay whole."""
    (commands,) = [a for a in make_parser()._actions if a.choices and a.metavar == "COMMAND"]
    for name in commands.choices:
        said = run_command(name, "--help", COLUMNS="80").stdout
        assert [line for line in said.splitlines() if re.search(r"\w-$", line)] == []
        assert max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("settings", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["", "dumb"])
def test_without_colour(name, settings, here):
    """Where there is to be no colour, there is none."""
    seen = run_on_terminal(*WORDS[name], columns=80, **settings)[1]
    assert re.findall(r"\x1b\[[0-9;]*3[0-9][0-9;]*m", seen) == []
    assert not ("TERM" in settings and ESCAPE.search(seen))


@pytest.mark.parametrize("name", WORDS)
def test_in_a_pipe(name, here):
    """Plain text, and errors on their own in one line."""
    done = run_command(*WORDS[name])
    assert not ESCAPE.search(done.stdout + done.stderr)
    if name == "an error":
        assert (done.stdout, len(done.stderr.splitlines())) == ("", 1)
    else:
        assert done.stdout
