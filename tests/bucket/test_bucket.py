"""Listings that lie, stall or are none; addresses that are none; unknown certificates."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from faults import serve_faults
from helpers import run_command

from laion_fmri.bucket import client as client_module
from laion_fmri.bucket import listing
from laion_fmri.bucket.listing import Bucket
from laion_fmri.discovery import get_subjects
from laion_fmri.errors import BucketError, ConfigError, LaionFmriError, SelectionWarning
from laion_fmri.keys import key_table
from laion_fmri.settings import read_config, read_settings

GLM = "derivatives/glmsingle-tedana/"
PAGED = [f"{GLM}sub-{n:02d}/sub-{n:02d}_x{i}.tsv" for n in range(1, 16) for i in range(4)]


@pytest.fixture
def faults(server, monkeypatch):
    """A fault bench before the bucket ``paged`` of 12 pages; nobody waits long."""
    if "paged" not in server._store.buckets:
        server.add_bucket("paged", {key: key.encode() for key in PAGED})
    pause = threading.Event().wait
    monkeypatch.setattr("time.sleep", lambda seconds: pause(min(seconds, 0.01)))
    with serve_faults(server) as bench:
        bench.page_size = 5
        yield bench


def list_keys(bench) -> list[str]:
    """Return the keys that a listing of all subjects brings."""
    found = Bucket("paged", "us-west-2", bench.endpoint_url).list_objects(GLM)
    return [item.key for item in found]


def list_folders(bench) -> list[str]:
    """Return the subjects that a listing of the folders brings."""
    return Bucket("paged", "us-west-2", bench.endpoint_url).list_folders(GLM)


def complain(call: Callable[[], object]) -> str:
    """Return the one line of the BucketError that `call` ends with."""
    with pytest.raises(BucketError) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_listing_of_many_pages(faults):
    """Without a fault: each key once, in 12 pages."""
    assert list_keys(faults) == PAGED
    assert len(faults.exchanges) == 12


@pytest.mark.parametrize("pages", [{"times": 1}, {"share": 0.5}, {}], ids=str)
def test_a_page_that_comes_twice(faults, pages):
    """No row is doubled, and none is lost; the same goes for folders."""
    faults.break_("repeat-page", **pages)
    assert (list_keys(faults), list_folders(faults)) == (
        PAGED,
        [f"sub-{n:02d}" for n in range(1, 16)],
    )


@pytest.mark.parametrize("listing", [list_keys, list_folders])
def test_a_listing_that_goes_in_circles(faults, listing):
    """A page that leads to itself ends with one line, after a few requests."""
    faults.break_("loop-page", skip=1)
    assert "paged at" in (said := complain(lambda: listing(faults)))
    assert "in circles" in said
    assert len(faults.exchanges) <= 5


@pytest.mark.parametrize("fault", ["html", "redirect"])
@pytest.mark.parametrize("skip", [0, 2], ids=["at once", "later"])
def test_a_captive_portal(faults, fault, skip):
    """A login page is no empty bucket, whether it comes with 200 or the way to it with 302."""
    faults.break_(fault, listing=True, skip=skip)
    expected = "answered with something that is not an S3 listing; is there a login page"
    assert expected in complain(lambda: list_keys(faults))
    faults.mend()
    faults.break_(fault, listing=True)
    assert expected in complain(lambda: list_folders(faults))


@pytest.mark.parametrize("fault", ["html", "redirect"])
def test_a_captive_portal_is_no_unknown_subject(faults, fault, monkeypatch, tmp_path):
    """Neither a subject nor the list of them is said to be missing; the command says it as well."""
    faults.break_(fault, listing=True)
    monkeypatch.setenv("LAION_FMRI_ENDPOINT_URL", faults.endpoint_url)
    for call in (lambda: key_table("sub-03", data_dir=tmp_path), get_subjects):
        assert "captive portal" in complain(call)
    done = run_command("download", "--subject", "03", "--data-dir", tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "captive portal" in done.stderr


def test_a_captive_portal_that_one_gets_past(faults):
    """A single page that is none is asked for again."""
    faults.break_("html", listing=True, times=2)
    assert list_keys(faults) == PAGED


@pytest.mark.parametrize("fault", ["500", "503", "reset-at-once"])
def test_a_third_of_the_requests_fails(faults, fault):
    """Asked for again, every page comes in the end, also after six failures in a row."""
    faults.break_(fault, listing=True, skip=5, times=6)
    assert list_keys(faults) == PAGED
    faults.mend()
    faults.break_(fault, listing=True, share=0.3)
    for _ in range(4):
        assert list_keys(faults) == PAGED


@pytest.mark.parametrize("fault", ["500", "503"])
def test_a_server_in_trouble(faults, fault):
    """It is asked a bounded number of times, and then named with what it says."""
    rule = faults.break_(fault, listing=True)
    assert "the server is in trouble" in complain(lambda: list_keys(faults))
    assert 4 <= rule.hits <= 20


@pytest.mark.parametrize("after", [0, 10, 100, 500])
@pytest.mark.parametrize("fault", ["short", "reset"])
def test_half_a_page(faults, fault, after):
    """What breaks off is asked for again; a listing that never ends well is no listing."""
    faults.break_(fault, listing=True, after=after, times=3)
    assert list_keys(faults) == PAGED
    faults.mend()
    faults.break_(fault, listing=True, after=after)
    assert "cannot be listed" in complain(lambda: list_keys(faults))


@pytest.mark.parametrize(("fault", "after"), [("stall-at-once", 0), ("stall", 0), ("stall", 300)])
def test_a_listing_that_stalls(faults, fault, after, monkeypatch):
    """After a few seconds of silence it is asked for again, and after a few times given up."""
    assert client_module.ATTEMPTS * client_module.READ_TIMEOUT <= 60
    monkeypatch.setattr(client_module, "READ_TIMEOUT", 0.3)
    rule = faults.break_(fault, listing=True, after=after)
    assert "timeout" in complain(lambda: list_keys(faults)).lower()
    assert rule.hits == client_module.ATTEMPTS
    faults.mend()
    faults.break_(fault, listing=True, after=after, times=2)
    assert list_keys(faults) == PAGED


# Answers that the sample server cannot be brought to.

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult>'
OBJECT = (
    "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    "<ETag>&quot;1&quot;</ETag><Size>{size}</Size></Contents>"
)


@contextmanager
def answering(
    answer: Callable[[dict[str, str]], str],
    context: ssl.SSLContext | None = None,
    *,
    status: int = 200,
    headers: list[str] | None = None,
):
    """Serve on loopback what `answer` makes of the query of each request; yield the endpoint.

    The headers of the requests go to the list `headers`.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            query = {name: value[0] for name, value in parse_qs(urlsplit(self.path).query).items()}
            body = answer(query).encode()
            if headers is not None:
                headers.append(str(self.headers))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda *args: None  # of clients that do not like the certificate
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http{'s' if context else ''}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def listed(answer: str, status: int = 200) -> list[tuple[str, int]]:
    """Return key and size of what a listing with this content, or an error, brings."""
    page = answer if answer.startswith("<Error>") else f"{HEAD}{answer}</ListBucketResult>"
    with answering(lambda query: page, status=status) as endpoint:
        found = Bucket("laion-fmri", "us-west-2", endpoint).list_objects("x/")
        return [(item.key, item.size) for item in found]


def test_a_listing_with_ever_new_pages_of_the_same():
    """New tokens do not make a circle endless."""
    pages = []

    def answer(query: dict[str, str]) -> str:
        pages.append(query)
        token = f"<NextContinuationToken>{len(pages)}</NextContinuationToken>"
        more = f"<IsTruncated>true</IsTruncated>{token}"
        return f"{HEAD}{OBJECT.format(key='x/a', size=1)}{more}</ListBucketResult>"

    with answering(answer) as endpoint:
        bucket = Bucket("laion-fmri", "us-west-2", endpoint)
        assert "in circles" in complain(lambda: list(bucket.list_objects("x/")))
    assert 2 <= len(pages) <= 20


def test_a_listing_that_goes_on_nowhere():
    """A page that is not the last, and does not say which is next, is half a listing."""
    cut_off = OBJECT.format(key="x/a", size=1) + "<IsTruncated>true</IsTruncated>"
    assert "break off" in complain(lambda: listed(cut_off))


def test_an_answer_without_an_end(monkeypatch):
    """Neither a page nor an error text may be of any length."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    filler = f"<Comment>{'x' * 2**20}</Comment>" * 20
    said = complain(lambda: listed(filler))
    assert "a page of its listing does not end" in said
    assert len(said) < 500


def test_a_listing_without_an_end(monkeypatch):
    """New keys on each page, for ever: it is given up at a number that no bucket needs."""
    monkeypatch.setattr(listing, "MOST_PAGES", 30)

    def answer(query: dict[str, str]) -> str:
        page = int(query.get("continuation-token", 0))
        more = f"<NextContinuationToken>{page + 1}</NextContinuationToken>"
        some = OBJECT.format(key=f"x/{page}", size=page)
        return f"{HEAD}{some}<IsTruncated>true</IsTruncated>{more}</ListBucketResult>"

    with answering(answer) as endpoint:
        bucket = Bucket("laion-fmri", "us-west-2", endpoint)
        assert "lists more than 30 keys below 'x/', and does not end" in complain(
            lambda: list(bucket.list_objects("x/"))
        )


def test_odd_answers_are_errors_in_a_line(monkeypatch):
    """Whatever botocore's parser makes of them."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    deep = "<Error>" + "<a>" * 3000
    for answer, status in (
        ("<Error><Code><a>1</a></Code></Error>", 400),
        (deep, 400),
        (OBJECT.format(key="x/a", size="9" * 400), 200),
        (OBJECT.format(key="x/a", size=-1), 200),
    ):
        said = complain(lambda answer=answer, status=status: listed(answer, status=status))
        assert len(said) < 900
    year_1 = OBJECT.format(key="x/a", size=1).replace(
        "2026-01-01T00:00:00.000Z", "0001-01-01T00:00:00"
    )
    assert listed(year_1) == [("x/a", 1)]


def test_a_server_that_answers_for_ever(monkeypatch):
    """A byte now and then is no answer: the time of one is limited."""
    monkeypatch.setattr(client_module, "MOST_SECONDS", 1.0)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            while not stop.wait(0.1):
                self.wfile.write(b" ")

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.handle_error = lambda *args: None
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        bucket = Bucket("laion-fmri", "us-west-2", f"http://127.0.0.1:{server.server_port}")
        said = complain(lambda: list(bucket.list_objects("x/")))
        stop.set()
        server.shutdown()
        thread.join()
    assert "a page of its listing does not end" in said


@pytest.mark.parametrize("deep", [True, False])
def test_what_was_not_asked_for_is_left_out(deep):
    """Stimuli, or a file of the root, do not come with a listing of something else; it is said."""
    keys = ["x/a", "stimuli/images/1.png", ".bash_profile", "xa", "x/b/c"]
    page = "".join(OBJECT.format(key=key, size=1) for key in keys)
    page += "<CommonPrefixes><Prefix>y/</Prefix></CommonPrefixes>"
    with answering(lambda query: f"{HEAD}{page}</ListBucketResult>") as endpoint:
        bucket = Bucket("laion-fmri", "us-west-2", endpoint)
        number = 4 if deep else 5
        with pytest.warns(SelectionWarning, match=f"lists {number} keys that are not below 'x/'"):
            found = [item.key for item in bucket.list_objects("x/", deep=deep)]
    assert found == (["x/a", "x/b/c"] if deep else ["x/a"])


def test_what_a_server_says_is_spelled():
    """No escape, no sign of direction and no C1 control reaches a terminal; and it is cut."""
    code = "Bad\u202eCode\u009b31m" + "y" * 5000
    error = f"<Error><Code>{code}</Code><Message>x</Message></Error>"
    said = complain(lambda: listed(error, status=400))
    assert said.isprintable()
    assert r"Bad\u202eCode\x9b31m" in said
    assert len(said) < 800


def test_nothing_of_the_environment_is_told(monkeypatch):
    """Where it runs is nobody's business."""
    monkeypatch.setenv("AWS_EXECUTION_ENV", "secret-place")
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "secret-function")
    monkeypatch.setenv("_X_AMZN_TRACE_ID", "Root=1-secret-trace")
    seen: list[str] = []
    with answering(lambda query: f"{HEAD}</ListBucketResult>", headers=seen) as endpoint:
        list(Bucket("laion-fmri", "us-west-2", endpoint).list_objects("x/"))
    assert "laion-fmri/" in seen[0]
    assert "secret" not in seen[0]


def test_an_empty_page_is_not_the_end():
    """S3 may send one in the middle, such as where much has been deleted."""

    def answer(query: dict[str, str]) -> str:
        page = int(query.get("continuation-token", 0))
        some = OBJECT.format(key=f"x/{page}", size=page) if page in (0, 3) else ""
        more = f"<NextContinuationToken>{page + 1}</NextContinuationToken>"
        truncated = str(page < 3).lower()
        return f"{HEAD}{some}<IsTruncated>{truncated}</IsTruncated>{more}</ListBucketResult>"

    with answering(answer) as endpoint:
        found = list(Bucket("laion-fmri", "us-west-2", endpoint).list_objects("x/"))
    assert [item.key for item in found] == ["x/0", "x/3"]


@pytest.mark.parametrize(
    "odd",
    [
        OBJECT.format(key="x/a", size="many"),
        OBJECT.format(key="x/a", size=1).replace("2026-01-01T00:00:00.000Z", "today"),
        OBJECT.format(key="x/a", size=1).replace("Size", "Weight"),
        OBJECT.format(key="x/a", size=1).replace("ETag", "Tag"),
        "<EncodingType>url</EncodingType><Contents></Contents>",
        "<Contents><Key>x/a</Key>",
    ],
)
def test_a_listing_that_cannot_be_read(odd, monkeypatch):
    """What is no number, no time or not there is one line, and no traceback."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert "cannot be listed" in complain(lambda: listed(odd))


def test_keys_of_any_kind_are_read_as_they_are():
    """Listed in percent code, a key comes back as it is, and what is no UTF-8 cannot hide."""
    odd = "<EncodingType>url</EncodingType>" + "".join(
        OBJECT.format(key=key, size=7)
        for key in (
            "x/a+b%2B%25",
            "x/%0A%F0%9F%98%80",
            "x/%ED%A0%80",
            "x/%252e",
            "x/folder/",
            "%2F",
        )
    )
    keys = ["x/a b+%", "x/\n😀", "x/\ufffd\ufffd\ufffd", "x/%2e"]
    with pytest.warns(SelectionWarning, match="lists 1 keys that are not below 'x/'"):
        assert listed(odd) == [(key, 7) for key in keys]


@pytest.mark.parametrize(
    "body",
    [
        "OK",
        "<html><p>Please log in<br></html>",
        "{}",
        "<html/>",
        "<html><body>x</body></html>",
        "<?xml version='1.0'?><!DOCTYPE html><html></html>",
        "<ListAllMyBucketsResult></ListAllMyBucketsResult>",
        "<ListBucketResults></ListBucketResults>",
    ],
)
def test_what_is_no_listing_is_no_empty_one(body):
    """Whatever answers with 200 and is not S3, well formed or not, is not taken for a bucket."""
    with answering(lambda query: body) as endpoint:
        bucket = Bucket("laion-fmri", "us-west-2", endpoint)
        assert "not an S3 listing" in complain(lambda: list(bucket.list_objects("x/")))


@pytest.mark.parametrize("body", ["", " \n", "<", "<?xml", "<?xml?>", HEAD[:-1]], ids=repr)
def test_an_answer_that_breaks_off_is_no_empty_listing(body, monkeypatch):
    """It is asked for again, and is an error in the end."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    asked = []
    with answering(lambda query: asked.append(query) or body) as endpoint:
        bucket = Bucket("laion-fmri", "us-west-2", endpoint)
        assert "the server is in trouble" in complain(lambda: list(bucket.list_objects("x/")))
    assert 4 <= len(asked) <= 20


# What says where the bucket is.


@pytest.mark.parametrize(
    ("setting", "good"),
    [
        *[("bucket", name) for name in ("laion-fmri", "abc", "a.b-c.d", "x" * 63, "1a2", "1.2.3")],
        *[("region", name) for name in ("us-west-2", "eu", "us-gov-east-1", "local")],
        *[
            ("endpoint_url", url)
            for url in (
                "http://127.0.0.1:9000",
                "https://s3.example.org",
                "HTTPS://S3.Example.org:443/",
                "http://[::1]:9000/base/path",
                "http://mini_o:80",
                "http://localhost.",
            )
        ],
    ],
)
def test_settings_that_can_be_meant(setting, good):
    """They are taken as they are."""
    assert good in vars(Bucket.from_settings(read_settings({setting: good}))).values()


BAD_BUCKETS = """ab NOT Bucket a_b -ab ab- .ab ab. a..b 192.168.5.4 a/b a:b a$b a;b é
    arn:aws:s3:::abc --recursive s3://abc"""
BAD_REGIONS = """us_west_2 US us.west.2 -us us- us/west us@west @evil.org us-west-2#"""
BAD_ENDPOINTS = """127.0.0.1:9 s3.example.org ftp://s3.example.org file:///etc/passwd http://
    https://:80 http:///path http://a:99999 http://a:b http://a..b:x http://[::1
    http://[evil] http://a?b=c http://a#b http://a/?b http://a/# http://a? http://-a http://a$(b)
    javascript:alert(1)
    http://a:-1 http://a,b http://a\\b http://é.org http://a%20b //a http:a http://a|b"""


@pytest.mark.parametrize(
    ("setting", "bad"),
    [
        *[("bucket", name) for name in (*BAD_BUCKETS.split(), " abc", "abc\n", "a b", "x" * 64, 7)],
        *[("region", name) for name in (*BAD_REGIONS.split(), "us west", "us\n", "x" * 64, 7)],
        *[("endpoint_url", url) for url in BAD_ENDPOINTS.split()],
        *[
            ("endpoint_url", url)
            for url in (" http://a", "http://a b", "http://a\n", "http://a\0", 7)
        ],
        *[("endpoint_url", url) for url in ("http://a\tb", "http://a\u202e", "http://a/\x1b[2J")],
    ],
    ids=ascii,
)
def test_settings_that_cannot_be_meant(setting, bad):
    """One line, which names the setting, its value and what to do, and hides nothing of it."""
    with pytest.raises(ConfigError) as caught:
        Bucket.from_settings(read_settings({setting: bad}))
    said = str(caught.value)
    assert (said.isprintable(), repr(bad) in said, f"'{setting}' in the configuration" in said) == (
        True,
        True,
        True,
    )


@pytest.mark.parametrize("variable", ["LAION_FMRI_BUCKET", "LAION_FMRI_ENDPOINT_URL"])
def test_variables_that_cannot_be_meant(variable, monkeypatch, tmp_path):
    """The environment is held to the same, and named; the command ends with 2 and one line."""
    monkeypatch.setenv(variable, "s3://x y")
    with pytest.raises(LaionFmriError, match=f"'s3://x y'.*{variable}"):
        get_subjects()
    done = run_command("download", "--subject", "03", "--data-dir", tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert variable in done.stderr


@pytest.mark.parametrize("url", ["http://me:secret@a", "http://secret@a", "http://me:secret@a@b/"])
def test_a_password_is_not_shown(url):
    """An endpoint with a user is refused, and the message does not repeat it."""
    with pytest.raises(ConfigError, match="user or password") as caught:
        Bucket.from_settings(read_settings({"endpoint_url": url}))
    assert "secret" not in str(caught.value)


# Certificates.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, ssl.SSLContext]:
    """Make a certificate of 127.0.0.1 that nobody vouches for; return its file and its server."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sample")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("certificate")
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return folder / "cert.pem", context


@pytest.fixture
def secured(certificate, monkeypatch) -> Iterator[Bucket]:
    """A bucket with one object behind that certificate."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    content = f"{HEAD}{OBJECT.format(key='x/a', size=1)}</ListBucketResult>"
    with answering(lambda query: content, certificate[1]) as endpoint:
        yield Bucket("laion-fmri", "us-west-2", endpoint)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_CA_BUNDLE", None),
        ("AWS_CA_BUNDLE", ""),
        ("AWS_CA_BUNDLE", " "),
        ("REQUESTS_CA_BUNDLE", ""),
        ("AWS_CA_BUNDLE", "/nonexistent"),
        ("AWS_CA_BUNDLE", "false"),
        ("AWS_CA_BUNDLE", "0"),
        ("PYTHONHTTPSVERIFY", "0"),
        ("AWS_NO_VERIFY_SSL", "true"),
        ("AWS_VERIFY_SSL", "false"),
        ("CURL_CA_BUNDLE", ""),
    ],
)
def test_an_unknown_certificate_is_never_let_pass(secured, monkeypatch, name, value):
    """Whatever the environment says, one line tells what to set, and nothing is listed."""
    if value is not None:
        monkeypatch.setenv(name, value)
    said = complain(lambda: list(secured.list_objects("x/")))
    assert (secured.endpoint_url in said, "set AWS_CA_BUNDLE" in said) == (True, True)


@pytest.mark.parametrize("name", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_a_certificate_that_the_user_vouches_for(secured, certificate, monkeypatch, name):
    """With the file of it, the listing works; without it, in the same process, no longer."""
    monkeypatch.setenv(name, str(certificate[0]))
    assert [item.key for item in secured.list_objects("x/")] == ["x/a"]
    monkeypatch.delenv(name)
    assert "set AWS_CA_BUNDLE" in complain(lambda: list(secured.list_objects("x/")))


def test_a_proper_certificate_of_another_host(secured, certificate, monkeypatch):
    """A name that the certificate is not for is refused."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate[0]))
    other = Bucket(
        "laion-fmri", "us-west-2", secured.endpoint_url.replace("127.0.0.1", "localhost")
    )
    assert "set AWS_CA_BUNDLE" in complain(lambda: list(other.list_objects("x/")))


def test_the_command_says_that_a_certificate_is_not_known(certificate, tmp_path):
    """One line, and the exit status of a bucket that cannot be listed."""
    with answering(lambda query: HEAD, certificate[1]) as endpoint:
        words = ["download", "--subject", "03", "--data-dir", tmp_path]
        done = run_command(*words, LAION_FMRI_ENDPOINT_URL=endpoint, AWS_CA_BUNDLE="")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "set AWS_CA_BUNDLE" in done.stderr


def test_no_setting_turns_the_checks_off(monkeypatch):
    """The client checks, and the configuration has no key for it."""
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for endpoint in (None, "https://s3.example.org"):
        client = client_module.get_client("us-west-2", endpoint)
        assert client._endpoint.http_session._session._verify is True
    for name in ("verify", "verify_ssl", "no_verify_ssl", "insecure", "ca_bundle"):
        with pytest.raises(ConfigError, match=name):
            read_config({"subject": "03", name: False})
