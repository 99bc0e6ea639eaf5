"""The client of the service that gives out the images, to those who have a request id.

The id is a secret, and so is the address that the service answers with. Neither is in any text or
error made here, and no redirect is followed with them. Only the standard library.
"""

import json
import os
import re
import threading
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus, urlsplit

from laion_fmri import __version__
from laion_fmri.errors import AccessError, ConfigError, ServiceError

#: Where the service is, unless somebody says otherwise.
SERVER_URL = "https://laion-fmri.hebartlab.com"
DATASET_VERSION = "v1"
#: Seconds for an answer, and its most bytes.
MOST_SECONDS, MOST_BYTES = 60.0, 2**20
LOOPBACK = ("127.0.0.1", "::1", "localhost")
_LONGEST_URL = 8192


class Offer(NamedTuple):
    """A file that the service gives out, for an hour or so."""

    url: str
    size: int  # in bytes
    sha256: str

    def __repr__(self) -> str:
        return f"Offer({self.size:,} bytes)"


def is_address(url: object, *, http_too: bool = True) -> bool:
    """Whether a secret may be sent to `url`: by https, or by plain http to this machine."""
    if not isinstance(url, str) or not re.fullmatch("[!-~]+", url) or len(url) > _LONGEST_URL:
        return False
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.port != 0 else None
    except ValueError:
        return False
    if not host or "@" in parts.netloc:
        return False
    return parts.scheme == "https" or (http_too and parts.scheme == "http" and host in LOOPBACK)


class Service:
    """The service at the address `url`, for the holder of a request id."""

    def __init__(self, request_id: str, url: str = SERVER_URL) -> None:
        if not is_address(url):
            raise ConfigError(
                "the address of the service for the images is not valid: expected https://, or "
                "http:// on this machine; fix LAION_FMRI_SERVER_URL, or 'server_url' in auth.json"
            )
        self.url = url.rstrip("/")
        self._request_id = request_id

    def __repr__(self) -> str:
        return f"Service({self.url!r})"

    def find_offer(self, key: str) -> Offer:
        """Return what the service offers of the object `key`.

        Raises AccessError if it refuses the request id, or else ServiceError.
        """
        files = self.refresh().get("files")
        names = (key, key.rpartition("/")[2])
        for file in files if isinstance(files, list) else ():
            if isinstance(file, dict) and file.get("name") in names:
                return self._read_offer(file)
        raise ServiceError(f"{self.url} does not offer {key}; try again later")

    def refresh(self) -> dict[str, Any]:
        """Return what the service answers to the request id; raise as :meth:`find_offer` does."""
        asked = {"request_id": self._request_id, "dataset_version": DATASET_VERSION}
        status, content = self._ask(json.dumps(asked).encode())
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        if status == 429:
            raise ServiceError(f"{self.url} has had too many requests; try again in a few minutes")
        if status >= 500:
            raise ServiceError(f"{self.url} reports an internal error ({status}); try again later")
        is_refusal = status >= 400
        if (
            not isinstance(answer, dict)
            or 300 <= status < 400
            or (is_refusal and "detail" not in answer)
        ):
            raise ServiceError(
                f"{self.url} gave an unexpected answer ({status}); is there a login page (captive "
                "portal) in between? Try from another network"
            )
        if is_refusal:
            is_revoked = status == 403 and b"revoked" in content.lower()
            raise self._explain_refusal(status, answer["detail"], is_revoked=is_revoked)
        return answer

    def _read_offer(self, file: dict[str, Any]) -> Offer:
        url, size, digest = file.get("url"), file.get("size"), str(file.get("sha256")).lower()
        # A service on the internet has no reason to name a server of this machine.
        is_near = urlsplit(self.url).scheme == "http"
        is_plain = isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**63
        if not (
            is_address(url, http_too=is_near) and is_plain and re.fullmatch("[0-9a-f]{64}", digest)
        ):
            raise ServiceError(f"{self.url} answers without a usable address, size or SHA-256")
        return Offer(str(url), int(str(size)), digest)

    def _explain_refusal(self, status: int, detail: Any, *, is_revoked: bool) -> AccessError:
        if isinstance(detail, dict) and detail.get("error") == "terms_outdated":
            page = detail.get("accept_url")
            where = self._hide(page) if is_address(page) else self.url
            return AccessError(
                f"the terms have changed; accept the new ones at {where}, then run the same again"
            )
        if is_revoked:
            return AccessError(f"the request id has been revoked; ask at {self.url}/request")
        if status == 404:
            return AccessError(
                f"{self.url} does not know the request id; check it, or get one at "
                f"{self.url}/request"
            )
        return AccessError(f"{self.url} refuses the request id ({status}); check it")

    def _hide(self, text: object) -> str:
        """Return `text` of the service without the request id, in any spelling."""
        said = str(text)
        own = self._request_id
        for spelled in {own, quote(own, safe=""), quote_plus(own)}:
            said = re.sub(re.escape(spelled), "YOUR-REQUEST-ID", said, flags=re.IGNORECASE)
        return said

    def _ask(self, content: bytes) -> tuple[int, bytes]:
        """Return status and body; in a thread, since a server can send a byte now and then."""
        headers = {"Content-Type": "application/json"}
        done: list[tuple[int, bytes] | str] = []

        def work() -> None:
            try:
                with send(f"{self.url}/api/v1/refresh", headers, content) as answer:
                    done.append((answer.status, answer.read(MOST_BYTES + 1)))
            except Exception as error:
                done.append(explain(error))

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(MOST_SECONDS)
        said = done[0] if done else "no answer"
        if isinstance(said, str):
            raise ServiceError(f"{self.url} cannot be reached: {said}; try again later")
        if len(said[1]) > MOST_BYTES:
            raise ServiceError(f"{self.url} answers with too many bytes; try again later")
        return said


def _make_opener(bundle: str | None, *, is_direct: bool) -> Any:
    """Return what sends requests; it takes a redirect for an answer like any other."""
    from ssl import create_default_context
    from urllib.request import (
        HTTPRedirectHandler,
        HTTPSHandler,
        ProxyHandler,
        build_opener,
    )

    class NoRedirects(HTTPRedirectHandler):
        def http_error_302(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any) -> None:
            return None

        http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    try:
        context = create_default_context(cafile=bundle)
    except (OSError, ValueError):
        raise ServiceError(f"{bundle} (AWS_CA_BUNDLE) cannot be read as certificates") from None
    proxies = ProxyHandler({} if is_direct else None)
    opener = build_opener(proxies, HTTPSHandler(context=context), NoRedirects())
    opener.addheaders = [("User-Agent", f"laion-fmri/{__version__}")]
    return opener


def send(
    url: str, headers: dict[str, str], content: bytes | None = None, timeout: float = 15.0
) -> Any:
    """Send one request, and return the answer, open, whatever its status.

    What it raises may hold `url`: show no more of it than :func:`explain` does.
    """
    from urllib.error import HTTPError
    from urllib.request import Request

    files = [os.environ.get(name) for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")]
    bundle = next((file for file in files if file and file.strip()), None)
    # By plain http a secret may go to this machine, but not to a proxy.
    opener = _make_opener(bundle, is_direct=urlsplit(url).scheme == "http")
    # Only what is_address() lets through gets here.
    request = Request(url, content, {"Accept-Encoding": "identity", **headers})  # noqa: S310
    try:
        return opener.open(request, timeout=timeout)
    except HTTPError as error:
        return error


def explain(error: Exception) -> str:
    """Return why a request has failed, in words that cannot hold a secret."""
    cause = getattr(error, "reason", error)
    if isinstance(error, ServiceError):
        return str(error)
    if words := getattr(cause, "verify_message", None):
        return f"its certificate is not trusted ({words}); see AWS_CA_BUNDLE"
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    if isinstance(cause, OSError) and cause.errno is not None and cause.strerror:
        return cause.strerror
    return f"the connection failed ({type(cause).__name__})"
