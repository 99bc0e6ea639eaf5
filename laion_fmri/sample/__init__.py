"""The embedded sample bucket: its objects, and the server on loopback that serves them."""

from laion_fmri.sample.objects import RAW_SUBJECT as RAW_SUBJECT
from laion_fmri.sample.objects import SESSIONS as SESSIONS
from laion_fmri.sample.objects import SUBJECTS as SUBJECTS
from laion_fmri.sample.objects import sample_objects as sample_objects
from laion_fmri.sample.server import HELD_OUT as HELD_OUT
from laion_fmri.sample.server import Request as Request
from laion_fmri.sample.server import SampleServer as SampleServer
from laion_fmri.sample.server import serve_sample as serve_sample
