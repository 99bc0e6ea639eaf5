"""The configuration of SLURM that the tests write is theirs alone, and goes with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import slurm

OURS = slurm.TEMPLATE.partition("\n")[0] + "\nSlurmctldHost=localhost\n"
THEIRS = "ClusterName=institute\n"


@pytest.mark.parametrize(
    ("config", "kept", "expected"),
    [
        (None, None, None),
        (OURS, None, None),
        (OURS, THEIRS, THEIRS),
        (THEIRS, None, THEIRS),
        (None, THEIRS, THEIRS),
        (THEIRS, "ClusterName=older\n", THEIRS),
    ],
)
def test_what_killed_tests_have_left(
    config: str | None,
    kept: str | None,
    expected: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is removed, and the machine's own configuration is where it was."""
    places = {"CONFIG": tmp_path / "slurm.conf", "KEPT": tmp_path / "slurm.conf.kept"}
    for name, text in (("CONFIG", config), ("KEPT", kept)):
        monkeypatch.setattr(slurm, name, places[name])
        if text is not None:
            places[name].write_text(text)
    slurm.remove_left_over()
    left = places["CONFIG"]
    assert (left.read_text() if left.exists() else None) == expected
