"""Fetch broken files again, so that none is lost if that fails."""

import contextlib
import fcntl
import filecmp
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from laion_fmri.check.content_check import Finding
from laion_fmri.check.inventory import find_aside
from laion_fmri.config import is_writable, not_writable
from laion_fmri.errors import DataDirError, LaionFmriError
from laion_fmri.fetch.aws import find_aws_command
from laion_fmri.folder.guard import CORRUPT, REPAIR_LOCK, Mirror, check_state, open_state, walk
from laion_fmri.folder.kept import put_back
from laion_fmri.run.run import Run, Watch
from laion_fmri.selection.manifest import Entry, write_manifest
from laion_fmri.selection.table import Row
from laion_fmri.settings import Settings

#: What should be there, and what was found instead.
Broken = tuple[Row, Finding]


@contextlib.contextmanager
def prepare_repair(data_dir: Path) -> Iterator[None]:
    """Keep other repairs away from `data_dir`, and put back what one has left aside."""
    if not is_writable(data_dir):
        raise not_writable(data_dir)
    find_aws_command()
    check_state(data_dir)
    with open_state(data_dir) as state, open(state.open(REPAIR_LOCK), "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataDirError(
                f"another repair of {data_dir} is under way; wait for its end"
            ) from None
        except OSError:  # a file system that knows no locks
            pass
        _put_back(data_dir)
        yield


def repair(
    broken: Sequence[Broken],
    data_dir: Path,
    n_jobs: int,
    check: Callable[[Row], Finding],
    watch: Watch | None = None,
) -> dict[str, Finding]:
    """Fetch files again, and check them once more; return what is found then, by key.

    Each is moved to ``.laion_fmri/corrupt/`` first, since a download takes it for complete. From
    there it is put back if nothing whole has come in its place, and removed if something has. A
    file that the bucket gives with the same content twice is ``unverified``.
    """
    try:
        items = [item for item, _ in broken]
        said = _fetch(items, data_dir, n_jobs, watch) if items else {}
        return {
            item.key: _check_again(item, finding, data_dir, check)
            if os.path.lexists(item.path) and os.path.lexists(find_aside(data_dir, item.key))
            else _explain(finding, said.get(item.key, "not fetched"))
            for item, finding in broken
        }
    finally:
        _put_back(data_dir)


def _fetch(
    items: Sequence[Row], data_dir: Path, n_jobs: int, watch: Watch | None
) -> dict[str, str]:
    """Move the files aside and fetch them; return by key why one has not been fetched."""
    said = {item.key: why for item in items if (why := _set_aside(item, data_dir))}
    moved = [item for item in items if item.key not in said]
    if not moved:
        return said
    try:
        with tempfile.TemporaryDirectory() as folder:
            manifest = Path(folder, "repair.tsv")
            write_manifest(manifest, [Entry(*item.listed) for item in moved])
            settings = Settings(
                "all",
                data_dir=data_dir,
                manifest=str(manifest),
                workers=n_jobs,
                held_out_sessions=(),
                restricted_keys=(),
            )
            with Run(settings) as run:
                report = run.fetch(watch)
    except LaionFmriError as error:
        return said | {item.key: f"not fetched: {error}" for item in moved}
    return said | {row.key: f"not fetched: {reason}" for row, _, reason in report.failures()}


def _set_aside(item: Row, data_dir: Path) -> str | None:
    """Move the file aside; return why that cannot be done, if so."""
    above, _, name = item.key.rpartition("/")
    try:
        with (
            Mirror(data_dir) as mirror,
            mirror.folder_of(item.key) as (folder, file),
            open_state(data_dir) as state,
            state.enter(CORRUPT) as top,
            walk(top, above, make=True) as aside,
        ):
            os.rename(file, name, src_dir_fd=folder, dst_dir_fd=aside)
    except OSError as error:
        where = find_aside(data_dir, item.key)
        return f"not fetched: it cannot be moved to {where}: {error.strerror or error}"
    return None


def _check_again(
    item: Row, before: Finding, data_dir: Path, check: Callable[[Row], Finding]
) -> Finding:
    after = check(item)
    if after.outcome == "ok":
        reason = f"it was {before.outcome}: {before.reason}"
        return after._replace(outcome="repaired", reason=reason)
    if after.outcome == "corrupt" and not after.reason.startswith("its SHA-256"):
        with contextlib.suppress(OSError):
            if filecmp.cmp(find_aside(data_dir, item.key), item.path, shallow=False):
                reason = f"the bucket has given the same content twice: {after.reason}"
                return after._replace(outcome="unverified", reason=reason)
    return _explain(after, "it has been fetched again")


def _explain(finding: Finding, why: str) -> Finding:
    return finding._replace(reason=f"{finding.reason}; {why}" if finding.reason else why)


def _put_back(data_dir: Path) -> None:
    """Put back what is aside and has nothing in its place; remove the rest."""
    with (
        contextlib.suppress(OSError, RecursionError),
        Mirror(data_dir) as mirror,
        open_state(data_dir, make=False) as state,
    ):
        put_back(state, CORRUPT, mirror)
        with state.enter(CORRUPT, make=False) as top:
            for _, folders, _, here in os.fwalk(".", topdown=False, dir_fd=top):
                for name in folders:
                    with contextlib.suppress(OSError):  # what could not be put back stays there
                        os.rmdir(name, dir_fd=here)
        with contextlib.suppress(OSError):
            os.rmdir(CORRUPT, dir_fd=state.folder)
