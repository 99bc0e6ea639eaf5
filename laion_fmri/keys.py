"""The key table in Python."""

from laion_fmri.selection.table import key_table as key_table
