"""``python -m laion_fmri`` and the ``laion-fmri`` command."""

import sys


def run() -> None:
    """Run the command line and exit with its status."""
    if sys.platform == "win32":
        sys.exit(
            "error: laion-fmri runs on Linux and macOS; on Windows, run it in WSL: "
            "https://learn.microsoft.com/windows/wsl/install"
        )
    from laion_fmri.commands.cli import main

    sys.exit(main())


if __name__ == "__main__":
    run()
