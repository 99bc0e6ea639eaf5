"""What it costs to go on inside an object: bytes that were sent, of those of the object.

``python -m benchmarks.resume [AWS ...]``; some minutes. A job fetches one object of 500 MB over a
line that cuts one body in ten, or is killed and run again.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.server import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests" / "support"))

from faults import FaultServer, serve_faults

from laion_fmri.bucket.listing import Bucket
from laion_fmri.fetch.job import PROGRAM, Job, JobSpec
from laion_fmri.sample import SampleServer, serve_sample

MIB = 2**20
SIZE = 480 * MIB
#: Bytes per second of one connection, where a run has to last.
RATE = 6 * MIB
KEY = "derivatives/glmsingle-tedana/sub-03/ses-01/func/sub-03_ses-01_statmap.nii.gz"


def make_command(folder: Path, bench: FaultServer, server: SampleServer, aws: str) -> list[str]:
    """Return the command of the job that fetches the object into a folder."""
    run = folder / "run"
    run.mkdir(parents=True, mode=0o700)
    (folder / "data").mkdir()
    bucket = Bucket("resume", "us-west-2", bench.endpoint_url)
    (entry,) = bucket.list_objects("derivatives/")
    job = Job("job", None, (), ((KEY, SIZE),))
    spec = JobSpec(job, "resume", str(folder / "data"), str(run), {}, {KEY: entry.etag}, 60.0)
    options = bucket.aws_options()
    return [sys.executable, str(PROGRAM), spec.to_json(), "--", aws, "s3", "cp", *options]


def kill_at(share: float, command: list[str], bench: FaultServer) -> None:
    """Kill the job and its aws when so much of the object was sent."""
    rule = bench.break_("slow", KEY, rate=RATE)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    while bench.sent[KEY] < share * SIZE:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.5)
    rule.release()
    bench.mend()


def measure(case: str, aws: str, server: SampleServer, content: bytes) -> float:
    """Return the bytes that were sent until the object was whole, of its own."""
    with tempfile.TemporaryDirectory() as name, serve_faults(server) as bench:
        command = make_command(Path(name), bench, server, aws)
        if case.startswith("killed"):
            kill_at(float(case.split()[2]) / 100, command, bench)
        elif case != "no fault":
            fault = "short" if "FIN" in case else "reset"
            for number in range(3):  # of some thirty bodies
                bench.break_(fault, KEY, skip=3 + 10 * number, times=1, after=8 * MIB)
        subprocess.run(command, stderr=subprocess.DEVNULL, check=True)
        assert Path(name, "data", KEY).read_bytes() == content
        return bench.sent[KEY] / SIZE


def main() -> None:
    """Measure each case with each aws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("aws", nargs="*", default=[os.environ.get("LAION_FMRI_AWS", "aws")])
    given = parser.parse_args()
    dice = random.Random(0)
    content = b"".join(dice.randbytes(MIB) for _ in range(SIZE // MIB))
    cases = ["no fault", "one body in ten cut (FIN)", "one body in ten cut (RST)"]
    cases += [f"killed at {share} %" for share in (20, 50, 80)]
    with serve_sample({}) as server:
        server.add_bucket("resume", {KEY: content})
        for aws in given.aws:
            said = subprocess.run([aws, "--version"], capture_output=True, text=True, check=True)
            print(said.stdout.split()[0])
            for case in cases:
                print(f"  {case:28} {measure(case, aws, server, content):.3f}", flush=True)


if __name__ == "__main__":
    main()
