"""Run one fetch job; called by path from the rules, so that it starts in milliseconds.

It needs nothing but the standard library: it runs with any Python that a rule environment brings.
"""

import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    # Run by path, the folder of this file would stand for that of the package.
    sys.path[0] = str(Path(__file__).parent.parent)

from laion_fmri.fetch.job import JobSpec
from laion_fmri.fetch.mates import run_job
from laion_fmri.fetch.transfer import Transfer
from laion_fmri.folder.guard import read_own_file


def main(argv: list[str]) -> int:
    """Run a job with the aws command after ``--``.

    Before that stands the job, as JSON text or ``@file``; or, in a pipeline, the folder of the run
    and the key of an object, and then source and target of the object come last.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Under nohup a hang-up stays ignored. An interrupt does not, even if a shell that started
        # the workflow in the background ignores it: stopping the workflow stops its transfers.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    if argv[1] != "--":
        run_dir, key, _, _, *options, _, _ = argv
        return run_job(run_dir, key, options)
    text = read_own_file(argv[0][1:]) if argv[0].startswith("@") else argv[0]
    spec = JobSpec.from_json(text)
    if spec.job.is_gated:  # rare, and it loads what other transfers do without
        from laion_fmri.fetch.gated import Gated

        return Gated(spec, argv[2:]).run()
    return Transfer(spec, argv[2:]).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
