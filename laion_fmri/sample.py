"""The embedded sample bucket: its objects, and the S3 protocol server on loopback that serves them.

It stands for the world outside, so its names are its own and not read from
:mod:`laion_fmri.dataset`: a mistake there must show here, not be mirrored.
"""

import gzip
import importlib.util
import io
import json
import os
import socket
import threading
import zlib
from base64 import b85decode
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, NamedTuple
from unittest.mock import patch
from urllib.parse import parse_qsl

from laion_fmri.errors import MissingDependencyError

SUBJECTS = ("sub-01", "sub-03")
SESSIONS = ("ses-01", "ses-02", "ses-04", "ses-31")
#: Patterns of the keys that are listed but answer 403, as in the published bucket.
HELD_OUT = ("*/ses-3[1-4]/*", "stimuli/task-images_stimuli.h5")

_GRID, _TRIALS, _RUNS, _STIMULI = (12, 14, 10), 30, 3, 6
# The smallest grey images in base 85, so that no image library is needed.
_PNG = "iBL{Q4GJ0x0000DNk~Le00001000010RR9105@*=Bme*a3Q0skRCwBBXaE2Jf&hWqMF=|p0000<MNUMnLSTX"
_JPEG = "c-s4a<Ns|2X9f-m!T$pc+#C!*$jB(j@c#&d2m>PnDqshR3ZRQJ{J#a#!@ywAU{nA9CIC^E5M}"  # deflated


@lru_cache(maxsize=1)
def sample_objects() -> dict[str, bytes]:
    """Build the sample: key -> content, 1 MB of small synthetic files, all well formed.

    Always the same dictionary: copy it before you change it. Needs the ``demo`` extra.
    """
    _require("h5py", "nibabel", "numpy")
    images = [f"img_{index:05d}.jpg" for index in range(_STIMULI)]
    bids = {"Name": "LAION-fMRI sample", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    objects = {
        "README": b"A synthetic sample in the layout of LAION-fMRI. No value was measured.\n",
        "dataset_description.json": _json(**bids, GeneratedBy=[{"Name": "laion-fmri"}]),
        "participants.tsv": _tsv(("participant_id",), *((subject,) for subject in SUBJECTS)),
        "participants.json": _json(participant_id={"Description": "Identifier of the participant"}),
        "stimuli/stimuli.tsv": _tsv(("stimulus", "width"), *((image, 8) for image in images)),
        "stimuli/task-images_stimuli.h5": _hdf5(images=[[[188] * 8] * 8] * _STIMULI),
        # Two trees that no download walks.
        "derivatives/freesurfer/sub-01/stats/aseg.stats": b"# Measure BrainSeg, 1166000.0, mm^3\n",
        "sub-01/anat/sub-01_T1w.json": _json(MagneticFieldStrength=7, RepetitionTime=4.3),
    }
    jpeg = zlib.decompress(b85decode(_JPEG))
    for image in images:  # told apart by a comment segment: marker, length (2 + 13 bytes), text
        comment = b"\xff\xfe\x00\x0f" + image.encode()
        objects[f"stimuli/images/{image}"] = jpeg[:2] + comment + jpeg[2:]
    for subject in SUBJECTS:
        objects |= _build_subject(subject)
    return dict(sorted(objects.items()))


def _build_subject(subject: str) -> dict[str, bytes]:
    """All sessions, the summaries of those that are not held out, and the atlas."""
    import numpy as np

    rng = np.random.default_rng(int(subject[-2:]))
    brain = np.linalg.norm((np.indices(_GRID).T + 0.5) / _GRID - 0.5, axis=-1).T < 0.5
    root = f"derivatives/glmsingle-tedana/{subject}/"
    objects: dict[str, bytes] = {}
    r2 = []
    for number, session in enumerate(SESSIONS):
        session_r2, files = _build_session(f"{subject}_{session}_", number, brain, rng)
        objects |= {f"{root}{session}/func/{name}": content for name, content in files.items()}
        r2.append(session_r2)
    mean = sum(r2[:-1]) / len(r2[:-1])  # the last session is held out
    stem = f"{root}{subject}_task-images_space-T1w_"
    objects |= _map(stem + "stat-rsquare_desc-R2mean_statmap", mean)
    for n in ("4rep", "12rep", "Allrep"):
        objects |= _map(f"{stem}desc-Noiseceiling{n}_statmap", rng.uniform(0, 80, _GRID) * brain)
    if subject == "sub-03":  # not every subject of the published bucket has the mask
        objects[stem + "desc-meanR2gt15mask_mask.nii.gz"] = _nifti((mean > 15).astype("uint8"))
    for roi in ("V1", "V2", "FFA1", "PPA"):
        inside = (brain & (rng.random(_GRID) < 0.1)).astype("uint8")
        objects[f"derivatives/atlases/{subject}/rois/{roi}.nii.gz"] = _nifti(inside)
    return objects


def _build_session(stem: str, number: int, brain: Any, rng: Any) -> tuple[Any, dict[str, bytes]]:
    """The R2 map in percent, highest at the back, and the content of each file in ``func``."""
    import numpy as np

    r2 = rng.normal(20 - 15 * np.linspace(-1, 1, _GRID[1])[:, None], 3, _GRID).clip(0, 100) * brain
    hrf = (rng.integers(1, 21, _GRID) * brain).astype("int16")
    ridge = rng.uniform(0.05, 1, _GRID) * brain
    betas = rng.normal(0, 1.5, (*_GRID, _TRIALS)) * brain[..., None]
    shown = rng.permutation(np.arange(_TRIALS) % _STIMULI).tolist()
    trials: list[Any] = [("trial_index", "run", "onset", "duration", "stimulus", "repetition")]
    for trial, image in enumerate(shown):
        run, position = divmod(trial, _TRIALS // _RUNS)
        seen = number * _TRIALS // _STIMULI + shown[: trial + 1].count(image)
        trials.append((trial, run + 1, 8 + 4.0 * position, 2.5, f"img_{image:05d}.jpg", seen))
    files = {f"figures/{stem}{n}.png": b85decode(_PNG) for n in ("dnoise", "hrf", "r2", "ridge")}
    stem += "task-images_"
    t1w = stem + "space-T1w_"
    files |= {
        stem + "desc-GLMsingle_summary.json": _json(Trials=_TRIALS, Runs=_RUNS, MaxR2=r2.max()),
        stem + "desc-SingletrialBetas_trials.tsv": _tsv(*trials),
        stem + "desc-SingletrialBetas_trials.json": _json(onset={"Units": "s"}),
        t1w + "desc-GLMsingle_model.h5": _hdf5(R2=r2, HRFindex=hrf, FRACvalue=ridge),
        t1w + "desc-GLMsingle_model.json": _json(Description="GLMsingle's model of type D"),
    }
    files |= _map(t1w + "stat-effect_desc-SingletrialBetas_statmap", betas)
    files |= _map(t1w + "stat-rsquare_desc-R2_statmap", r2)
    files |= _map(t1w + "desc-Noiseceiling_statmap", rng.uniform(0, 80, _GRID) * brain)
    files |= _map(t1w + "desc-Fracridge_statmap", ridge, units="1")
    files |= _map(t1w + "desc-HRFindex_dseg", hrf, units="1")
    return r2, files


def _map(stem: str, data: Any, units: str = "percent") -> dict[str, bytes]:
    sidecar = _json(Description="Synthetic values", Units=units, SpatialReference="orig")
    return {f"{stem}.nii.gz": _nifti(data), f"{stem}.json": sidecar}


def _nifti(data: Any) -> bytes:
    import numpy as np

    nibabel: Any = importlib.import_module("nibabel")
    affine = np.diag([12.0, 12.0, 12.0, 1.0])  # mm: coarse, so that the small grid covers a head
    image = nibabel.Nifti1Image(data.astype("float32") if data.dtype.kind == "f" else data, affine)
    image.header.set_xyzt_units("mm", "sec")
    return gzip.compress(image.to_bytes(), mtime=0)


def _hdf5(**datasets: Any) -> bytes:
    import h5py

    with h5py.File(buffer := io.BytesIO(), "w") as file:
        for name, data in datasets.items():
            file.create_dataset(name, data=data, dtype="float32", compression="gzip")
    return buffer.getvalue()


def _json(**fields: object) -> bytes:
    return (json.dumps(fields, indent=2) + "\n").encode()


def _tsv(*rows: Iterable[object]) -> bytes:
    return "".join("\t".join(map(str, row)) + "\n" for row in rows).encode()


def _require(*modules: str) -> None:
    if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
        raise MissingDependencyError(
            f"The sample bucket needs {', '.join(missing)}: pip install 'laion-fmri[demo]'"
        )


class Request(NamedTuple):
    """One request that was answered; `key` is empty for the bucket, `query` is decoded."""

    method: str
    bucket: str
    key: str
    query: dict[str, str]
    status: int


class SampleServer:
    """A public bucket on 127.0.0.1: anyone may list and read, only signed requests may write.

    Made by :func:`serve_sample`. Where a method takes `bucket`, None means the attribute.

    Attributes
    ----------
    endpoint_url, bucket : str
        What clients take as their endpoint, and the bucket that the server was started with.
    requests : list of Request
        Every request answered so far, oldest first.
    """

    def __init__(self, bucket: str, port: int) -> None:
        _require("moto", "flask", "flask_cors")
        from moto.core import utils
        from moto.moto_server.werkzeug_app import create_backend_app
        from moto.s3 import models
        from werkzeug.serving import WSGIRequestHandler, make_server

        # moto's first error would read the user's AWS files for the name of a service it has.
        with patch.object(utils, "Session"):
            utils.service_name_from_moto_package_name("s3")
        # Without a log: nothing on stderr, and no logger of the host program is changed.
        mute = type("Handler", (WSGIRequestHandler,), {"log": lambda *args: None})
        # werkzeug prints and exits when a port is taken, so the socket is opened here.
        with socket.create_server(("127.0.0.1", port), backlog=128) as s:
            self._http = make_server("127.0.0.1", 0, self._answer, True, False, mute, fd=s.fileno())
        port = self._http.port
        self.endpoint_url, self.bucket = f"http://127.0.0.1:{port}", bucket
        self.requests: list[Request] = []
        self._denied: dict[str, tuple[str, ...]] = {}
        # moto's state belongs to the process; an account of its own keeps each server apart.
        self._account = os.environ.get("MOTO_ACCOUNT_ID", f"7{port:011d}")
        self._models, self._store = models, models.s3_backends[self._account]["aws"]
        self._moto = create_backend_app("s3")
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        self.requests.clear()

    def gets(self, key_prefix: str = "", bucket: str | None = None) -> Counter[str]:
        """Count, by key, the GET requests that carried object data (status 200 or 206)."""
        where = ("GET", bucket or self.bucket)
        full = [r for r in list(self.requests) if r[:2] == where and r.status in (200, 206)]
        return Counter(r.key for r in full if r.key and r.key.startswith(key_prefix))

    def listings(self) -> list[Request]:
        """Pick the list-objects requests, one for each page, of every bucket."""
        return [r for r in list(self.requests) if r.method == "GET" and r.bucket and not r.key]

    def add_bucket(self, name: str, objects: dict[str, bytes], denied: Iterable[str] = ()) -> None:
        """Serve one more bucket; `denied` as in `deny`."""
        self._store.create_bucket(name, "us-west-2")
        # moto registers a name for all accounts; this one stays the server's own.
        self._models.s3_backends.bucket_accounts.pop(name, None)
        for key, content in objects.items():
            self.put(key, content, name)
        self.deny(denied, name)

    def put(self, key: str, content: bytes, bucket: str | None = None) -> None:
        """Store an object, or replace it."""
        self._store.put_object(bucket or self.bucket, key, content, disable_notification=True)

    def delete(self, key: str, bucket: str | None = None) -> None:
        """Take an object away (KeyError if there is none)."""
        del self._store.get_bucket(bucket or self.bucket).keys[key]

    def deny(self, keys: Iterable[str], bucket: str | None = None) -> None:
        """Answer 403 to reads of `keys` (exact, or shell-style patterns) and of no others."""
        self._denied[bucket or self.bucket] = tuple(keys)

    def stop(self) -> None:
        """Stop answering; give back the port and the memory."""
        self._http.shutdown()
        self._thread.join()
        self._store.buckets.clear()
        # moto holds on to every object ever made, and warns of those that were not disposed of.
        tracked = vars(self._models.FakeKey)["instances_tracked"]
        for key in [key for key in tracked if key.account_id == self._account]:
            key.dispose()
            tracked.remove(key)

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        bucket, _, key = path.encode("latin-1").decode().removeprefix("/").partition("/")
        query = dict(parse_qsl(environ["QUERY_STRING"], keep_blank_values=True))

        def record(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            # Before the answer leaves, so that a client that has its answer finds it recorded.
            self.requests.append(Request(method, bucket, key, query, int(status[:3])))
            return start_response(status, headers, *rest)

        denied = self._denied.get(bucket, ()) if key else ()
        refused = any(key == name or fnmatchcase(key, name) for name in denied)
        if method not in ("GET", "HEAD"):
            refused = "HTTP_AUTHORIZATION" not in environ
        if refused:  # here, not by a policy: moto's answer would lack the error code that S3 sends
            record("403 Forbidden", [("Content-Type", "application/xml")])
            body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            return [] if method == "HEAD" else [body]
        # What is left is allowed, so moto gets each request as a signed one.
        environ["HTTP_AUTHORIZATION"] = "Credential=sample/20260101/us-west-2/s3/aws4_request"
        environ["HTTP_X_MOTO_ACCOUNT_ID"] = self._account
        return self._moto(environ, record)


@contextmanager
def serve_sample(
    objects: dict[str, bytes] | None = None, *, bucket: str = "laion-fmri", port: int = 0
) -> Iterator[SampleServer]:
    """Serve `objects` (key -> content, by default the sample) for as long as the context lasts.

    `port` is on 127.0.0.1; 0 takes a free one, and one that is taken raises OSError. The keys of
    `HELD_OUT` answer 403 until `SampleServer.deny` says otherwise.
    """
    server = SampleServer(bucket, port)
    try:
        server.add_bucket(bucket, sample_objects() if objects is None else objects, HELD_OUT)
        yield server
    finally:
        server.stop()
