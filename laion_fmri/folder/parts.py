"""What has come of an object so far is kept, by key and SHA-256, until it is whole.

Each is a file of the user's own in ``.laion_fmri/unfinished/``, beside what is kept of objects that
come from S3, but without holes. Only the standard library.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

from laion_fmri.base.files import StrPath
from laion_fmri.folder.guard import UNFINISHED, is_own, list_names, open_file, open_state
from laion_fmri.folder.presence import lock
from laion_fmri.folder.staging import sweep_staging
from laion_fmri.folder.unfinished import digest_key


class Part(NamedTuple):
    """What has come of an object so far: an open file, and its name in an open folder."""

    file: int
    folder: int
    name: str

    @property
    def size(self) -> int:
        """In bytes."""
        return os.fstat(self.file).st_size

    def is_same(self, name: str, folder: int) -> bool:
        """Whether `name` in an open folder is this file."""
        with contextlib.suppress(OSError):
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            return os.path.samestat(found, os.fstat(self.file))
        return False

    def link(self, staging: int, staged: str) -> bool:
        """Make it the file `staged` of an open staging folder as well; whether that is possible."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(staged, dir_fd=staging)
        with contextlib.suppress(OSError):  # without hard links
            os.link(
                self.name, staged, src_dir_fd=self.folder, dst_dir_fd=staging, follow_symlinks=False
            )
        return self.is_same(staged, staging)

    def drop(self) -> None:
        """Remove what is kept."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.name, dir_fd=self.folder)


@contextlib.contextmanager
def open_part(data_dir: StrPath, key: str, sha256: str) -> Iterator[Part]:
    """Open what has come of the object `key` with this SHA-256; what is of another one is dropped.

    Raises BlockingIOError while another process has it open.
    """
    with open_state(data_dir) as state, state.enter(UNFINISHED) as folder:
        start = _name(key)
        name = f"{start}{sha256}"
        for other in list_names(folder):
            if other.startswith(start) and other != name:
                with contextlib.suppress(OSError):
                    os.unlink(other, dir_fd=folder)
        part = _open_locked(data_dir, folder, name)
        try:
            yield part
        finally:
            os.close(part.file)


def _open_locked(data_dir: StrPath, folder: int, name: str) -> Part:
    for _ in range(10):
        try:
            part = Part(open_file(folder, name, os.O_RDWR | os.O_CREAT, 0o600), folder, name)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ELOOP, errno.ENXIO, errno.EACCES):
                raise
            os.unlink(name, dir_fd=folder)  # something else that somebody has put there
            continue
        try:
            if lock(part.file) is False:
                raise BlockingIOError(errno.EAGAIN, "another process is fetching it", name)
            if os.fstat(part.file).st_nlink > 1:
                sweep_staging(data_dir)  # a killed transfer has left a link
            found = os.fstat(part.file)
            is_ours = is_own(part.file, folder)
            if part.is_same(name, folder) and is_ours and found.st_nlink == 1:
                return part
            # Of another user's, or also a file elsewhere: it is not written to.
            part.drop()
        except BaseException:
            os.close(part.file)
            raise
        os.close(part.file)
    raise OSError(errno.EAGAIN, "no file stays in its place", name)


def _name(key: str) -> str:
    """Return how the names of the parts of `key` begin: each user has their own."""
    return f"{digest_key(key)}-{os.geteuid()}-"
