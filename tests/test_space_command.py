from __future__ import annotations

import json
import os
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from budgetnas.architecture import Architecture, count
from budgetnas.architecture.budget import QUANTITIES, Budget
from budgetnas.cli import app
from budgetnas.cli.space import percent
from budgetnas.data import DataRequest, load_data
from budgetnas.data.request import NAMED_SETS
from budgetnas.searching.options import SearchOptions
from budgetnas.space.search_space import DEFAULT_DEPTHS, DEFAULT_WIDTHS, InputShape, SearchSpace
from budgetnas.space.shape import NAMED_SHAPES, data_shape


@pytest.fixture(autouse=True)
def in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BUDGETNAS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BUDGETNAS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert app.main(list(arguments)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def value(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    return json.loads(printed(capsys, *arguments, "--json"))


def test_space_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = value(capsys, "space", "--budget", "5e6")
    assert found["networks"] == 1_886_500_000
    assert (found["budget"], found["max_macs"], found["max_activations"]) == (5_000_000, None, None)
    share = found["share"]
    assert (share["fits"], share["of"], share["how"]) == (788_816_233, 1_886_500_000, "counted")
    assert share["low"] == share["share"] == share["high"] == pytest.approx(0.478, abs=1e-3)
    for name, params in (("smallest", 4_034), ("largest_fitting", 5_000_000), ("largest", 171_951_754)):
        assert (found[name]["params"], found[name]["certain"]) == (params, True)
        assert count(Architecture.from_dict(found[name]["architecture"])).params == params
    assert [one["name"] for one in found["parameters"]][:4] == ["stages", "se", "blocks_1", "width_1"]
    values = [[one["value"] for one in parameter["values"]] for parameter in found["parameters"][:4]]
    assert values == [[3, 4], [False, True], list(DEFAULT_DEPTHS), list(DEFAULT_WIDTHS)]
    assert isinstance(values[1][0], bool)
    assert {one["name"]: (one["held"], one["fits"], one["left"]) for one in found["seeds"]} == {
        "v1": (True, True, {"params": 96_758}),
        "v2": (True, True, {"params": 3_108_342}),
    }
    assert found["suggestion"]["widths_dropped"] == [384, 448]


def test_space_with_further_limits_from_a_study_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(
        'budget = "60k"\nmax_macs = "2M"\ndata = "digits"\nseeds = []\n[space]\nblocks = [[1, 2], [1, 3]]\n'
    )
    found = value(capsys, "space", "s.toml")
    assert (found["budget"], found["max_macs"], found["max_activations"]) == (60_000, 2_000_000, None)
    assert found["inputs"] == {"in_channels": 1, "size": 8, "classes": 10}
    assert found["share"]["of"] == found["networks"] == 2 * 25 * 3 * 25
    assert [one["seeds"] for one in found["seeds"]] == [[], []]
    fragment = SearchOptions.parse(tomllib.loads(found["suggestion"]["toml"]))
    assert fragment.space == SearchSpace.model_validate(found["suggestion"]["space"])
    other = value(capsys, "space", "s.toml", "--max-macs", "3M", "--size", "16", "--classes", "4", "--in-channels", "3")
    assert other["max_macs"] == 3_000_000
    assert other["inputs"] == {"in_channels": 3, "size": 16, "classes": 4}


def test_a_suggested_fragment_is_a_study_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first = value(capsys, "space", "--budget", "50k")
    (tmp_path / "narrow.toml").write_text(first["suggestion"]["toml"])
    again = value(capsys, "space", "narrow.toml", "--budget", "50k")
    assert again["share"] == first["suggestion"]["share"]
    assert again["share"]["share"] > 15 * first["share"]["share"]


def test_space_says_what_was_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("[space]\nblocks = [[1, 40], [1, 40], [1, 40], [1, 40]]\n")
    arguments = ("space", "s.toml", "--budget", "5M", "--max-macs", "300M")
    out = printed(capsys, *arguments)
    for text in (
        "of 200,000 drawn, 95 % interval",
        "largest that fits, of those drawn",
        "single values is up to",
    ):
        assert text in out
    first, again, other = (value(capsys, *arguments, "--seed", seed)["share"] for seed in ("0", "0", "1"))
    assert first == again
    assert first["fits"] != other["fits"]
    assert first["how"] == "drawn"
    assert first["low"] < first["share"] < first["high"]


def test_space_prints_a_table_that_says_never(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "space", "--budget", "50k")
    for text in (
        "1,886,500,000 networks of 3 or 4 stages of 1 to 9 basic blocks, squeeze-and-excitation on or off;",
        "0.73% of evenly drawn proposals from the space fit (1 in 138): all networks counted, 3,545,192 of",
        "number of stages",
        "56 to 512",
        "never",
        "4,853,242 too many",
    ):
        assert text in out
    assert "widths = [8, 10, 12, 14, 16, 20, 24, 28, 32, 40]" in out


def test_long_tables_are_truncated(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(f"[space]\nblocks = [[1, 2]]\nwidths = {[*range(1, 62)]}\n")
    out = printed(capsys, "space", "s.toml", "--budget", "20k")
    assert "1 to 3 " in out
    assert len(out.splitlines()) < 60


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0.0%"), (1.0, "100.0%"), (0.99999, "over 99.9%"), (0.63, "63.0%"), (0.00854, "0.85%"), (1e-7, "1e-05%")],
)
def test_shares_in_words(share: float, text: str) -> None:
    assert percent(share) == text


def test_the_shapes_of_named_sets() -> None:
    assert set(NAMED_SHAPES) == set(NAMED_SETS)
    data = load_data(DataRequest("digits"))
    assert NAMED_SHAPES["digits"] == InputShape(
        in_channels=data.in_channels, size=data.resolution, classes=len(data.classes)
    )
    assert data_shape(DataRequest("digits", resolution=12))[0].size == 12
    assert data_shape(DataRequest("digits", resolution=12), size=10)[0].size == 10


def images_in(folder: Path, sides: dict[str, int]) -> None:
    for name, side in sides.items():
        (folder / name).mkdir(parents=True)
        for index in range(5):
            Image.new("L", (side + index % 2, side), index).save(folder / name / f"{index}.png")


def test_the_shape_of_a_folder_is_that_of_a_search(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    images_in(tmp_path / "photos" / "train", {"a": 12, "b": 12, "c": 16})
    request = DataRequest("folder:photos")
    shape, told = data_shape(request)
    data = load_data(request)
    assert shape == InputShape(in_channels=data.in_channels, size=data.resolution, classes=len(data.classes))
    assert "headers" in told
    assert shape == InputShape(in_channels=3, size=12, classes=3)
    out = printed(capsys, "space", "--budget", "60k", "--data", "folder:photos")
    assert "3x12x12 images, 3 classes (folder:photos, side from the headers" in out


def test_a_folder_need_not_be_there_if_its_shape_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--data", "folder:elsewhere", "--size", "24", "--classes", "7")
    found = value(capsys, "space", "--budget", "60k", *given)
    assert found["inputs"] == {"in_channels": 3, "size": 24, "classes": 7}
    assert "not read" in found["data"]


def test_fit_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = value(capsys, "fit", "resnet18", "--budget", "5e6")
    assert isinstance(found, list)
    for one in found:
        network = Architecture.from_dict(one["architecture"])
        assert tuple(one[quantity] for quantity in QUANTITIES) == count(network)
        assert Budget(5_000_000).fits(network)
        assert one["params_saved"] == 11_173_962 - one["params"]
        assert one["macs_kept"] == one["macs"] / 555_422_720
    assert found[0]["edits"] == [
        {"edit": "narrow", "stage": 4, "to": 240, "text": "narrow stage 4 from 512 to 240"},
    ]
    assert [one["name"] for one in found if one["name"]] == ["v2", "v1"]
    two = value(capsys, "fit", "resnet18", "--budget", "5e6", "--top", "1")
    assert [one["name"] for one in two] == [None, "v2", "v1"]


def test_fit_prints_what_v1_and_v2_keep(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "fit", "resnet18", "--budget", "5e6").splitlines()
    v1, v2 = (next(line for line in lines if f" {name} " in line) for name in ("v1", "v2"))
    for line, texts in ((v1, ("4,903,242", "6,270,720", "45.6%")), (v2, ("1,891,658", "9,282,304", "60.4%"))):
        assert all(text in line for text in texts)


def test_fit_says_that_a_network_fits(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "fit", "v2", "--budget", "5e6")
    assert out == "v2 already fits: 1,891,658 of 5,000,000 parameters, 3,108,342 to spare\n"
    (one,) = value(capsys, "fit", "v2", "--budget", "5e6")
    assert (one["edits"], one["params_saved"], one["macs_kept"]) == ([], 0, 1.0)


def test_fit_of_a_described_network_within_three_limits(capsys: pytest.CaptureFixture[str]) -> None:
    described = ("--blocks", "3,3,3", "--widths", "96,192,384", "--stem-width", "32", "--block", "bottleneck")
    limits = ("--budget", "2M", "--max-macs", "300M", "--max-activations", "2M")
    found = value(capsys, "fit", *described, *limits, "--classes", "100", "--size", "28", "--in-channels", "1")
    for one in found:
        network = Architecture.from_dict(one["architecture"])
        assert Budget(2_000_000, 300_000_000, 2_000_000).fits(network)
        assert (network.classes, network.size, network.in_channels, network.block) == (100, 28, 1, "bottleneck")


def test_the_page_shows_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Each shell block of docs/space.md that a block of text follows: its lines, but for what is left out, in order."""
    page = (Path(__file__).resolve().parent.parent / "docs" / "space.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```sh\nbudgetnas ([^\n]*)\n```\n+```text\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    assert len(shown) >= 3
    for command, text in shown:
        lines = iter([line.rstrip() for line in printed(capsys, *shlex.split(command)).splitlines()])
        for line in text.splitlines():
            assert line == "..." or line in lines, f"{command}: {line}"
