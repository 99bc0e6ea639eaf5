"""``status()``: what of a selection is here."""

from laion_fmri.selection.overview import status as status
