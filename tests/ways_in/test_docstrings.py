"""The examples in docstrings of public functions: each is run, on the sample bucket."""

from __future__ import annotations

import doctest
import inspect

import pytest

import laion_fmri as lf

FUNCTIONS = {
    name: getattr(getattr(lf, name), name, getattr(lf, name))
    for name in dir(lf)
    if not name.startswith("_") and callable(getattr(lf, name)) and not name[0].isupper()
}
WITH_EXAMPLES = [name for name, function in FUNCTIONS.items() if ">>> " in (function.__doc__ or "")]


def test_what_a_reader_calls_first_has_examples():
    """The functions of the front door."""
    assert {
        *("download", "get_rois", "get_subjects", "key_table", "list_entities", "paths"),
        *("remove", "status", "verify"),
    } <= set(WITH_EXAMPLES)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_print_what_they_show(bucket, tmp_path, monkeypatch, name):
    """In an empty data directory."""
    monkeypatch.setenv("LAION_FMRI_DATA_DIR", str(tmp_path))
    text = inspect.getdoc(FUNCTIONS[name])
    examples = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    said: list[str] = []
    found = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF).run(examples, out=said.append)
    assert found.attempted > 0
    assert found.failed == 0, "".join(said)
