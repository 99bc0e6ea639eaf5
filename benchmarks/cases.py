"""What is fetched, over which network, and how each kind of tool is told to fetch it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from benchmarks.bucket import DERIVATIVES, LARGE, MAIN, ROOT_FILES, Sizes

#: Patterns of the sessions that every tool has to leave out: they are listed, but answer 403.
HELD_OUT = tuple(f"*ses-{number}/*" for number in range(31, 35))


@dataclass(frozen=True)
class Network:
    """What is put between the tools and the server: seconds per request, bytes per second."""

    name: str
    title: str
    delay: float
    rate: int


NETWORKS = (
    Network("near", "0 ms", 0.0, 0),
    Network("far", "80 ms per request, 10 MB/s per connection", 0.08, 10_000_000),
)


@dataclass(frozen=True)
class Case:
    """One selection, told in the two ways that tools understand.

    Attributes
    ----------
    selection : dict
        The subjects and filters of this project.
    globs : tuple of str
        The same keys as glob patterns, in which ``*`` crosses folders; the root's files and the
        held-out sessions are dealt with separately.
    tools, networks : tuple of str
        Names of those that take part; empty for all.
    """

    name: str
    title: str
    bucket: str
    selection: dict[str, list[str]]
    globs: tuple[str, ...]
    tools: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()

    @property
    def all_globs(self) -> tuple[str, ...]:
        """The patterns with the files at the root of the bucket, which our tool always brings."""
        return (*self.globs, *ROOT_FILES)

    @property
    def main_prefix(self) -> str:
        """The folder, with its ``/``, that holds most of the case."""
        return find_prefix(self.globs[0])

    def expect(self, objects: Iterable[tuple[str, int]]) -> dict[str, int]:
        """Return what every tool has to bring: of `objects`, the size (bytes) by key."""
        return {
            key: size
            for key, size in objects
            if any(fnmatchcase(key, glob) for glob in self.all_globs)
            and not any(fnmatchcase(key, glob) for glob in HELD_OUT)
        }


def find_prefix(glob: str) -> str:
    """Return the deepest folder, with its ``/``, that holds all that `glob` can match."""
    folder, slash, _ = glob.partition("*")[0].rpartition("/")
    return folder + slash


def make_cases(sizes: Sizes) -> tuple[Case, ...]:
    """Return all cases for buckets of `sizes`."""
    subject = sizes.subjects[1]
    summaries = f"{DERIVATIVES}/{subject}/{subject}_task-images_space-T1w"
    everyone = list(sizes.subjects)
    whole = Case(
        "subject",
        "one subject",
        MAIN,
        {"subject": [subject]},
        (f"{DERIVATIVES}/{subject}/*", f"derivatives/rois/{subject}/*"),
    )
    return (
        Case(
            "session",
            "one session",
            MAIN,
            {"subject": [subject], "ses": ["ses-01"], "scope": ["glmsingle-tedana"]},
            (
                f"{DERIVATIVES}/{subject}/ses-01/*",
                f"{summaries}_stat-rsquare_desc-R2mean_statmap.nii.gz",
                f"{summaries}_desc-meanR2gt15mask_mask.nii.gz",
            ),
        ),
        whole,
        replace(
            whole,
            name="jobs",
            title="one subject, by the number of jobs",
            tools=("command-1", "command-2", "command", "command-8"),
        ),
        Case(
            "trials",
            "trial tables of all subjects",
            MAIN,
            {"subject": ["all"], "suffix": ["trials"], "extension": ["tsv"]},
            (f"{DERIVATIVES}/*_trials.tsv",),
        ),
        Case(
            "rois",
            "regions of interest of all subjects",
            MAIN,
            {"subject": ["all"], "scope": ["rois"]},
            ("derivatives/rois/*",),
        ),
        Case(
            "freesurfer",
            "FreeSurfer's folders of all subjects",
            MAIN,
            {"subject": ["all"], "scope": ["freesurfer"]},
            ("derivatives/freesurfer/*",),
        ),
        Case(
            "large",
            f"{sizes.large_objects} objects of {sizes.large // 2**20} MiB",
            LARGE,
            {"subject": ["sub-08"]},
            (f"{DERIVATIVES}/sub-08/*",),
        ),
        Case(
            "everyone",
            "all subjects",
            MAIN,
            {"subject": everyone},
            (f"{DERIVATIVES}/*", "derivatives/rois/*"),
            tools=("command", "aws-sync", "s5cmd"),
            networks=("far",),
        ),
    )
