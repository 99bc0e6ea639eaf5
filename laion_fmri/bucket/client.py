"""The client of the bucket: anonymous, without the user's AWS settings, and wary of answers."""

import gc
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from laion_fmri import __version__

#: Seconds to wait for a connection, and for the next bytes of an answer: S3 starts to answer within
#: one, so silence means that nothing will come.
CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 15.0
#: Requests for a page before it is given up, each after a longer pause: 3.5 s on average for all.
ATTEMPTS = 4
#: Listings at the same time: each scope of each subject is one.
AT_ONCE = 32
#: How a document of S3 begins: a listing or an error, after the XML declaration.
S3_DOCUMENT = re.compile(rb"\s*(?:<\?[^>]*>\s*)?<(?:\w+:)?(?:ListBucketResult|Error)\b")
#: A document that breaks off before it is clear what it is.
HALF_DOCUMENT = re.compile(rb"\s*(?:<\?[^>]*>\s*)?(?:<[^>]*)?\Z")

#: Seconds for an answer to begin where a kept listing can take its place.
HURRY = 3.5

_MAKING = threading.Lock()
_here = threading.local()  # whether this thread is in a hurry


def _forget() -> None:
    """Forget all clients in a process that was forked: their sockets belong to its parent."""
    global _MAKING
    _MAKING = threading.Lock()  # which a thread of the parent may have held
    _make_client.cache_clear()


os.register_at_fork(after_in_child=_forget)


#: Bytes of an answer, and seconds for it. A page has 1,000 keys of up to 1,024 bytes, each of them
#: up to six characters long in XML, and 500 bytes about each.
MOST_BYTES, MOST_SECONDS = 16 * 2**20, 120.0


class NoListingError(Exception):
    """The answer is not from S3."""


class TooLongError(Exception):
    """The answer does not end."""


class UnreachableError(Exception):
    """No answer has begun in time, of somebody who is in a hurry; not tried again by botocore."""


class _Body:
    """The content of an answer, in one piece."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self, *_args: object, **_more: object) -> Iterator[bytes]:
        yield self._content


class _BoundedSession:
    """Sends the requests of botocore, and reads no more of an answer than a listing can have."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def send(self, request: Any) -> Any:
        """Return the answer; in a thread, since a server can send a byte now and then for ever."""
        done: list[Any] = []
        has_begun = threading.Event()

        def work() -> None:
            try:
                done.append((self._send(request, has_begun), None))
            except BaseException as error:
                done.append((None, error))
            finally:
                has_begun.set()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        is_hurried = getattr(_here, "is_hurried", False)
        if is_hurried and not has_begun.wait(HURRY):
            raise UnreachableError("no answer")
        thread.join(MOST_SECONDS)
        if not done:
            raise TooLongError
        answer, error = done[0]
        if is_hurried and isinstance(error, _list_unreachable()):
            raise UnreachableError from error
        if error:
            raise error
        return answer

    def _send(self, request: Any, has_begun: threading.Event) -> Any:
        from botocore.awsrequest import AWSResponse
        from botocore.exceptions import ConnectionClosedError, ReadTimeoutError
        from urllib3 import exceptions

        # botocore would tell where it runs, and in what.
        request.headers["User-Agent"] = f"laion-fmri/{__version__}"
        request.headers.pop("X-Amzn-Trace-Id", None)
        request.stream_output = True
        answer = self._session.send(request)
        has_begun.set()
        pieces, size = [], 0
        try:
            for piece in answer.raw.stream(2**16):
                pieces.append(piece)
                size += len(piece)
                if size > MOST_BYTES:
                    raise TooLongError
        except exceptions.ReadTimeoutError as error:
            raise ReadTimeoutError(endpoint_url=request.url, error=error) from error
        except exceptions.HTTPError as error:
            broken = ConnectionClosedError(endpoint_url=request.url, error=error)
            broken.has_begun = True
            raise broken from error
        finally:
            answer.raw.close()  # the connection too, unless all of the answer was read
        body = _Body(b"".join(pieces))
        return AWSResponse(answer.url, answer.status_code, answer.headers, body)

    def close(self) -> None:
        self._session.close()


def _refuse_no_listing(response_dict: dict[str, Any], **_more: Any) -> None:
    """Refuse an answer that is not a document of S3, and empty for botocore.

    A captive portal answers any request with its login page, or redirects there (3xx), or has the
    status 511 of RFC 6585. An answer that breaks off at once is asked for again.
    """
    status, body = response_dict["status_code"], response_dict["body"]
    if status < 300 and HALF_DOCUMENT.match(body):
        response_dict["status_code"] = 500
        return
    is_of_portal = status < 400 or status == 511 or (status < 500 and body.strip())
    if is_of_portal and not S3_DOCUMENT.match(body):
        raise NoListingError


def get_client(region: str, endpoint_url: str | None) -> Any:
    """Return the client for a region and endpoint, made once however many threads ask for it."""
    names = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
    files = [value for value in map(os.environ.get, names) if value and value.strip()]
    with _MAKING:
        # Never an empty text, as from AWS_CA_BUNDLE=, for which older botocores check nothing.
        return _make_client(region, endpoint_url, files[0] if files else True)


@contextmanager
def hurry(*, is_hurried: bool) -> Iterator[None]:
    """Have requests of this thread end in UnreachableError, if no answer begins soon."""
    _here.is_hurried = is_hurried
    try:
        yield
    finally:
        _here.is_hurried = False


def is_out_of_reach(error: BaseException | None) -> bool:
    """Whether an error says that a server cannot be reached, and has said nothing itself."""
    from botocore.exceptions import ConnectionClosedError

    if isinstance(error, ConnectionClosedError):
        return not hasattr(error, "has_begun")  # in the middle of an answer
    return isinstance(error, (UnreachableError, *_list_unreachable()))


def _list_unreachable() -> tuple[type[Exception], ...]:
    """Return the errors of a connection that does not come about, or stays silent."""
    from botocore import exceptions

    return (
        exceptions.EndpointConnectionError,
        exceptions.ConnectTimeoutError,
        exceptions.ReadTimeoutError,
        exceptions.ProxyConnectionError,
    )


@contextmanager
def pause_collector() -> Iterator[None]:
    """Save a fifth of the time or more where many objects are made and no garbage."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@lru_cache(maxsize=8)  # making a client takes longer than listing a session
@pause_collector()
def _make_client(region: str, endpoint_url: str | None, certificates: str | bool) -> Any:
    import boto3
    import botocore.session
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES

    # A session that reads neither the user's AWS files nor their environment.
    nowhere = {
        name: (None, None, default, convert)
        for name, (_, _, default, convert) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items()
    }
    nowhere["config_file"] = nowhere["credentials_file"] = (None, None, os.devnull, None)
    core = botocore.session.Session(session_vars=nowhere)
    core.register_component("response_parser_factory", _make_parsers())
    client = boto3.Session(botocore_session=core).client(
        "s3",
        region_name=region,
        endpoint_url=endpoint_url,
        verify=certificates,
        config=Config(
            signature_version=UNSIGNED,
            ignore_configured_endpoint_urls=True,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            max_pool_connections=AT_ONCE,
            s3={"addressing_style": "path"} if endpoint_url else None,
        ),
    )
    # botocore calls the handlers of wildcards first; one of its own hides the status from others.
    client.meta.events.register_first("before-parse.*.ListObjectsV2", _refuse_no_listing)
    client._endpoint.http_session = _BoundedSession(client._endpoint.http_session)
    return client


def _make_parsers() -> Any:
    """Return botocore's parsers, but that of S3 reads the entry of an object without its schema.

    That is most of the work of a listing, and of several at once, since threads share the CPU.
    """
    from botocore.parsers import ResponseParserFactory, RestXMLParser

    class Parser(RestXMLParser):  # type: ignore[misc]
        def _handle_structure(self, shape: Any, node: Any) -> Any:
            if shape.name != "Object":
                return super()._handle_structure(shape, node)
            found = {part.tag.rpartition("}")[2]: part.text or "" for part in node}
            return {name: READERS[name](text) for name, text in found.items() if name in READERS}

    class Parsers(ResponseParserFactory):  # type: ignore[misc]
        def create_parser(self, protocol_name: str) -> Any:
            return Parser(timestamp_parser=_parse_time)

    return Parsers()


def _parse_time(value: Any) -> datetime:
    """Read the time of an object; botocore's own way, for any format, takes half of a listing."""
    try:
        parsed = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        from botocore.utils import parse_timestamp

        parsed = parse_timestamp(value)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


#: What is read of the entry of an object.
READERS: dict[str, Callable[[str], Any]] = {
    "Key": str,
    "Size": int,
    "ETag": str,
    "LastModified": _parse_time,
}
