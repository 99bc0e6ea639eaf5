"""Several subjects as arrays; needs the extra ``load``."""

from laion_fmri.subject.group import Group as Group
from laion_fmri.subject.group import load_subjects as load_subjects
