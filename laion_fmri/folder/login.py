"""The request id for the images: from the environment, or kept in the user's own auth.json.

The dataset's first package keeps it in the same file. Only the standard library.
"""

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from laion_fmri.base.files import expand_path
from laion_fmri.bucket.access import SERVER_URL, Service
from laion_fmri.dataset import PUBLISHED, Facts
from laion_fmri.errors import AccessError
from laion_fmri.folder.guard import FOLDER, is_own, make_own_folder, open_file, open_new

NAME = "LAION_FMRI_REQUEST_ID"
#: What to do without an id; the address of the form is said before it.
ADVICE = "once you have a request id, run 'laion-fmri login' and then the same again"


def find_file() -> Path:
    """Return the file that keeps the id."""
    return expand_path("~/.cache/laion-fmri/auth.json")


def find_service() -> Service | None:
    """Return the service for the user's request id; None if there is no id.

    Raises AccessError for an id that cannot be used, or ConfigError for an address.
    """
    server_url = os.environ.get("LAION_FMRI_SERVER_URL")
    if given := os.environ.get(NAME, "").strip():
        return Service(check_id(given), server_url or SERVER_URL)
    kept = _read()
    if kept is None:
        return None
    request_id, kept_url = kept.get("request_id"), kept.get("server_url")
    if not isinstance(request_id, str) or not isinstance(kept_url or "", str):
        raise AccessError(f"{find_file()} holds no request id; run 'laion-fmri login'")
    return Service(check_id(request_id), server_url or str(kept_url or SERVER_URL))


def check_id(request_id: object) -> str:
    """Return a request id without what surrounds it; raise AccessError if it cannot be one."""
    text = str(request_id).strip()
    if not re.fullmatch("[!-~]{4,200}", text):
        raise AccessError(
            "this cannot be a request id (it is not shown here): expected 4 to 200 letters, digits "
            "and signs without spaces, as the form gave it to you"
        )
    return text


def find_facts(facts: Facts) -> Facts:
    """Return what of `facts` is held out for this user: not what a request id opens."""
    with contextlib.suppress(ValueError, OSError):
        if find_service():
            left = [key for key in facts.restricted_keys if key not in PUBLISHED.restricted_keys]
            return replace(facts, restricted_keys=tuple(left))
    return facts


def explain_missing() -> str:
    """Say how to come by what needs an id, or why the one that is there is of no use."""
    try:
        find_service()
    except (ValueError, OSError) as error:
        return str(error)
    return ADVICE


def log_in(request_id: str) -> Path:
    """Ask the service for the id, and keep it; return the file that has it."""
    server_url = os.environ.get("LAION_FMRI_SERVER_URL") or SERVER_URL
    request_id = check_id(request_id)
    service = Service(request_id, server_url)
    service.refresh()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"request_id": request_id, "server_url": service.url, "email": "", "saved_at": now}
    file = find_file()
    try:
        make_own_folder(file.parent)
        with _enter(file) as folder:
            scratch = f"auth.{os.urandom(8).hex()}.tmp"
            try:
                with open(open_new(folder, scratch, os.O_WRONLY | os.O_CREAT, 0o600), "w") as new:
                    new.write(json.dumps(content, indent=2) + "\n")
                os.rename(scratch, file.name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(scratch, dir_fd=folder)
                raise
    except OSError as error:
        why = error.strerror or error
        raise AccessError(f"the id cannot be kept in {file}: {why}; or set {NAME}") from None
    return file


def log_out() -> bool:
    """Remove the file with the id; return whether there was one."""
    file = find_file()
    try:
        with _enter(file) as folder:
            os.unlink(file.name, dir_fd=folder)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise AccessError(f"{file} cannot be removed: {error.strerror}") from None
    return True


@contextlib.contextmanager
def _enter(file: Path) -> Iterator[int]:
    """Open the user's own folder that the id is kept in."""
    folder = os.open(file.parent, FOLDER)
    try:
        yield folder
    finally:
        os.close(folder)


def _read() -> dict[str, object] | None:
    """Return what the file with the id has; None if there is none."""
    file = find_file()
    try:
        with (
            _enter(file) as folder,
            open(open_file(folder, file.name), encoding="utf-8") as kept,
        ):
            _check(folder, kept.fileno(), file)
            content = json.loads(kept.read(2**16))
    except FileNotFoundError:
        return None
    except AccessError:
        raise
    except OSError as error:
        raise AccessError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        content = None
    return content if isinstance(content, dict) else {}


def _check(folder: int, kept: int, file: Path) -> None:
    """Refuse what others can write or read: it would name a server, or give the id away."""
    if not (is_own(folder, folder) and is_own(kept, folder)):
        raise AccessError(f"{file} belongs to another user; remove it, then run 'laion-fmri login'")
    if stat.S_IMODE(os.fstat(folder).st_mode) & 0o022:
        raise AccessError(f"others can write in {file.parent}; run 'chmod go-w {file.parent}'")
    if stat.S_IMODE(os.fstat(kept).st_mode) & 0o077:
        raise AccessError(f"others can read or write {file}; run 'chmod 600 {file}'")
