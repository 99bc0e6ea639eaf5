"""The documentation: what it tells people to type works, and what it says of the code is so.

Each page is followed from top to bottom in an empty home, the sample bucket standing for S3.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from helpers import QUICK_PIP, REPO, run, run_command
from matplotlib.image import imread
from nbclient import NotebookClient
from pages import (
    NOT_RUN,
    Reader,
    check_output,
    expand_extras,
    find_commands,
    find_pages,
    read_blocks,
)

from laion_fmri.commands.cli import make_parser
from laion_fmri.sample import SampleServer
from laion_fmri.settings import make_schema, read_config

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


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=() if p == "README.md" else pytest.mark.faults) for p in PAGES],
)
def test_page_does_what_it_says(page: str, server: SampleServer, tmp_path: Path) -> None:
    """Every block of the page, typed one after the other, works and prints what the page shows."""
    reader = Reader(tmp_path / "home", server.endpoint_url)
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
def test_page_that_is_wrong_is_found_out(text: str, server: SampleServer, tmp_path: Path) -> None:
    """The reader of these tests takes nothing on trust."""
    (tmp_path / "page.md").write_text(text)
    reader = Reader(tmp_path / "home", server.endpoint_url)
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
        if block.language != "bash":
            continue
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


class Messages(ast.NodeVisitor):
    """What a module can say: its strings, without what is filled in."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def visit_Constant(self, node: ast.Constant) -> None:
        """Note a string."""
        self.texts += [node.value] if isinstance(node.value, str) else []


def test_messages_of_the_troubleshooting_page_are_those_of_the_code() -> None:
    """Each heading that quotes one has its words, those between the dots, in one string each."""
    found = Messages()
    for module in (REPO / "laion_fmri").rglob("*.py"):
        found.visit(ast.parse(module.read_text()))
    page = (REPO / "docs" / "troubleshooting.md").read_text()
    quoted = re.findall("^### `(.+)`$", page, re.MULTILINE)
    assert len(quoted) >= 25
    words = [(part.strip(" ;:"), quote) for quote in quoted for part in quote.split("...")]
    unknown = [
        (part, quote) for part, quote in words if not any(part in text for text in found.texts)
    ]
    assert unknown == []


def test_the_glossary_has_ten_words() -> None:
    """As its title says, in the order of a reader who starts from nothing."""
    words = re.findall(r"^\*\*(.+)\*\*$", (REPO / "docs" / "glossary.md").read_text(), re.MULTILINE)
    assert len(words) == 10
    assert words[0] == "Bucket"


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
        env=kept | QUICK_PIP | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    table = tmp_path / "laion_fmri_data" / TRIALS
    assert table.read_bytes() == objects[TRIALS]
    assert list(pd.read_csv(table, sep="\t")["beta_index"]) == list(range(30))
    _, printed, code, shown, *_ = read_blocks(REPO / "docs" / "index.md")
    where = printed.text.replace("/home/me", str(tmp_path))
    check_output(printed, where, done.stdout + done.stderr)
    python = [environment / "bin" / "python", "-W", "error", "-c", code.text]
    check_output(shown, shown.text, run(python, cwd=tmp_path, PYTHONPATH="").stdout)


def test_five_lines_make_the_figure_of_the_first_page(server: SampleServer, tmp_path: Path) -> None:
    """Followed from an empty home, they draw what is stored beside the page."""
    blocks = list(read_blocks(REPO / "docs" / "index.md"))
    first = next(n for n, block in enumerate(blocks) if "laion-fmri[aws,load]" in block.text)
    lines = [line for block in blocks[first : first + 2] for line in block.text.splitlines()]
    assert len([line for line in lines if line]) == 5
    reader = Reader(tmp_path / "home", server.endpoint_url)
    for block in blocks[first : first + 2]:
        reader.follow(block)
    drawn = imread(tmp_path / "home" / "work" / "ffa1.png")
    stored = imread(REPO / "docs" / "images" / "ffa1.png")
    assert drawn.shape == stored.shape
    # Fonts may differ a little; one other row or column would be 0.01.
    assert abs(drawn - stored).mean() < 0.005


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
    """Each key of the configuration has its row, once, and no other key has one."""
    schema = make_schema()
    rows = re.findall(
        r"<tr>\s*<td><code>(\w+)</code>", (site / "reference" / "configuration.html").read_text()
    )
    assert sorted(row for row in rows if row.islower()) == sorted(schema["properties"])


def test_configuration_that_is_shown_is_one(site: Path) -> None:
    """Its reference, in the repository and on the site the same, begins with one that is valid."""
    (block,) = read_blocks(REPO / "config" / "README.md")
    settings = read_config(yaml.safe_load(block.text))
    assert (settings.subject, settings.filters["ses"]) == ("sub-03", ["ses-01", "averages"])
    text = re.sub("<[^>]+>", "", (site / "reference" / "configuration.html").read_text())
    for name in ("LAION_FMRI_OFFLINE", "XDG_STATE_HOME"):
        assert name in text


def test_page_of_promises_is_the_section_of_the_readme(site: Path) -> None:
    """It is on the site, with what is not promised as well."""
    text = (site / "promises.html").read_text()
    assert "A file is complete when it has exactly the size that the bucket lists." in text
    assert "Not promised: that the content is right." in text


#: The columns of the two tables of the comparison, as they are called where they were measured.
COMPARED = {
    "results.md": ("aws s3 sync", "s5cmd cp"),
    "peers/results.md": (
        *("aws s3 sync", "rclone copy (16)", "obstore, 16 threads"),
        *("openneuro-py (5)", "pooch, its loop (1)"),
    ),
}


@pytest.mark.parametrize(("file", "tools"), COMPARED.items(), ids=COMPARED)
def test_figures_of_the_comparison_are_those_measured(file: str, tools: tuple[str, ...]) -> None:
    """Each ratio is that of the case and the tool in the table of the benchmark."""
    results = (REPO / "docs" / "benchmarks" / file).read_text()
    rows = [line.strip("| ").split(" | ") for line in results.splitlines() if line[:2] == "| "]
    heading = next(row for row in rows if row[0] == "case")
    columns = [heading.index(tool) for tool in tools]
    measured = {
        f"{row[0]}, {row[1]}": [row[column] for column in columns]
        for row in rows
        if len(row) == len(heading)
    }
    page = (REPO / "docs" / "comparison.md").read_text()
    pattern = r"^\| ([^|]+)" + r" \| (\d+\.\d+)" * len(tools) + r" \|$"
    said = re.findall(pattern, page, re.MULTILINE)
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


def read_results(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the text of what each cell has as its result."""
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    results = [out["data"]["text/plain"] for out in outputs if out.output_type == "execute_result"]
    # Where matplotlib is not told to be quiet, a figure has an address.
    return [re.sub("0x[0-9a-f]+", "0x", text) for text in results]


def test_notebook_is_stored_with_its_outputs() -> None:
    """A reader sees them without running it: a table, the line of a download, and a picture."""
    notebook = read_notebook()
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert "'30 trials of 6 images'" in read_results(notebook)
    text = NOTEBOOK.read_text()
    assert '"image/png"' in text
    assert re.search(r"\d+ of \d+ files, [\d.]+ kB in [\d.]+ m?s", text)
    assert not re.search("/tmp/|/home/|/root/", text)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    """With nothing set, on a sample bucket of its own, up to the picture at its end."""
    notebook = read_notebook()
    stored = read_results(notebook)
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
    assert read_results(notebook) == stored
    assert not Path(os.environ["XDG_CONFIG_HOME"], "laion_fmri").exists()  # no choice is saved
