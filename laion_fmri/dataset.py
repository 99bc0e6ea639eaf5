"""What is known about the dataset: where it lives, which trees it has, what is held out.

Their source: the dataset's own pages at https://laion-fmri.hebartlab.com. A configuration can
override what is in :class:`Facts`.
"""

from dataclasses import dataclass

BUCKET = "laion-fmri"
REGION = "us-west-2"

#: The tree whose subfolders are the subjects of the bucket.
SUBJECTS_PREFIX = "derivatives/glmsingle-tedana/"
ATLASES_PREFIX = "derivatives/atlases/"
#: Files at the root of the bucket that come with every selection; any of them may be absent.
ROOT_FILES = ("README", "dataset_description.json", "participants.json", "participants.tsv")
STIMULI_PREFIX = "stimuli/"

#: `desc` values of the subject-level maps that a loader needs to derive the brain mask. They come
#: along whenever `ses` names a real session.
PINNED_DESCS = ("R2mean", "meanR2gt15mask")

REQUEST_URL = "https://laion-fmri.hebartlab.com/request"
TERMS_URL = "https://laion-fmri.hebartlab.com/terms"
BRAIN_LICENSE = "The brain data are in the public domain (CC0 1.0)."
STIMULI_LICENSE = (
    "The stimuli are under a closed licence: non-commercial academic research only; no "
    "redistribution, no commercial use, no use for commercial AI models. Terms: " + TERMS_URL
)


@dataclass(frozen=True)
class Facts:
    """What is known of the bucket's keys."""

    trees: tuple[str, ...] = (  # prefixes listed for each selected subject
        SUBJECTS_PREFIX + "{subject}/",
        ATLASES_PREFIX + "{subject}/",
    )
    # Sessions that are listed but answer 403 until the dataset's challenge is over.
    held_out_sessions: tuple[str, ...] = ("31", "32", "33", "34")
    # Single objects that are listed but need a data use agreement.
    restricted_keys: tuple[str, ...] = ("stimuli/task-images_stimuli.h5",)

    def trees_of(self, subject: str) -> list[str]:
        """Return the prefixes of the subject with the label `subject`."""
        return [tree.format(subject=f"sub-{subject}") for tree in self.trees]

    def is_held_out(self, key: str, ses: str | None) -> bool:
        """Whether the bucket lists `key`, of the session `ses`, but answers 403 for it."""
        return ses in self.held_out_sessions or key in self.restricted_keys


#: What is known unless a configuration says otherwise.
PUBLISHED = Facts()
#: Nothing is held out: whoever has the file was given access.
NOTHING_HELD_OUT = Facts(held_out_sessions=(), restricted_keys=())
