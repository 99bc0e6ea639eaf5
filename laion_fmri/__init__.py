"""Fetch what you need of the LAION-fMRI dataset: BIDS filters in, files on disk out.

What users need can be had from here, as ``laion_fmri.get_subjects()``, and from its module, as
``from laion_fmri.download import download``. Nothing is imported before it is asked for.
"""

from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "2026.11.0"

#: Public name -> its module. A module of the same name is callable, see :class:`CallableModule`.
_HOMES = {
    "dataset_initialize": "config",
    "get_data_dir": "config",
    "describe": "discovery",
    "get_rois": "discovery",
    "get_scopes": "discovery",
    "get_subjects": "discovery",
    "inspect_bucket": "discovery",
    "list_entities": "discovery",
    "accept_license": "download",
    "accept_licenses": "download",
    "download_captions": "download",
    "download_embeddings": "download",
    "download_raw": "download",
    "download_segmentations": "download",
    "download_stimuli": "download",
    "login": "download",
    "logout": "download",
    "paths": "download",
    "key_table": "keys",
    "Group": "group",
    "load_subject": "subject",
    "load_subjects": "group",
    "Subject": "subject",
    "remove": "removal",
}
_CALLABLE = ("download", "status", "verify")


class CallableModule(ModuleType):
    """A module whose call is that of the function of its name.

    So ``laion_fmri.download`` is both the module, as in ``from laion_fmri.download import
    download``, and the function, as in ``laion_fmri.download("sub-03")``.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        function = getattr(self, self.__name__.rpartition(".")[2])
        return function(*args, **kwargs)


def __getattr__(name: str) -> Any:
    if name in _CALLABLE:
        return import_module(f"laion_fmri.{name}")
    if name in _HOMES:
        return getattr(import_module(f"laion_fmri.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'laion_fmri' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_CALLABLE])
