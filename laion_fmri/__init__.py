"""Fetch any slice of the LAION-fMRI dataset: BIDS filters in, files on disk out.

Import what you need from its module, for example ``from laion_fmri.download import download``.
"""

__version__ = "0.1.0"
