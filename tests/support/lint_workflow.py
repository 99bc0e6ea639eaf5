"""Run ``snakemake --lint`` on the workflow, which has to list a bucket: the sample one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from laion_fmri.sample import serve_sample

ROOT = Path(__file__).resolve().parents[2]

with serve_sample() as server, tempfile.TemporaryDirectory() as data_dir:
    environment = os.environ | {
        "LAION_FMRI_ENDPOINT_URL": server.endpoint_url,
        "LAION_FMRI_DATA_DIR": data_dir,
    }
    for snakefile in ("Snakefile", "workflow/Snakefile"):
        command = [sys.executable, "-m", "snakemake", "--lint", "--snakefile", snakefile]
        if snakefile != "Snakefile":
            command += ["--configfile", "config/config.yaml"]
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
        if done.returncode:
            sys.exit(done.returncode)
