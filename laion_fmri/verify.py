"""``verify()``: is what is here what it should be?"""

from laion_fmri.check.verification import verify as verify
