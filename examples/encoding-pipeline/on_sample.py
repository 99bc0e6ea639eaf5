"""Run a command with the sample bucket in the place of the real one.

For example: ``python on_sample.py snakemake --cores 2``.
"""

from __future__ import annotations

import os
import subprocess
import sys

from laion_fmri.sample import serve_sample

with serve_sample() as server:
    settings = {"LAION_FMRI_ENDPOINT_URL": server.endpoint_url, "LAION_FMRI_BUCKET": server.bucket}
    done = subprocess.run(sys.argv[1:], env=os.environ | settings, check=False)
sys.exit(done.returncode)
