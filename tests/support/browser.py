"""A browser without a screen, and what it shows of pages on the disk."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers import run

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")


def browse(*words: str) -> subprocess.CompletedProcess[str]:
    """Run Chromium without a screen, to its end."""
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    quiet += ["--disable-background-networking", "--enable-logging=stderr", "--log-level=0"]
    return run([CHROMIUM, *quiet, "--window-size=1600,900", *words])


def look_at(
    frames: Mapping[str, tuple[str, int]], read: str, folder: Path, *words: str
) -> tuple[dict[str, Any], str]:
    """Open pages in frames, and return what is in each, and the console.

    Parameters
    ----------
    frames
        By a name of yours, the URL and the width in pixels.
    read
        A function in JavaScript: it takes a frame, and returns what is to be known of its page.
    folder
        Where a page of our own is written, which has the frames in it.
    words
        More options of Chromium.
    """
    harness = folder / "harness.html"
    harness.write_text(
        """<!DOCTYPE html><meta charset="utf-8"><body><pre id="out"></pre><script>
        const frames = FRAMES, found = {};
        const read = READ;
        for (const [name, [url, width]] of Object.entries(frames)) {
          const frame = document.createElement("iframe");
          frame.style.width = width + "px"; frame.style.height = "800px";
          frame.style.border = "0";
          frame.onload = () => {
            found[name] = read(frame);
            document.getElementById("out").textContent = JSON.stringify(found);
          };
          frame.src = url;
          document.body.append(frame);
        }
        </script>""".replace("FRAMES", json.dumps(frames)).replace("READ", read)
    )
    done = browse("--dump-dom", "--allow-file-access-from-files", *words, harness.as_uri())
    out = re.search('<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    assert out, done.stderr
    found = json.loads(html.unescape(out[1]))
    assert found.keys() == frames.keys()
    return found, done.stderr
