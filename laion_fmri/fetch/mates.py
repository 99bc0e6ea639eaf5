"""What the jobs of a pipeline, one for each object, fetch for one another.

They are shared out in groups. The job that starts first fetches a whole group with one aws, puts
its own object into place, and keeps the others; their jobs only move them there.
Only the standard library.
"""

import contextlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from laion_fmri.base.files import write_atomically
from laion_fmri.config import STATE_DIR
from laion_fmri.fetch.job import PROGRAM, JobSpec
from laion_fmri.fetch.transfer import Transfer
from laion_fmri.folder import kept
from laion_fmri.folder.guard import ALIVE, KEPT, read_own_file
from laion_fmri.folder.presence import has_others, lock

#: In the folder of a run: the file with the groups, and the folder of what has been fetched.
GROUPS, READY = "groups.json", "ready"
#: The program of each job. Its first argument is the key; a shell is much quicker than Python.
#: Beside another run nothing is moved: its Snakemake may remove the file, so it is kept as well.
FETCH = """#!/bin/sh
for run in {alive}/alive-*; do
  [ "$run" = {own} ] || exec {transfer} "$@"
done
[ -e {ready}/"$1" ] && mv -f -- {kept}/"$1" {data}/"$1" 2> /dev/null && exit
exec {transfer} "$@"
"""


def write_program(run_dir: str, data_dir: str, presence: str | None) -> None:
    """Write the program ``fetch`` of the jobs into the folder of a run with the sign `presence`.

    What it is called does not change with the environment, nor with the folder of the pipeline: so
    neither do the commands of the rules, which Snakemake compares with those of the last run.
    """
    alive = f"{data_dir}/{STATE_DIR}/{ALIVE}"
    words = {
        "alive": shlex.quote(alive),
        "own": shlex.quote(f"{alive}/{presence}"),
        "ready": shlex.quote(f"{run_dir}/{READY}"),
        "kept": shlex.quote(f"{data_dir}/{STATE_DIR}/{KEPT}"),
        "data": shlex.quote(data_dir),
        "transfer": shlex.join([sys.executable, os.fspath(PROGRAM), run_dir]),
    }
    program = Path(run_dir, "fetch")
    write_atomically(program, FETCH.format(**words))
    program.chmod(0o700)


def forget_groups(run_dir: str) -> None:
    """Forget what earlier runs in the same folder have brought: it may be needed again."""
    shutil.rmtree(Path(run_dir, READY), ignore_errors=True)
    for file in Path(run_dir).glob("*.lock"):
        file.unlink(missing_ok=True)


class Groups(NamedTuple):
    """Which objects are fetched together; the group that is best begun first comes first."""

    aws: str  # the program that the main process has found
    names: dict[str, str]  # key -> name of its group, whose job is in a file of that name

    def save(self, run_dir: str) -> None:
        """Write them into the folder of a run."""
        write_atomically(Path(run_dir, GROUPS), json.dumps(self._asdict()))

    @classmethod
    def load(cls, run_dir: str) -> Self:
        """Read what :meth:`save` has written."""
        return cls(**json.loads(read_own_file(f"{run_dir}/{GROUPS}")))


class JobOfOne(Transfer):
    """The job of one object, `own`, which also fetches the others of a group.

    `own` need not be in it: a job whose group is being fetched takes on another meanwhile.
    """

    def __init__(self, spec: JobSpec, aws_words: list[str], own: str) -> None:
        super().__init__(spec, aws_words)
        self.own = own
        self._ready = self.run_dir / READY

    def _is_own(self, key: str) -> bool:
        return key == self.own

    def _is_waiting(self) -> bool:
        return self.own in self.unsettled or (self.own not in self.sizes and bool(self.unsettled))

    def _is_here(self, key: str) -> bool:
        # What was brought for others may have been used and removed by now.
        return super()._is_here(key) or (key != self.own and (self._ready / key).exists())

    def _recall_kept(self, key: str) -> bool:
        if key == self.own:
            return super()._recall_kept(key)
        return kept.is_kept(self.data_dir, key)

    def _place(self, key: str, staged: str, name: str, folder: int) -> None:
        if key == self.own:
            super()._place(key, staged, name, folder)
        else:
            kept.put_by(self.data_dir, key, self.staging, staged)
        mark = self._ready / key
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()

    def _drop_kept(self) -> None:
        if self.own in self.sizes and not has_others(self.data_dir, self.spec.presence):
            kept.drop(self.data_dir, self.own)


def run_job(run_dir: str, own: str, options: Sequence[str]) -> int:
    """Bring the object `own`, and others with it; return 0 if it is in place, else 1."""
    groups = Groups.load(run_dir)
    mine = groups.names[own]

    def fetch(group: str) -> int:
        spec = JobSpec.from_json(read_own_file(f"{run_dir}/{group}.json"))
        return JobOfOne(spec, [groups.aws, *options], own).run()

    with _begin(run_dir, mine) as is_free:
        if is_free:
            return fetch(mine)
    for other in dict.fromkeys(groups.names.values()):
        with _begin(run_dir, other) as is_free:
            if is_free:
                fetch(other)
                break
    return fetch(mine)


@contextlib.contextmanager
def _begin(run_dir: str, group: str) -> Iterator[bool]:
    """Take a group, and say whether no other job has taken it before; in the end it is done."""
    with open(Path(run_dir, f"{group}.lock"), "a+b") as file:
        is_free = lock(file) is not False and not file.tell()
        yield is_free
        if is_free:
            file.write(b"done")
