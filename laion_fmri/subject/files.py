"""Finds the files of one subject in the data directory, and fetches those that are missing."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laion_fmri.base.bids import Parsed, parse_key
from laion_fmri.dataset import make_scope
from laion_fmri.download import download
from laion_fmri.errors import DataNotDownloadedError, InputTypeError, SelectionError, list_some
from laion_fmri.settings import AVERAGES, read_settings, spell_command

GLM = "glmsingle-tedana"


@dataclass(frozen=True)
class Wanted:
    """A file, by what its name says: a scope, a session, and entities that have to be equal.

    An entity that is None must be absent from the name; one that is not given may be anything.
    """

    scope: str
    ses: str | None
    entities: Mapping[str, str | None]

    def matches(self, parsed: Parsed) -> bool:
        """Whether a name is that of such a file."""
        return all(getattr(parsed, name) == value for name, value in self.entities.items())

    def describe(self) -> str:
        """Return the end of its name in words, such as ``desc-R2mean_statmap.nii.gz``."""
        given = {name: value for name, value in self.entities.items() if value is not None}
        end = f"{given.pop('suffix', '')}.{given.pop('extension', '')}"
        tokens = [f"ses-{self.ses}"] if self.scope == GLM and self.ses else []
        return "_".join([*tokens, *(f"{n}-{v}" for n, v in given.items()), end])


def want(scope: str, ses: str | None = None, **entities: str | None) -> Wanted:
    """Return a description of a file; an image unless `entities` have another extension."""
    return Wanted(scope, ses, {"extension": "nii.gz", **entities})


def read_label(name: str, value: object) -> str:
    """Return a subject or a session without its prefix: ``"01"`` for ``"ses-01"``."""
    if not isinstance(value, str):
        raise InputTypeError(f"{name} has to be a str such as '{name}-01', and is {value!r}")
    label = value.removeprefix(f"{name}-")
    if not label or not label.isalnum():
        raise SelectionError(f"{value!r} is not a valid name such as '{name}-01'")
    return label


class Files:
    """The files of one subject below `data_dir`; with `fetch`, what is missing is downloaded."""

    def __init__(self, subject: str, data_dir: Path, fetch: bool, n_jobs: int) -> None:
        self.subject, self.data_dir, self.fetch, self.n_jobs = subject, data_dir, fetch, n_jobs

    def list_here(self, scope: str, ses: str | None = None) -> list[tuple[Path, Parsed]]:
        """Return the files of a scope that are here, with what their names say, sorted.

        Of what GLMsingle has made, those of one session, or those that belong to none.
        """
        top = self.data_dir / make_scope(scope).prefix_of(self.subject)
        if scope == GLM and ses:
            top /= f"ses-{ses}"
        found = []
        for folder, folders, names in os.walk(top):
            if scope == GLM and not ses:
                folders.clear()
            for name in names:
                path = Path(folder, name)
                found.append((path, parse_key(path.relative_to(self.data_dir).as_posix())))
        return sorted(found)

    def find(self, wanted: Wanted) -> list[Path]:
        """Return the files that are here and match, sorted.

        An image that was decompressed beside, and not replaced since, takes the place of its own.
        """
        here = self.list_here(wanted.scope, wanted.ses)
        found = {path: path for path, parsed in here if wanted.matches(parsed)}
        for path, parsed in here:
            if parsed.extension == "nii" and wanted.matches(parsed._replace(extension="nii.gz")):
                image = path.with_name(f"{path.name}.gz")
                if image not in found or _is_as_new(path, image):
                    found[image] = path
        return [found[image] for image in sorted(found)]

    def list_sessions(self) -> list[str]:
        """Return the sessions of which betas are here, such as ``ses-01``, sorted."""
        top = self.data_dir / make_scope(GLM).prefix_of(self.subject)
        names = sorted(path.name for path in top.glob("ses-*"))
        return [name for name in names if self.find(betas_of(name.removeprefix("ses-")))]

    def need(self, *wanted: Wanted) -> list[Path]:
        """Return the one file of each description; what is not here is fetched first.

        Raises DataNotDownloadedError if a file is not here and not to be fetched, or not in the
        bucket, and what a download raises.
        """
        missing = [one for one in wanted if not self.find(one)]
        if missing and self.fetch:
            for group in _group(missing):
                self.get(group)
            missing = [one for one in wanted if not self.find(one)]
        if missing:
            raise self.explain(missing)
        return [self.find(one)[0] for one in wanted]

    def get(self, wanted: Iterable[Wanted]) -> None:
        """Download files that differ in their session alone, or in their label."""
        download(**self._spell(list(wanted)), n_jobs=self.n_jobs)

    def explain(self, missing: list[Wanted]) -> DataNotDownloadedError:
        """Return the error for files that are not here, with the command that fetches them."""
        first, names = missing[0], list_some([one.describe() for one in missing], 4)
        text = f"sub-{self.subject} has no {names} in {self.data_dir}"
        if first.scope == GLM and first.ses:
            text += f" (sessions here: {list_some(self.list_sessions()) or 'none'})"
        elif first.scope == GLM:
            maps = [p.desc for _, p in self.list_here(GLM) if p.desc and p.suffix == "statmap"]
            text += f" (maps here: {list_some(sorted(set(maps))) or 'none'})"
        if self.fetch:
            return DataNotDownloadedError(f"{text}, and the bucket has none either")
        commands = [
            spell_command("download", read_settings(self._spell(group)))
            for group in _group(missing)
        ]
        return DataNotDownloadedError(f"{text}; fetch it: {' && '.join(commands)}")

    def _spell(self, wanted: list[Wanted]) -> dict[str, Any]:
        """Return the arguments of a download of files that differ in one filter alone."""
        first = wanted[0]
        options: dict[str, Any] = {"subject": f"sub-{self.subject}", "scope": first.scope}
        if first.scope == GLM:
            sessions = [f"ses-{one.ses}" if one.ses else AVERAGES for one in wanted]
            options["ses"] = sessions if len(sessions) > 1 else sessions[0]
        for name, value in first.entities.items():
            values = list(dict.fromkeys(one.entities[name] for one in wanted))
            if value is not None:
                options[name] = values if len(values) > 1 else value
        return {**options, "data_dir": self.data_dir}


def _is_as_new(path: Path, image: Path) -> bool:
    # Whole seconds, which every disk and every program that decompresses keeps.
    return int(path.stat().st_mtime) >= int(image.stat().st_mtime)


def _group(wanted: Iterable[Wanted]) -> list[list[Wanted]]:
    """Put together what one download can bring: all but the session, or the label, is the same."""
    groups: dict[object, list[Wanted]] = {}
    for one in wanted:
        same = {n: v for n, v in one.entities.items() if n != "label"}
        groups.setdefault((one.scope, one.ses is None, *same.items()), []).append(one)
    return list(groups.values())


def betas_of(ses: str) -> Wanted:
    """Return the description of the betas of a session."""
    return want(GLM, ses, desc="SingletrialBetas", suffix="statmap")


def trials_of(ses: str) -> Wanted:
    """Return the description of the trial table of a session."""
    return want(GLM, ses, desc="SingletrialBetas", suffix="trials", extension="tsv")
