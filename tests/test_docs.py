"""The documentation against the program: what it shows must exist, and what exists must be shown."""

from __future__ import annotations

import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from packaging.requirements import Requirement
from sqlalchemy import create_engine, text

from budgetnas import errors
from budgetnas.architecture import NAMES, count, named
from budgetnas.cli import app as cli
from budgetnas.cli.usage import USAGE_ERROR
from budgetnas.experiments.published import recorded_runs
from budgetnas.searching.options import SearchOptions
from budgetnas.space.presets import shipped_studies
from budgetnas.space.recipe import Augmentation, RecipeSpace
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.storage import Role, State, tables

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
REFERENCE = ROOT / "docs" / "commands.md"
COMMANDS: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
ROOT_OPTIONS = ("--version", "--help", "-h", "--install-completion", "--show-completion")
OUR_FILE = re.compile(r"(?:budgetnas|benchmarks|studies|tests|docs|\.ci)/[\w./-]*\w/?")


@dataclass(frozen=True)
class Fence:
    """A fenced block: its language, its lines, and where it stands."""

    page: Path
    line: int
    language: str
    lines: tuple[str, ...]

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def fences(page: Path) -> Iterator[Fence]:
    opened: tuple[int, str, list[str]] | None = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.startswith("```"):
            if opened is not None:
                opened[2].append(line)
        elif opened is None:
            opened = (number, line[3:].strip(), [])
        else:
            yield Fence(page, opened[0], opened[1], tuple(opened[2]))
            opened = None
    assert opened is None, f"{page}: a fenced block is not closed"


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def inline_code(page: Path) -> list[str]:
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


def shell_lines() -> list[tuple[str, str]]:
    """Where each line of a shell block stands, and the line."""
    found = []
    for page in PAGES:
        for fence in fences(page):
            if fence.language in ("sh", "bash", "console", "shell"):
                joined = "\n".join(fence.lines).replace("\\\n", " ")
                found += [(fence.where, line.removeprefix("$ ")) for line in joined.splitlines() if line.strip()]
    return found


def arguments_of(line: str) -> list[str] | None:
    """The arguments of a line that runs budgetnas, else nothing."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    return words[1:] if words and Path(words[0]).name == "budgetnas" else None


SHOWN = [(where, words) for where, line in shell_lines() if (words := arguments_of(line)) is not None]


def sections(page: Path) -> dict[str, str]:
    parts = re.split(r"^## (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def option_rows(section: str) -> dict[str, tuple[str, str]]:
    """Each documented option with its default and its meaning."""
    rows = re.findall(r"^\| `(--[\w-]+)` \| (.*?) ?\| (.*) \|$", section, flags=re.MULTILINE)
    return {option: (default.strip(), meaning) for option, default, meaning in rows}


def options_of(command: Any) -> dict[str, Any]:
    return {option: one for one in command.params for option in one.opts if option.startswith("-")}


def slug(heading: str) -> str:
    kept = re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower())
    return kept.replace(" ", "-")


def check_shown(words: list[str]) -> None:
    """Parse as the program would, without running anything."""
    if not words or words[0].startswith("-"):
        assert words in ([], *([option] for option in ROOT_OPTIONS)), words
        return
    assert words[0] in COMMANDS, f"no command {words[0]!r}"
    context = COMMANDS[words[0]].make_context(words[0], list(words[1:]))
    values = context.params
    if words[0] == "count":
        assert set(values["names"] or ()) <= set(NAMES), words
    if words[0] == "replay":
        assert set(values["names"] or ()) <= set(recorded_runs()), words
    if words[0] == "search" and (study := values["study_file"]) and "/" not in study and not study.endswith(".toml"):
        assert study in shipped_studies(), words


def test_pages_and_commands_are_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= {page.name for page in PAGES}
    assert {words[0] for _, words in SHOWN if words} - {*ROOT_OPTIONS} == set(COMMANDS), (
        "each command is shown somewhere"
    )


@pytest.mark.parametrize(("where", "words"), SHOWN, ids=[f"{where} {' '.join(words)}" for where, words in SHOWN])
def test_a_shown_command_parses(where: str, words: list[str]) -> None:
    check_shown(words)


@pytest.mark.parametrize(
    "line",
    [
        "budgetnas prune v2",
        "budgetnas search --budjet 5e6",
        "budgetnas search --trials many",
        "budgetnas search digits-dmo",
        "budgetnas replay v3-sgd",
        "budgetnas count resnet19",
        "budgetnas show",
    ],
)
def test_a_wrong_command_would_be_noticed(line: str) -> None:
    words = arguments_of(line)
    assert words is not None
    with pytest.raises(Exception, match=r".") as caught:
        check_shown(words)
    assert isinstance(caught.value, AssertionError | USAGE_ERROR)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_named_in_the_text_exist(page: Path) -> None:
    for span in inline_code(page):
        words = span.split()
        if words[0] != "budgetnas" or len(words) == 1:
            continue
        if words[1].startswith("-"):
            assert words[1] in ROOT_OPTIONS, span
            continue
        assert words[1] in COMMANDS, f"{span}: no such command"
        known = {*options_of(COMMANDS[words[1]]), "--help", "-h"}
        assert {word for word in words[2:] if word.startswith("-")} <= known, span


def benchmark(name: str) -> Any:
    app = typer.Typer()
    app.command()(importlib.import_module(f"benchmarks.{name}").measure)
    return typer.main.get_command(app)


BENCHMARKS = {
    name: benchmark(name)
    for name in (
        "counting",
        "end_to_end",
        "gate",
        "ladder",
        "learning",
        "long_training",
        "onnx",
        "overhead",
        "precisions",
        "predictions",
        "proposals",
        "quality",
        "ranking",
        "recipes",
        "rounding",
        "samplers",
        "search",
        "selection",
        "studies",
        "workers",
    )
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_benchmarks_named_in_the_text_take_these_options(page: Path) -> None:
    for name, arguments in re.findall(r"python -m benchmarks\.(\w+)([^`\n]*)", page.read_text(encoding="utf-8")):
        assert name in BENCHMARKS, name
        words = shlex.split(arguments.replace("folder:...", "digits"))
        BENCHMARKS[name].make_context(name, words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_named_in_the_text_exist(page: Path) -> None:
    commands = [*COMMANDS.values(), *BENCHMARKS.values()]
    everywhere = {option for command in commands for option in options_of(command)}
    everywhere |= {*ROOT_OPTIONS, "--dry-run"}  # the last of benchmarks/gpu
    named_here = {word for span in inline_code(page) for word in re.findall(r"(?<!\S)--[a-z][\w-]*", span)}
    assert named_here <= everywhere, f"no command has {', '.join(sorted(named_here - everywhere))}"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_reference_has_exactly_the_options_of_a_command(name: str) -> None:
    assert name in sections(REFERENCE), f"docs/commands.md has no section for {name}"
    section = sections(REFERENCE)[name]
    rows, options = option_rows(section), options_of(COMMANDS[name])
    assert set(rows) == set(options)
    assert f"budgetnas {name}" in section, "an example"
    for option, parameter in options.items():
        default, meaning = rows[option]
        if parameter.envvar:
            assert f"`{parameter.envvar}`" in meaning, option
        if isinstance(parameter.show_default, str):
            assert default == f"`{parameter.show_default}`", option
        elif parameter.default not in (None, False):
            assert default == f"`{parameter.default}`", option


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"`budgetnas {name}`" in readme, name
        assert f"(docs/commands.md#{name})" in readme, name


def test_the_exit_codes_are_those_of_the_program() -> None:
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    section = sections(REFERENCE)["Exit codes"]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", section, flags=re.MULTILINE)} == codes


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RANGES = {
    requirement.name.lower(): requirement.specifier
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for requirement in map(Requirement, group)
}


def test_the_tested_versions_are_within_the_ranges() -> None:
    pins = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    tested = {name.lower(): version for name, version in pins}
    direct = {name: ranges for name, ranges in RANGES.items() if name != PROJECT["name"]}
    assert direct.keys() <= tested.keys()
    for name, ranges in direct.items():
        assert tested[name] in ranges, f"{name} {tested[name]} is tested, but not {ranges}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_needed_versions_named_in_the_text_are_the_lower_bounds(page: Path) -> None:
    """Sentences such as "needs torch 2.10 with torchvision 0.25, or newer"."""
    for sentence in re.findall(r"\bneeds? ([^.|]*?\d[^|]*?),? or\snewer", prose(page)):
        for name, version in re.findall(r"([A-Za-z]+)\s(\d+(?:\.\d+)+)", sentence):
            bound = PROJECT["requires-python"] if name == "Python" else str(RANGES[name.lower()])
            assert bound == f">={version}", f"{page.name}: {name} {version}, but pyproject.toml has {bound}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.is_file(), f"{page.name}: {target} leads nowhere"
        assert there.is_relative_to(ROOT), f"{page.name}: {target} leads out of the project"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in map(slug, headings), f"{page.name}: {target} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_modules_that_are_named_exist(page: Path) -> None:
    spans = inline_code(page) + [line for fence in fences(page) for line in fence.lines]
    for span in spans:
        for word in span.split():
            if OUR_FILE.fullmatch(word):
                assert (ROOT / word).exists(), f"{page.name}: {word} does not exist"
            if re.fullmatch(r"(Makefile|LICENSE|[\w-]+\.(toml|md|txt))", word) and "/" not in word and span == word:
                assert any(ROOT.glob(word)), f"{page.name}: {word} does not exist"
        for module in re.findall(r"python -m ((?:budgetnas|benchmarks)[\w.]*)", span):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), f"{page.name}: {module}"


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
        waiting += [
            (page.parent / link.partition("#")[0]).resolve()
            for link in links
            if not re.match(r"[a-z]+:", link) and link[0] != "#"
        ]
    assert set(PAGES) <= reached


def test_decisions_are_numbered_without_gaps() -> None:
    names = sorted(page.name for page in (ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    for name in names:
        text_of = (ROOT / "docs" / "decisions" / name).read_text(encoding="utf-8")
        assert text_of.startswith(f"# {name[:4]}: ")
        assert {"Context", "Decision", "Why", "Consequences"} <= set(sections(ROOT / "docs" / "decisions" / name))


def test_the_test_files_for_the_lowest_versions_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (names,) = re.findall(r"\$\(patsubst %,tests/test_%\.py,([^)]+)\)", makefile)
    assert len(names.split()) > 20
    for name in names.split():
        assert (ROOT / "tests" / f"test_{name}.py").is_file(), name


def test_make_targets_that_are_shown_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    shown = {line.split()[1] for _, line in shell_lines() if line.startswith("make ")}
    shown |= {span.split()[1] for page in PAGES for span in inline_code(page) if re.fullmatch(r"make [\w-]+", span)}
    assert {"demo", "test"} <= shown <= targets


@pytest.mark.parametrize("name", NAMES)
def test_the_counts_of_the_named_networks(name: str) -> None:
    network = named(name)
    lists = (",".join(map(str, one)) for one in (network.blocks, network.widths))
    row = " | ".join((name, network.block, *lists, *(f"{one:,}" for one in count(network))))
    assert f"| {row} |" in (ROOT / "docs" / "counting.md").read_text(encoding="utf-8")


def test_the_recorded_runs() -> None:
    replays = (ROOT / "docs" / "replays.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| (\d+) \| (\d+) \| (\S+) \| (\S+) \|$", replays, flags=re.MULTILINE)
    assert rows == [
        (
            run.name,
            str(run.recipe.epochs),
            str(run.recipe.t_max),
            *("-" if one is None else f"{one:.2f}" for one in (run.printed_train, run.printed_test)),
        )
        for run in recorded_runs().values()
    ]


def test_the_keys_of_study_files() -> None:
    page = ROOT / "docs" / "studies.md"
    spans = set(inline_code(page))
    for model in (SearchOptions, SearchSpace, RecipeSpace, Augmentation):
        missing = set(model.model_fields) - spans
        assert not missing, f"docs/studies.md does not mention {', '.join(sorted(missing))}"


def test_the_facts_about_the_default_space() -> None:
    space, studies = SearchSpace(), (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    smallest = count(space.smallest(InputShape(in_channels=3, size=32, classes=10))).params
    assert f"{space.size():,} architectures" in studies
    assert f"from {smallest:,} parameters" in studies


def test_study_files_that_are_shown_can_be_used() -> None:
    shown = [fence for page in PAGES for fence in fences(page) if fence.language == "toml"]
    assert shown
    for fence in shown:
        SearchOptions.parse(tomllib.loads("\n".join(fence.lines)))


def test_the_tables_roles_and_states() -> None:
    page = ROOT / "docs" / "records.md"
    spans = set(inline_code(page))
    assert {*tables.metadata.tables, *Role, *State} <= spans


def test_the_queries_run(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'empty.db'}")
    tables.metadata.create_all(engine)
    queries = [fence for page in PAGES for fence in fences(page) if fence.language == "sql"]
    assert queries
    with engine.connect() as connection:
        for fence in queries:
            assert connection.execute(text("\n".join(fence.lines))).all() == [], fence.where
    engine.dispose()


def test_python_that_is_shown_compiles() -> None:
    for page in PAGES:
        for fence in fences(page):
            if fence.language == "python":
                compile("\n".join(fence.lines), fence.where, "exec")
