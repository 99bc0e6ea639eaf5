"""Manifests in Python."""

from laion_fmri.selection.manifest import Entry as Entry
from laion_fmri.selection.manifest import read_manifest as read_manifest
from laion_fmri.selection.manifest import write_manifest as write_manifest
