"""What the table says: medians, ratios round by round, aims, and the plot."""

import io
import json

import pytest
import typer
from rich.console import Console

from bench.__main__ import ALL, main
from bench.measure import Contender, Race, Row, figure, percentile
from bench.show import PLOT_COLUMNS, plotted, show


async def test_contenders_run_in_turns_and_each_ratio_is_of_one_round() -> None:
    order: list[str] = []

    def contender(name: str, *figures: float) -> Contender:
        left = list(figures)

        async def measured() -> float:
            order.append(name)
            return left.pop(0)

        return measured

    race = Race(
        "t",
        "a second",
        {"ours": contender("ours", 10, 40, 90), "theirs": contender("theirs", 10, 20, 30)},
        beside={"ours": "theirs"},
        aims={"ours": (">=", 2.0)},
    )

    ours, theirs = await race.run()

    assert order == ["ours", "theirs"] * 3
    assert (ours.value, ours.ratios, ours.ratio, ours.met) == (40, (1, 2, 3), 2, True)
    assert (theirs.value, theirs.ratio, theirs.met) == (20, None, None)


def test_an_aim_without_a_ratio_is_of_the_figure() -> None:
    assert figure("t", "w", "ms", [1, 2, 9], ("<=", 2.0)).met is True
    assert figure("t", "w", "ms", [1, 3, 9], ("<=", 2.0)).met is False
    assert figure("t", "w", "ms", [1]).met is None


def test_a_row_is_a_json_document() -> None:
    row = Row("t", "ours", "a second", (1.0, 2.0, 3.0), "theirs", (0.5, 1.0, 1.5), (">=", 0.95))

    document = json.loads(json.dumps(row.document()))

    assert (document["median"], document["ratio"], document["aim"], document["met"]) == (2.0, 1.0, ">= 0.95", True)


def test_a_percentile_is_one_of_the_samples() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([float(one) for one in range(100)], 0.99) == 99.0


@pytest.mark.parametrize(("ratio", "left", "right"), [(1.0, 0, 0), (100.0, 0, 20), (0.01, 20, 0), (1e9, 0, 20)])
def test_the_plot_has_one_in_the_middle_and_keeps_to_its_width(ratio: float, left: int, right: int) -> None:
    line = plotted(ratio)

    assert len(line) == PLOT_COLUMNS + 1
    assert (line[:20].count("="), line[21:].count("=")) == (left, right)
    assert line[20] == "|"


def test_the_table_names_the_peer_and_whether_the_aim_is_met() -> None:
    console = Console(record=True, width=200, file=io.StringIO())

    show([Row("t", "ours", "a second", (1.0,), "theirs", (0.5,), (">=", 0.95))], console)

    said = console.export_text()
    assert "theirs" in said
    assert "missed" in said


def test_a_trial_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(typer.BadParameter) as refused:
        main(only=["speed"])

    assert all(name in str(refused.value) for name in ALL)
