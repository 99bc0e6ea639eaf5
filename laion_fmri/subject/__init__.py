"""One subject, or several, as arrays: trials by voxels, masks, maps and trial tables.

Needs the extra ``load``: ``pip install 'laion-fmri[load]'``.
"""

from laion_fmri.subject.group import Group as Group
from laion_fmri.subject.group import load_subjects as load_subjects
from laion_fmri.subject.person import Subject as Subject
from laion_fmri.subject.person import load_subject as load_subject
