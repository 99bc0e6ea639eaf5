"""``python -m laion_fmri`` and the ``laion-fmri`` command."""

import sys


def run() -> None:
    """Run the command line and exit with its status."""
    from laion_fmri.commands.cli import main

    sys.exit(main())


if __name__ == "__main__":
    run()
