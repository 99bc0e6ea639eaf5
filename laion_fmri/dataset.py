"""What is known about the published dataset: where it lives, which trees it has, what is held out.

These are data, not code: each name here that the configuration schema also knows can be overridden
there. Source of all of them: the dataset's own pages at https://laion-fmri.hebartlab.com.
"""

from __future__ import annotations

BUCKET = "laion-fmri"
REGION = "us-west-2"

#: Prefixes walked for each selected subject.
TREES = ("derivatives/glmsingle-tedana/{subject}/", "derivatives/atlases/{subject}/")
#: The tree whose subfolders are the subjects of the bucket.
SUBJECTS_PREFIX = "derivatives/glmsingle-tedana/"
ATLASES_PREFIX = "derivatives/atlases/"
#: Files at the root of the bucket that come with every selection; any of them may be absent.
ROOT_FILES = ("README", "dataset_description.json", "participants.json", "participants.tsv")
STIMULI_PREFIX = "stimuli/"

#: `desc` values of the subject-level maps that a loader needs to derive the brain mask. They come
#: along whenever `ses` names a real session.
PINNED_DESCS = ("R2mean", "meanR2gt15mask")

#: Sessions that are listed but answer 403 until the dataset's challenge is over.
HELD_OUT_SESSIONS = ("31", "32", "33", "34")
#: Single objects that are listed but need a data use agreement.
RESTRICTED_KEYS = ("stimuli/task-images_stimuli.h5",)
REQUEST_URL = "https://laion-fmri.hebartlab.com/request"

TERMS_URL = "https://laion-fmri.hebartlab.com/terms"
BRAIN_LICENSE = "The brain data are in the public domain (CC0 1.0)."
STIMULI_LICENSE = (
    "The stimuli are under a closed licence: non-commercial academic research only; no "
    "redistribution, no commercial use, no use for commercial AI models. Terms: " + TERMS_URL
)
