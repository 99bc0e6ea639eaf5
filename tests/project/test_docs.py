"""The documentation: what it tells people to type works, and what it says of the code is so.

Each page is followed from top to bottom in an empty home, the sample bucket standing for S3.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from helpers import REPO, run, run_command
from matplotlib.image import imread
from nbclient import NotebookClient
from pages import NOT_RUN, Reader, expand_extras, find_commands, find_pages, read_blocks

from laion_fmri.commands.cli import make_parser
from laion_fmri.sample import SampleServer, sample_objects, serve_sample
from laion_fmri.settings import make_schema

SITE_PAGES = sorted((REPO / "docs").rglob("*.md"))
PAGES = find_pages()
BLOCKS = [block for page in PAGES for block in read_blocks(REPO / page)]
NOTEBOOK = REPO / "examples" / "notebook.ipynb"
EXTRAS = set(
    tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]
)
TRIALS = (
    "derivatives/glmsingle-tedana/sub-03/ses-01/func/"
    "sub-03_ses-01_task-images_desc-SingletrialBetas_trials.tsv"
)


@pytest.fixture(scope="module")
def light() -> Iterator[SampleServer]:
    """Serve the sample without its root files, which would take four more processes a page."""
    with serve_sample({k: v for k, v in sample_objects().items() if "/" in k}) as running:
        yield running


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=() if p == "README.md" else pytest.mark.faults) for p in PAGES],
)
def test_page_does_what_it_says(page: str, light: SampleServer, tmp_path: Path) -> None:
    """Every block of the page, typed one after the other, works and prints what the page shows."""
    reader = Reader(tmp_path / "home", light.endpoint_url)
    try:
        for block in read_blocks(REPO / page):
            reader.follow(block)
        reader.plan_what_is_left(page)
    finally:
        reader.leave()


WRONG = {
    "a command that fails": "```bash\nlaion-fmri download --subject sub-99\n```",
    "an option that does not exist": "```bash\nlaion-fmri info --everything\n```",
    "an extra that does not exist": "```bash\npip install 'laion-fmri[all]'\n```",
    "another target of make": "```bash\nmake coffee\n```",
    "Python that warns": "```python\nimport warnings\nwarnings.warn('old')\n```",
    "output that is not printed": "```bash\necho one\necho two\n```\n```text\ntwo\none\n```",
    "a language that nobody runs": "```ruby\nputs 1\n```",
    "a failure in the middle": "```bash\nfalse\ntrue\n```",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_page_that_is_wrong_is_found_out(text: str, light: SampleServer, tmp_path: Path) -> None:
    """The reader of these tests takes nothing on trust."""
    (tmp_path / "page.md").write_text(text)
    reader = Reader(tmp_path / "home", light.endpoint_url)
    *before, last = read_blocks(tmp_path / "page.md")
    for block in before:
        reader.follow(block)
    with pytest.raises(AssertionError, match=r"page\.md:"):
        reader.follow(last)


def test_blocks_that_are_left_out_say_why_and_could_be_right() -> None:
    """The reasons are known ones, the shell can read them, and the command knows the options."""
    tests = "".join(path.read_text() for path in (REPO / "tests").rglob("test_*.py"))
    for block in BLOCKS:
        if not set(block.how) & {"not run", "tested elsewhere"}:
            continue
        assert block.how.get("not run", "Docker") in NOT_RUN, block
        assert f"def {block.how.get('tested elsewhere', 'test_page_does_what_it_says')}(" in tests
        done = run(["bash", "-n", "-c", block.text])
        assert done.returncode == 0, f"{block}: {done.stderr}"
        for words in find_commands(block.text):
            make_parser().parse_args(words)


def test_every_extra_that_is_named_exists() -> None:
    """Whatever extra a page names, in a block or in its text, the package offers."""
    named = set()
    for page in [REPO / "README.md", *SITE_PAGES]:
        named |= {extra for _, extra in expand_extras(page.read_text())}
    assert {"aws", "demo", "slurm"} <= named
    assert named <= EXTRAS


def test_every_link_of_the_readme_leads_somewhere() -> None:
    """Relative links name files of a clone."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", (REPO / "README.md").read_text())
    assert links != []
    assert [link for link in links if not (REPO / link).exists()] == []


def find_blocks_of_the_readme() -> list[str]:
    """Return the text of each shell block of the README."""
    return [block.text for block in read_blocks(REPO / "README.md") if block.language == "bash"]


def test_readme_begins_with_the_demo_and_the_tests_and_then_the_three_commands() -> None:
    """The first two commands need nothing else; the next three are those of the site as well."""
    first, second = find_blocks_of_the_readme()[:2]
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["make demo", "make test"]
    of_the_site = next(read_blocks(REPO / "docs" / "index.md")).text
    assert of_the_site == second
    assert len(second.splitlines()) == 3


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_three_commands_of_the_readme_bring_a_table_of_trials(
    bucket: SampleServer, objects: dict[str, bytes], tmp_path: Path
) -> None:
    """Typed into a fresh environment, where pip finds the wheel of this tree, they do that."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path]
    subprocess.run([*pip, str(REPO)], check=True)
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    wheels = f"{tmp_path} {os.environ.get('PIP_FIND_LINKS', '')}"
    settings = {
        "PATH": f"{environment / 'bin'}:/usr/bin:/bin",
        "LAION_FMRI_ENDPOINT_URL": bucket.endpoint_url,
        "PIP_FIND_LINKS": wheels.strip(),
        "HOME": os.environ["HOME"],
        "XDG_CONFIG_HOME": os.environ["XDG_CONFIG_HOME"],
    }
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    done = subprocess.run(
        ["bash", "-euc", find_blocks_of_the_readme()[1]],
        cwd=tmp_path,
        env=kept | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    table = tmp_path / "laion_fmri_data" / TRIALS
    assert table.read_bytes() == objects[TRIALS]
    assert list(pd.read_csv(table, sep="\t")["beta_index"]) == list(range(30))


def test_five_lines_make_the_figure_of_the_first_page(light: SampleServer, tmp_path: Path) -> None:
    """Followed from an empty home, they draw what is stored beside the page."""
    blocks = list(read_blocks(REPO / "docs" / "index.md"))
    first = next(n for n, block in enumerate(blocks) if "laion-fmri[aws,load]" in block.text)
    lines = [line for block in blocks[first : first + 2] for line in block.text.splitlines()]
    assert len([line for line in lines if line]) == 5
    reader = Reader(tmp_path / "home", light.endpoint_url)
    for block in blocks[first : first + 2]:
        reader.follow(block)
    drawn = imread(tmp_path / "home" / "work" / "ffa1.png")
    stored = imread(REPO / "docs" / "images" / "ffa1.png")
    assert drawn.shape == stored.shape
    # Fonts may differ a little; one other row or column would be 0.01.
    assert abs(drawn - stored).mean() < 0.005


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as ``make docs`` does, every warning being an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    done = run(command, cwd=REPO, NO_MKDOCS_2_WARNING=1)
    assert done.returncode == 0, done.stderr
    return folder


def test_site_loads_nothing_from_elsewhere(site: Path) -> None:
    """No font, script, style or image comes from another host, and no markup is left over."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(SITE_PAGES)
    for page in pages:
        text = page.read_text()
        assert not re.search(":(?:func|class|mod):", text), page
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=[\"']?([^\"' >]+)", text)
        loaded += re.findall(r"<link[^>]*\shref=[\"']?([^\"' >]+)", text)
        assert [url for url in loaded if re.match("(?:https?:)?//", url)] == []


def test_page_of_the_command_has_every_option(site: Path) -> None:
    """Each subcommand that ``--help`` lists has its section, with each option of its own help."""
    text = re.sub("<[^>]+>", "", (site / "reference" / "command.html").read_text())
    names = re.findall(r"^ {4}([a-z]+)(?: |$)", run_command("--help").stdout, re.MULTILINE)
    assert {"config", "info", "download", "verify", "license", "snakefile", "demo"} <= set(names)
    for name in names:
        assert f"laion-fmri {name}" in text
        for option in re.findall(r"--[a-z-]+", run_command(name, "--help").stdout):
            assert option in text


def test_page_of_the_configuration_has_every_key(site: Path) -> None:
    """Each key of the configuration has its row."""
    schema = make_schema()
    rows = re.findall(
        r"<tr>\s*<td><code>(\w+)</code>", (site / "reference" / "configuration.html").read_text()
    )
    assert [row for row in rows if row in schema["properties"]] == list(schema["properties"])


def test_page_of_promises_is_the_section_of_the_readme(site: Path) -> None:
    """It is on the site, with what is not promised as well."""
    text = (site / "promises.html").read_text()
    assert "A file is complete when it has exactly the size that the bucket lists." in text
    assert "Not promised: that the content is right." in text


def test_figures_of_the_comparison_are_those_measured() -> None:
    """Each ratio is that of the case and the tool in the table of the benchmark."""
    results = (REPO / "docs" / "benchmarks" / "results.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in results.splitlines() if line[:2] == "| "]
    heading = next(row for row in rows if row[0] == "case")
    sync, s5cmd = heading.index("aws s3 sync"), heading.index("s5cmd cp")
    measured = {
        f"{row[0]}, {row[1]}": [row[sync], row[s5cmd]] for row in rows if len(row) == len(heading)
    }
    page = (REPO / "docs" / "comparison.md").read_text()
    said = re.findall(r"^\| (.+) \| (\d+\.\d+) \| (\d+\.\d+) \|$", page, re.MULTILINE)
    assert len(said) >= 5
    assert {case: ratios for case, *ratios in said} == {case: measured[case] for case, *_ in said}


@pytest.mark.parametrize("port", ["taken", "99999"])
def test_sample_bucket_that_cannot_be_served(port: str, bucket: SampleServer) -> None:
    """A port that is taken, or that cannot be, is answered with one line."""
    number = bucket.endpoint_url.rpartition(":")[2] if port == "taken" else port
    done = run_command("demo", "--serve", number)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: the sample bucket cannot be served at port {number}")


def read_notebook() -> nbformat.NotebookNode:
    """Return the notebook as it is in the repository."""
    return nbformat.read(NOTEBOOK, as_version=4)


def test_notebook_is_stored_without_outputs() -> None:
    """What it prints is made by running it, and no diff is spoilt by pictures."""
    notebook = read_notebook()
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in code] == [([], None)] * len(code)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    """With nothing set, on a sample bucket of its own, up to the picture at its end."""
    notebook = read_notebook()
    client = NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    values = [out.get("data", {}).get("text/plain", "") for out in outputs]
    assert "'30 trials of 6 images'" in values
    kinds = {kind for out in outputs for kind in out.get("data", {})}
    assert {"text/html", "image/png"} <= kinds
    assert [out for out in outputs if out.get("name") == "stderr"] == []
