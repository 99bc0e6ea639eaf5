"""Run one fetch job; called by path from the rules, so that it starts in milliseconds.

It needs nothing but the standard library: it runs with any Python that a rule environment brings.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Run by path, the folder of this file would stand for that of the package.
    sys.path[0] = str(Path(__file__).parent.parent)

from laion_fmri.fetch.transfer import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
