"""What is known about the dataset: where it lives, which scopes it has, what is not given out.

A scope is a tree of the bucket, by the name that it has there. Its source: the dataset's own pages
at https://laion-fmri.hebartlab.com. One scope more is one more entry in :data:`SCOPES`; a tree
``derivatives/<name>/sub-XX/`` that has no entry is a scope all the same, found in the bucket.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from laion_fmri.base.bids import Parsed

BUCKET = "laion-fmri"
REGION = "us-west-2"

#: Files at the root of the bucket that come with every selection; any of them may be absent.
ROOT_FILES = ("README", "dataset_description.json", "participants.json", "participants.tsv")
#: The folder of the scopes that are found in the bucket.
DERIVATIVES = "derivatives/"
STIMULI = "stimuli"

#: `desc` values of the subject-level maps that a loader needs to derive the brain mask. They come
#: along whenever `ses` names a real session.
PINNED_DESCS = ("R2mean", "meanR2gt15mask")

REQUEST_URL = "https://laion-fmri.hebartlab.com/request"
TERMS_URL = "https://laion-fmri.hebartlab.com/terms"
BRAIN_LICENSE = "All but the stimulus images is in the public domain (CC0 1.0)."
STIMULI_LICENSE = (
    "The stimulus images are under a closed licence: non-commercial academic research only; no "
    "redistribution, no commercial use, no use for commercial AI models. Terms: " + TERMS_URL
)


class Scope(NamedTuple):
    """A tree of the bucket, and how a selection treats it."""

    name: str
    folder: str  # that of its subjects, or all of it
    text: str = "not described yet"
    entities: str = ""  # those that its keys carry, beside subject and session
    has_subjects: bool = True  # else it belongs to the dataset
    by_session: bool | None = None  # whether `ses` thins it; None: if any of its keys has one
    takes_filters: bool = True  # else it comes whole
    is_default: bool = False
    gated: tuple[str, ...] = ()  # keys that need a data use agreement
    public: tuple[tuple[str, str], ...] = ()  # entities whose values are never held out

    def prefix_of(self, subject: str) -> str:
        """Return the prefix of its keys of the subject with the label `subject`."""
        return f"{self.folder}sub-{subject}/" if self.has_subjects else self.folder

    def gives_out(self, parsed: "Parsed") -> bool:
        """Whether a key is public even in a session that is held out."""
        return any(getattr(parsed, entity) == value for entity, value in self.public)

    def holds(self, key: str) -> bool:
        """Whether `key` is in it."""
        return key.startswith(f"{self.folder}sub-" if self.has_subjects else self.folder)


SCOPES = (
    Scope(
        "glmsingle-tedana",
        "derivatives/glmsingle-tedana/",
        "single-trial betas, models and quality maps of GLMsingle, with the trial tables",
        "task space stat desc",
        by_session=True,
        is_default=True,
    ),
    Scope(
        "rois",
        "derivatives/rois/",
        "masks of regions of interest, in volumes and on surfaces",
        "hemi space res label",
        by_session=False,
        is_default=True,
    ),
    Scope(
        "anatomical",
        "derivatives/anatomical/",
        "T1w and T2w images and brain masks",
        "space res desc",
        by_session=False,
    ),
    Scope(
        "freesurfer",
        "derivatives/freesurfer/",
        "the folder of FreeSurfer: surfaces, segmentations, labels and statistics",
        by_session=False,
        takes_filters=False,
    ),
    Scope(
        "tedana",
        "derivatives/tedana/",
        "preprocessed BOLD, echoes combined",
        "task run space desc",
        by_session=True,
    ),
    Scope(
        "localizers",
        "derivatives/localizers/",
        "contrast maps of the functional localizers, in sessions of their own",
        "task run hemi space res contrast stat",
        by_session=True,
        public=(("task", "oloc"),),
    ),
    Scope(
        "raw",
        "",
        "raw BOLD of each echo, field maps, anatomy and events",
        "task run echo part",
        by_session=True,
    ),
    Scope(
        STIMULI,
        "stimuli/",
        "metadata, embeddings, segmentations and captions of the images; the images on request",
        "task desc",
        has_subjects=False,
        gated=("stimuli/task-images_stimuli.h5",),
    ),
    Scope(
        "archive",
        "archive/",
        "files that newer versions have replaced",
        has_subjects=False,
    ),
)
#: The names that have an entry.
DESCRIBED = tuple(scope.name for scope in SCOPES)
#: What a selection is about that names no scope.
DEFAULT_SCOPES = tuple(scope.name for scope in SCOPES if scope.is_default)


def make_scope(name: str) -> Scope:
    """Return the scope `name`, as it is described or as it would be found in the bucket."""
    found = next((scope for scope in SCOPES if scope.name == name), None)
    return found or Scope(name, f"{DERIVATIVES}{name}/")


def find_scope(key: str) -> Scope | None:
    """Return the scope that `key` is in; None at the root, and in folders that are no scope."""
    return _find_scope(key.rpartition("/")[0] + "/")


@lru_cache(maxsize=4096)
def _find_scope(folder: str) -> Scope | None:
    for scope in SCOPES:
        if scope.holds(folder):
            return scope
    top, name, subject, *_ = [*folder.split("/"), "", ""]
    is_scope = f"{top}/" == DERIVATIVES and subject.startswith("sub-") and name not in DESCRIBED
    return make_scope(name) if is_scope else None


@dataclass(frozen=True)
class Facts:
    """What the bucket lists and does not give out; a configuration can say otherwise."""

    # Sessions that answer 403 until the dataset's challenge is over.
    held_out_sessions: tuple[str, ...] = ("31", "32", "33", "34")
    # Single objects that need a data use agreement.
    restricted_keys: tuple[str, ...] = tuple(key for scope in SCOPES for key in scope.gated)

    def is_held_out(self, key: str, parsed: "Parsed") -> bool:
        """Whether the bucket lists `key`, which says `parsed`, but answers 403 for it."""
        if parsed.ses not in self.held_out_sessions:
            return key in self.restricted_keys
        scope = find_scope(key)
        return not (scope and scope.gives_out(parsed))


#: What is known unless a configuration says otherwise.
PUBLISHED = Facts()
#: Nothing is held out: whoever has the file was given access.
NOTHING_HELD_OUT = Facts(held_out_sessions=(), restricted_keys=())
