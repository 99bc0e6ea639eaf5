"""``remove()``: make room."""

from laion_fmri.check.removal import remove as remove
