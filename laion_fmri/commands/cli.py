"""The ``laion-fmri`` command: its parser, and from any error to one line and an exit status."""

import argparse
import contextlib
import errno
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from laion_fmri import __version__
from laion_fmri.bucket.kept_listings import keeps
from laion_fmri.commands import browse, completion, download, remove, settings, status, verify
from laion_fmri.commands.output import DONE, FAILED, INTERRUPTED, USAGE, say
from laion_fmri.errors import BucketError, LaionFmriError, NoSpaceError, WorkflowFailedError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return its exit status."""
    outputs = [_Output(name) for name in ("stdout", "stderr")]
    parser = make_parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what can come next
        completion.answer_shell(parser)
    arguments = parser.parse_args(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_where: say(f"warning: {message}")
        previous = {
            number: signal.signal(number, signal.default_int_handler)
            for number in (signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) != signal.SIG_IGN  # nohup: meant to outlive its terminal
        }
        kept = keeps.set(True)
        try:
            status: int = arguments.carry_out(arguments)
        except KeyboardInterrupt as stop:
            notes = getattr(stop, "__notes__", ["run the same again to go on where it stopped"])
            with contextlib.suppress(OSError):  # the terminal may be gone
                say(f"interrupted; {'; '.join(notes)}")
            status = INTERRUPTED
        except LaionFmriError as error:
            say(f"error: {error}")
            failures = (BucketError, NoSpaceError, WorkflowFailedError)
            status = FAILED if isinstance(error, failures) else USAGE
        except BrokenPipeError:  # the reader of our output, such as head, has seen enough
            sys.stderr.close()
            status = DONE
        except RecursionError:
            say("error: a folder, or a text, is nested too deeply to be read")
            status = FAILED
        except OSError as error:
            status = INTERRUPTED  # the terminal that it wrote to is gone
            if error.errno != errno.EIO or error.filename:
                said = error.strerror or type(error).__name__
                say(f"error: {os.fsdecode(error.filename or 'the system')}: {said}")
                status = FAILED
        finally:
            keeps.reset(kept)
            for number, handler in previous.items():
                signal.signal(number, handler)
            reasons = [why for output in outputs if (why := output.close())]
    for why in reasons:
        say(f"error: the output cannot be written: {why}")
    return max(status, FAILED) if reasons else status


class _Output:
    """One of the standard streams, which goes nowhere once it cannot be written.

    So a disk that is full of output does not keep a download from its end.
    """

    def __init__(self, name: str) -> None:
        self._name, self._stream, self._why = name, getattr(sys, name), ""
        if self._stream is None:  # closed by whoever has started us
            self._stream = open(os.devnull, "w")  # noqa: SIM115
        setattr(sys, name, self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        self._try(self._stream.flush)

    def close(self) -> str:
        """Put back the stream itself; return why it cannot be written, if so."""
        with contextlib.suppress(ValueError):
            try:
                self.flush()
            except OSError:  # Python would try again at its end, and exit with 120
                self._send_nowhere()
        setattr(sys, self._name, self._stream)
        return self._why

    def _try(self, work: Callable[[], object]) -> None:
        try:
            work()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
                raise
            self._why = error.strerror or str(error)
            self._send_nowhere()

    def _send_nowhere(self) -> None:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._stream.fileno())
        os.close(nothing)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command."""
    parser = argparse.ArgumentParser(
        prog="laion-fmri",
        description="Fetch what you need of the LAION-fMRI dataset. Choose a data directory once "
        "with 'laion-fmri config', look around with 'laion-fmri info', then download.",
        epilog="example: laion-fmri download --subject sub-03 --ses ses-01 --n-jobs 4",
    )
    parser.add_argument("--version", action="version", version=f"laion-fmri {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (browse, status, download, verify, remove, settings, completion):
        module.add(commands)
    return parser
