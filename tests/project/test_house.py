"""The house: imports run downward, nothing grows too large, and the public names stay."""

from __future__ import annotations

import ast
import importlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import REPO

from laion_fmri import errors

PACKAGE = REPO / "laion_fmri"
#: The rooms from the ground up; a module imports from its own floor or from those below.
FLOORS = (
    ("base", "errors", "dataset"),
    ("settings", "config"),
    ("bucket",),
    ("folder",),
    ("fetch",),
    ("selection",),
    ("run",),
    ("check",),
    ("show",),
    # What users import, and what the command adds to it.
    ("download", "keys", "discovery", "status", "verify", "removal", "pipeline", "manifest"),
    ("subject",),
    ("group",),
    ("sample", "transfer"),
    ("commands",),
    ("__main__",),
)
#: What users and other programs import by name.
PUBLIC = (
    *("download:download", "download:accept_licenses", "keys:key_table"),
    *("download:login", "download:logout"),
    *("config:dataset_initialize", "config:get_data_dir"),
    *("discovery:get_subjects", "discovery:get_rois", "discovery:describe"),
    *("discovery:inspect_bucket", "discovery:list_entities"),
    *("pipeline:target", "pipeline:targets", "pipeline:expand_targets"),
    *("subject:load_subject", "subject:Subject", "group:load_subjects", "group:Group"),
    *("verify:verify", "status:status", "removal:remove"),
    *("manifest:Entry", "manifest:read_manifest", "manifest:write_manifest"),
    *("sample:serve_sample", "sample:sample_objects", "sample:SampleServer"),
    *(f"errors:{name}" for name, value in vars(errors).items() if isinstance(value, type)),
)
#: Its signature is the contract's.
MANY_PARAMETERS = {"download"}


def list_modules() -> dict[str, Path]:
    """Return the modules of the package by their name below it."""
    files = {file.relative_to(PACKAGE).with_suffix(""): file for file in PACKAGE.rglob("*.py")}
    return {".".join(name.parts).removesuffix(".__init__"): file for name, file in files.items()}


def find_imports(file: Path) -> Iterator[str]:
    """Yield what a module imports from the package, also in functions and for type checkers."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("laion_fmri"):
            base = (node.module or "").removeprefix("laion_fmri").removeprefix(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                yield inner if inner in MODULES else base


MODULES = list_modules()
IMPORTS = {name: {found for found in find_imports(file) if found} for name, file in MODULES.items()}


def find_floor(module: str) -> int:
    """Return the number of the floor that a module is on."""
    room = module.split(".")[0]
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def test_imports_run_downward():
    """No room knows of one above it."""
    upward = {
        f"{module} imports {found}"
        for module, imports in IMPORTS.items()
        for found in imports
        if module != "__init__" and find_floor(found) > find_floor(module)
    }
    assert upward == set()


def test_there_is_no_circle_of_modules():
    """Every module can be read after those that it imports."""
    left = {module: set(imports) - {module} for module, imports in IMPORTS.items()}
    while ready := {module for module, imports in left.items() if not imports & left.keys()}:
        left = {module: imports for module, imports in left.items() if module not in ready}
    assert left == {}


def test_modules_are_few_at_the_top_and_short():
    """At most 16 modules beside the rooms, and none over 350 lines."""
    top = [file for file in MODULES.values() if file.parent == PACKAGE]
    assert len(top) <= 16
    long = {name for name, file in MODULES.items() if len(file.read_text().splitlines()) > 350}
    assert long == set()


def test_functions_have_few_parameters():
    """At most 8, but where the contract gives the signature."""
    many = set()
    for name, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                own = [argument for argument in given if argument.arg not in ("self", "cls")]
                if len(own) > 8 and node.name not in MANY_PARAMETERS:
                    many.add(f"{name}.{node.name}")
    assert many == set()


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_stay(name):
    """Each can be imported from where users import it."""
    module, _, attribute = name.partition(":")
    assert hasattr(importlib.import_module(f"laion_fmri.{module}"), attribute)


def test_a_transfer_is_called_by_its_path():
    """Rules of any version call it so; without arguments it only complains of these."""
    done = subprocess.run(
        [sys.executable, "-I", PACKAGE / "transfer.py"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "IndexError" in done.stderr) == (1, True)


#: Calls that make, change, move or remove something by its path.
BY_PATH = {
    "os": {"open", "mkdir", "makedirs", "rename", "replace", "link", "symlink", "unlink", "remove"}
    | {"rmdir", "removedirs", "chmod", "chown", "utime", "truncate", "mkfifo"},
    "shutil": {"rmtree", "move", "copy", "copyfile", "copy2", "copytree"},
    "tempfile": {"mkstemp", "mkdtemp"},
}
#: The same as methods of a path; ``replace`` with one argument.
METHODS = {"write_text", "write_bytes", "mkdir", "unlink", "rename", "replace", "rmdir", "touch"}
METHODS |= {"hardlink_to", "symlink_to", "chmod"}
FOLDERS = ("dir_fd", "src_dir_fd", "dst_dir_fd")
#: What may name a path, since it is not in a shared folder, or the user's own choice: the folder of
#: a run and that of the request id, which belong to the user alone, the pipeline's own folder, and
#: the data directory itself.
OWN = {
    "folder.guard": {"Mirror.__init__", "make_own_folder", "read_own_file"},
    "folder.login": {"_enter"},
    "check.removal": {"Folders.__init__"},
    "fetch.mates": {"Groups.save", "JobOfOne._place", "forget_groups", "write_program"},
    "fetch.outcomes": {"record_outcome"},
    "fetch.agenda": {"Agenda._stop_run"},
    "fetch.aws_process": {"ask_version"},
    "fetch.transfer": {"Transfer.run", "Transfer._fetch_wanted"},
    "run.run_folder": {"RunFolder._save", "make_run_dir", "write_stamp"},
    "run.process": {"run_workflow", "_clean_up"},
    "run.rules": {"Rules._share_out"},
    "run.listing": {"Listing._keep", "Listing._look"},
    "run.loader": {"main", "_make_cache"},
    "run.pipeline_modules": {"_choose_data_dir", "follow"},
}


def find_calls_by_path(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the function, and the text, of each call that could follow a link to anywhere."""

    def visit(node: ast.AST, where: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            where = f"{where}.{node.name}".lstrip(".")
        if isinstance(node, ast.Call) and is_by_path(node):
            yield where, ast.unparse(node)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, where)

    yield from visit(ast.parse(file.read_text()), "")


def is_by_path(call: ast.Call) -> bool:
    """Whether a call makes, changes, moves or removes something that it names by a path."""
    if any(keyword.arg in FOLDERS for keyword in call.keywords):
        return False
    called = call.func
    modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    writes = any(set(mode) & set("wax+") and len(mode) < 4 for mode in modes)
    if isinstance(called, ast.Name):
        is_open = called.id == "open" and writes
        # What was opened by a descriptor is only given a buffer.
        opened = call.args and isinstance(call.args[0], (ast.Call, ast.Name))
        return called.id == "write_atomically" or (is_open and not opened)
    if not isinstance(called, ast.Attribute):
        return False
    if isinstance(called.value, ast.Name) and called.value.id in BY_PATH:
        return called.attr in BY_PATH[called.value.id]
    if called.attr == "open":
        return writes
    return called.attr in METHODS and not (called.attr == "replace" and len(call.args) != 1)


def test_nothing_in_a_shared_folder_is_named_by_its_path():
    """In the rooms that touch data directories, all goes by open folders, or is named above."""
    found: dict[str, set[str]] = {}
    for name, file in list_modules().items():
        if name.split(".")[0] in ("folder", "fetch", "run", "check"):
            for where, _ in find_calls_by_path(file):
                found.setdefault(name, set()).add(where)
    assert found == OWN


def test_the_check_for_paths_finds_them(tmp_path):
    """It can fail."""
    file = tmp_path / "module.py"
    file.write_text(
        "def f(p):\n    os.unlink(p)\n    p.write_text('')\n    open('x', 'w')\n"
        "    p.replace(p)\n    os.rename(p, p, src_dir_fd=1)\n    'a'.replace('a', 'b')\n"
    )
    assert len(list(find_calls_by_path(file))) == 4


#: Says where an option and an entity that were just added can be seen.
LOOK = """
import inspect, sys
from hooks import make_pages
from laion_fmri.commands.cli import make_parser
from laion_fmri.download import download
from laion_fmri.settings import make_schema, read_config
from laion_fmri.selection.table import COLUMNS
name = sys.argv[1]
words = ["download", "--subject", "03", f"--{name}", "red"]
pages = make_pages()
seen = {
    "argument": name in inspect.signature(download).parameters,
    "flag": "red" in str(vars(make_parser().parse_args(words))[name]),
    "schema": name in make_schema()["properties"],
    "configuration": "red" in str(read_config({"subject": "03", name: "red"})),
    "command page": f"--{name} " in pages["reference/command.md"],
    "configuration page": f"`{name}`" in pages["reference/configuration.md"],
    "column": name in COLUMNS,
}
print(*[place for place, is_there in seen.items() if is_there], sep=", ")
"""
EVERYWHERE = "argument, flag, schema, configuration, command page, configuration page"


#: Shows what is made of a scope that was just described.
LOOK_AT_SCOPE = """
from hooks import make_pages
from laion_fmri.dataset import DESCRIBED, find_scope
from laion_fmri.selection.completion import suggest_values
scope = find_scope("derivatives/colours/sub-03/x.tsv")
print("colours" in DESCRIBED, scope.text, suggest_values("scope", "co", {}))
"""


def test_one_more_scope_is_one_entry(tmp_path):
    """It is described in one place; one that is not described needs none."""
    copy_package(tmp_path)
    file = tmp_path / "laion_fmri" / "dataset.py"
    entry = '    Scope("colours", "derivatives/colours/", "maps of colours", by_session=True),\n'
    text = file.read_text()
    assert text.count("SCOPES = (\n") == 1
    plain = run_copy(tmp_path, LOOK_AT_SCOPE)
    file.write_text(text.replace("SCOPES = (\n", f"SCOPES = (\n{entry}"))
    described = run_copy(tmp_path, LOOK_AT_SCOPE)
    assert (plain.stdout, described.stdout) == (
        "False not described yet []\n",
        "True maps of colours ['colours']\n",
    )


def copy_package(folder: Path) -> None:
    """Copy what the pages are made of, and the package, to a folder."""
    shutil.copytree(PACKAGE, folder / "laion_fmri", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "CHANGELOG.md", "SECURITY.md"):
        shutil.copy(REPO / name, folder)
    for name in ("docs/hooks.py", "config/README.md"):
        (folder / name).parent.mkdir()
        shutil.copy(REPO / name, folder / name)


def run_copy(folder: Path, code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `code` with the copy of the package in a folder."""
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        env={"PYTHONPATH": f"{folder}:{folder}/docs", "HOME": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("module", "after", "line", "expected"),
    [
        (
            "settings.py",
            "    space_check: bool =",
            '    colour: str | None = option(kinds.NAME, "a colour of the run, such as red")',
            EVERYWHERE,
        ),
        (
            "base/bids.py",
            "    run: Annotated",
            '    colour: Annotated[str | None, "colours, such as colour-red"] = None',
            f"{EVERYWHERE}, column",
        ),
    ],
    ids=["option", "entity"],
)
def test_one_more_is_one_line(tmp_path, module, after, line, expected):
    """An option, or an entity, is added in one place; everything else follows."""
    copy_package(tmp_path)
    file = tmp_path / "laion_fmri" / module
    text = file.read_text()
    assert text.count(after) == 1
    file.write_text(text.replace(after, f"{line}\n{after}"))
    done = run_copy(tmp_path, LOOK, "colour")
    assert done.stdout.strip() == expected, done.stderr
