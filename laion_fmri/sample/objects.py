"""The objects of the sample bucket: every scope of the published one, in small.

It stands for the world outside, so its names are its own and not read from
:mod:`laion_fmri.dataset`: a mistake there must show here, not be mirrored.
"""

import gzip
import importlib.util
import io
import json
import tempfile
from base64 import b85decode
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from laion_fmri.errors import MissingDependencyError

SUBJECTS = ("sub-01", "sub-03")
#: It has raw data and nothing else.
RAW_SUBJECT = "sub-05"
SESSIONS = ("ses-01", "ses-02", "ses-04", "ses-31")

_GRID, _TRIALS, _RUNS, _STIMULI = (12, 14, 10), 30, 3, 6
# As in the published tables: images that every subject sees, and others.
_IMAGES = [f"{'shared' if n < 4 else 'unique'}_{n:05d}.jpg" for n in range(_STIMULI)]
_MODELS = ("CLIP", "DINOv2", "PEcore", "SigLIP2")
# Categories are folders, and labels have a hyphen.
_ROIS = {"face": ("FFA-1", "pSTS-faces"), "retinotopy": ("V1",)}
# The smallest grey image in base 85, so that no image library is needed.
_PNG = "iBL{Q4GJ0x0000DNk~Le00001000010RR9105@*=Bme*a3Q0skRCwBBXaE2Jf&hWqMF=|p0000<MNUMnLSTX"


@lru_cache(maxsize=1)
def sample_objects() -> dict[str, bytes]:
    """Build the sample: key -> content, 1 MB of small synthetic files, all well formed.

    Always the same dictionary: copy it before you change it. Needs the ``demo`` extra.
    """
    require("h5py", "nibabel", "numpy")
    bids = {"Name": "LAION-fMRI sample", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    everybody = (*SUBJECTS, RAW_SUBJECT)
    objects = {
        "README": b"A synthetic sample in the layout of LAION-fMRI. No value was measured.\n",
        "dataset_description.json": _json(**bids, GeneratedBy=[{"Name": "laion-fmri"}]),
        "participants.tsv": _tsv(("participant_id",), *((subject,) for subject in everybody)),
        "participants.json": _json(participant_id={"Description": "Identifier of the participant"}),
        **_build_stimuli(),
        **_build_raw(RAW_SUBJECT, "ses-01"),
    }
    for subject in SUBJECTS:
        objects |= _build_subject(subject)
        for name, files in _build_scopes(subject).items():
            root = f"derivatives/{name}/{subject}/"
            objects |= {f"{root}{path}": content for path, content in files.items()}
        for session in ("ses-01", "ses-31"):
            objects |= _build_raw(subject, session)
    return dict(sorted(objects.items()))


def _build_stimuli() -> dict[str, bytes]:
    """The images in one file, what was derived from them, and what newer versions replaced."""
    import numpy as np

    rng = np.random.default_rng(0)
    objects = {
        "images_stimuli.h5": _hdf5(images=[[[188] * 8] * 8] * _STIMULI),
        "images_metadata.csv": _csv(("stimulus", "width"), *((image, 8) for image in _IMAGES)),
        "images_desc-captions.csv": _csv(
            ("stimulus", "caption"), *((image, "a grey square") for image in _IMAGES)
        ),
        "images_desc-segmentations.h5": _hdf5(masks=[[[1] * 8] * 8] * _STIMULI),
        "images_desc-segmentations_metadata.csv": _csv(
            ("stimulus", "segment"), *((image, "square") for image in _IMAGES)
        ),
    }
    for model in _MODELS:
        values = rng.normal(size=(_STIMULI, 16))
        objects[f"images_desc-{model}_embeddings.h5"] = _hdf5(embeddings=values)
    found = {f"stimuli/task-{name}": content for name, content in objects.items()}
    old = _hdf5(embeddings=rng.normal(size=(_STIMULI, 8)))
    return found | {"archive/embeddings/v1/task-images_desc-CLIP_embeddings.h5": old}


def _build_raw(subject: str, session: str) -> dict[str, bytes]:
    """A run of two echoes, with its reference, events and field map."""
    import numpy as np

    rng = np.random.default_rng([int(subject[-2:]), int(session[-2:])])
    stem = f"{subject}_{session}_"
    run = f"func/{stem}task-images_run-01_"
    trials = [(8 + 4.0 * trial, 2.5, "image") for trial in range(5)]
    files = {f"{run}events.tsv": _tsv(("onset", "duration", "trial_type"), *trials)}
    for echo in ("echo-1", "echo-2"):
        for part in ("part-mag", "part-phase"):
            name = f"{run}{echo}_{part}_bold"
            files[f"{name}.nii.gz"] = _nifti(rng.integers(0, 4096, (6, 7, 5, 4)).astype("int16"))
            files[f"{name}.json"] = _json(RepetitionTime=1.9, TaskName="images")
    files[f"{run}echo-1_part-mag_sbref.nii.gz"] = _nifti(np.ones((6, 7, 5), "int16"))
    files[f"fmap/{stem}magnitude1.nii.gz"] = _nifti(np.ones((6, 7, 5), "int16"))
    files[f"fmap/{stem}phasediff.nii.gz"] = _nifti(np.ones((6, 7, 5), "int16"))
    files[f"anat/{stem}echo-1_MEGRE.nii.gz"] = _nifti(np.ones((6, 7, 5), "int16"))
    return {f"{subject}/{session}/{name}": content for name, content in files.items()}


def _build_scopes(subject: str) -> dict[str, dict[str, bytes]]:
    """The files of each scope of derivatives but GLMsingle's, below the folder of the subject."""
    import numpy as np

    rng = np.random.default_rng([7, int(subject[-2:])])

    def volume(shape: tuple[int, ...] = _GRID) -> bytes:
        return _nifti(rng.uniform(0, 1, shape))

    def mask(shape: tuple[int, ...] = _GRID) -> bytes:
        return _nifti((rng.random(shape) < 0.1).astype("uint8"))

    rois: dict[str, bytes] = {}
    for category, labels in _ROIS.items():
        for label in labels:
            name = f"{category}/{subject}"
            rois[f"{name}_space-T1w_res-1pt8_label-{label}_mask.nii.gz"] = mask()
            rois[f"{name}_space-T1w_res-1pt5_label-{label}_mask.nii.gz"] = mask((14, 17, 12))
            for hemi in ("L", "R"):
                surface = f"{name}_hemi-{hemi}_space-fsnative_label-{label}_mask"
                rois[f"{surface}.func.gii"] = _gifti((rng.random(6) < 0.5).astype("float32"))
                rois[f"{surface}.label"] = _label(subject)
    stem = f"ses-PrismaAnat/anat/{subject}_ses-PrismaAnat_space-T1w_"
    anatomical: dict[str, bytes] = {}
    for name in ("T1w", "res-1pt8_T1w", "T2w", "desc-brain_mask", "res-1pt8_desc-brain_mask"):
        anatomical[f"{stem}{name}.nii.gz"] = mask() if name.endswith("mask") else volume()
        anatomical[f"{stem}{name}.json"] = _json(Description="Synthetic values")
    tedana, localizers = {}, {}
    for session in ("ses-01", "ses-31"):
        for number in (1, 2):
            name = f"{session}/func/{subject}_{session}_task-images_run-{number:02d}_space-T1w"
            tedana[f"{name}_desc-optcom_bold.nii.gz"] = volume((6, 7, 5, 4))
            tedana[f"{name}_desc-optcom_bold.json"] = _json(RepetitionTime=1.9)
    for session, task, contrast in (
        ("ses-4BarScreenfLoc", "floc", "body"),
        ("ses-MotionLocBarsSML", "motionloc", "motion"),
        ("ses-31", "oloc", "object"),
        ("ses-31", "floc", "face"),
    ):
        name = f"{session}/func/{subject}_{session}_task-{task}_run-01_"
        end = f"_contrast-{contrast}_stat-effect_statmap"
        for hemi in ("L", "R"):
            values = rng.normal(size=6).astype("float32")
            localizers[f"{name}hemi-{hemi}_space-fsnative{end}.func.gii"] = _gifti(values)
        localizers[f"{name}space-T1w_res-1pt8{end}.nii.gz"] = volume()
    scopes = {"rois": rois, "anatomical": anatomical, "tedana": tedana, "localizers": localizers}
    return scopes | {"freesurfer": _build_freesurfer(subject)}


def _build_freesurfer(subject: str) -> dict[str, bytes]:
    import numpy as np

    nibabel: Any = importlib.import_module("nibabel")
    corners = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    faces = np.array([[x, y, z] for x in (0, 1) for y in (2, 3) for z in (4, 5)])
    files = {
        "label/lh.BA1_exvivo.label": _label(subject),
        "mri/transforms/talairach.xfm": b"MNI Transform File\n",
        "stats/aseg.stats": b"# Measure BrainSeg, 1166000.0, mm^3\n",
    }
    for name in ("T1", "aparc+aseg"):
        image = nibabel.MGHImage(np.ones(_GRID, "float32"), np.eye(4))
        files[f"mri/{name}.mgz"] = gzip.compress(image.to_bytes(), mtime=0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "surface")
        for hemisphere in ("lh", "rh"):
            nibabel.freesurfer.write_geometry(file, 40.0 * corners, faces, create_stamp="sample")
            files[f"surf/{hemisphere}.white"] = file.read_bytes()
    return files


def _build_subject(subject: str) -> dict[str, bytes]:
    """All sessions of GLMsingle, and the summaries of those that are not held out."""
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
    return objects


def _build_session(stem: str, number: int, brain: Any, rng: Any) -> tuple[Any, dict[str, bytes]]:
    """The R2 map in percent, highest at the back, and the content of each file in ``func``."""
    import numpy as np

    r2 = rng.normal(20 - 15 * np.linspace(-1, 1, _GRID[1])[:, None], 3, _GRID).clip(0, 100) * brain
    hrf = (rng.integers(1, 21, _GRID) * brain).astype("int16")
    ridge = rng.uniform(0.05, 1, _GRID) * brain
    betas = rng.normal(0, 1.5, (*_GRID, _TRIALS)) * brain[..., None]
    shown = rng.permutation(np.arange(_TRIALS) % _STIMULI).tolist()
    session = stem.split("_")[1]
    names = ("session", "run", "beta_index", "label", "onset", "duration", "repetition")
    trials: list[Any] = [names]
    for trial, image in enumerate(shown):
        run, position = divmod(trial, _TRIALS // _RUNS)
        seen = number * _TRIALS // _STIMULI + shown[: trial + 1].count(image)
        row = (session, run + 1, trial, _IMAGES[image], 8 + 4.0 * position, 2.5, seen)
        trials.append(row)
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


def _gifti(values: Any) -> bytes:
    nibabel: Any = importlib.import_module("nibabel")
    array = nibabel.gifti.GiftiDataArray(values, datatype="NIFTI_TYPE_FLOAT32")
    content: bytes = nibabel.gifti.GiftiImage(darrays=[array]).to_bytes()
    return content


def _label(subject: str) -> bytes:
    """Return a label of one vertex, as FreeSurfer writes them: number, coordinates in mm, value."""
    return f"#!ascii label  , from subject {subject}\n1\n0  40.0 0.0 0.0 1.0\n".encode()


def _json(**fields: object) -> bytes:
    return (json.dumps(fields, indent=2) + "\n").encode()


def _tsv(*rows: Iterable[object], mark: str = "\t") -> bytes:
    return "".join(mark.join(map(str, row)) + "\n" for row in rows).encode()


def _csv(*rows: Iterable[object]) -> bytes:
    return _tsv(*rows, mark=",")


def require(*modules: str) -> None:
    if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
        raise MissingDependencyError(
            f"The sample bucket needs {', '.join(missing)}: pip install 'laion-fmri[demo]'"
        )
