"""The funnel: counted like a plain model counts it, and shown as table, JSON and chart."""

from __future__ import annotations

import json
import statistics
import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_fsm.reports.funnel import Funnel, LogEntry, Stop, arrange, funnel_of, median_of
from flask_fsm.reports.svg import as_svg
from flask_fsm.reports.table import as_json, as_table
from flask_fsm.reports.text import human_time

STATES = ("cart", "address", "payment", "done")
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</text><script>alert('1')</script> & \"quotes\" \x00\x1b[31m\n\u202e\ud800]]>"


def entry(flow: str, rev: int, source: str, target: str, stayed: int | None = 10) -> LogEntry:
    return LogEntry(flow, "shop", source, target, None, 1_700_000_000 + rev, rev, stayed)


def walk(flow: str, *pages: str, first: int = 1, stayed: int | None = 10) -> list[LogEntry]:
    """The entries of a run that went through `pages`."""
    return [
        entry(flow, rev, source, target, stayed)
        for rev, (source, target) in enumerate(pairwise(pages), first)
    ]


def counted(entries: Iterable[LogEntry], states: tuple[str, ...] = STATES) -> Funnel:
    return funnel_of("shop", states, states[0], entries)


def of_page(funnel: Funnel, page: str) -> Stop:
    return next(stop for stop in funnel.stops if stop.page == page)


# -- counting -------------------------------------------------------------------------------


def test_a_funnel_says_how_many_runs_reached_and_left_each_page() -> None:
    """Three runs, of which one came to the end."""
    runs = [
        *walk("1", "cart", "address", "payment", "done"),
        *walk("2", "cart", "address", stayed=20),
        *walk("3", "cart", "address", "payment", stayed=40),
    ]
    assert counted(runs) == Funnel(
        "shop",
        3,
        (
            Stop("cart", 3, 3, {"address": 3}, 20),
            Stop("address", 3, 2, {"payment": 2}, 25),
            Stop("payment", 2, 1, {"done": 1}, 10),
            Stop("done", 1, 0, {}, None),
        ),
    )


def test_a_run_counts_once_however_often_it_came_by() -> None:
    """Loops add to the times on a page, and to nothing else."""
    funnel = counted(walk("1", "cart", "address", "cart", "address", "payment", "address"))
    assert of_page(funnel, "address") == Stop("address", 1, 1, {"cart": 1, "payment": 1}, 10)
    assert of_page(funnel, "cart") == Stop("cart", 1, 1, {"address": 1}, 10)


def test_a_page_that_was_reached_before_the_time_asked_for_counts_when_it_is_left() -> None:
    """Whoever leaves a page has been there; the initial page is not everyone's."""
    funnel = counted(walk("1", "payment", "done", first=3))
    assert [stop.reached for stop in funnel.stops] == [0, 0, 1, 1]


def test_the_first_commit_of_a_run_reaches_the_initial_page() -> None:
    """Even where its entry names another page, as after a change of the definition."""
    assert of_page(counted([entry("1", 1, "basket", "address")]), "cart").reached == 1
    assert of_page(counted([entry("1", 2, "basket", "address")]), "cart").reached == 0


def test_a_stay_that_is_not_known_has_no_part_in_the_median() -> None:
    """Pages that a run only passed are left, but were not stayed on."""
    passed = [entry("1", 1, "cart", "address", 7), entry("1", 1, "address", "payment", None)]
    funnel = counted(passed)
    assert of_page(funnel, "cart").median == 7
    assert of_page(funnel, "address") == Stop("address", 1, 1, {"payment": 1}, None)


def test_names_that_the_machine_no_longer_has_stand_behind() -> None:
    """Old names come after the states, in the order of the text."""
    funnel = counted([*walk("1", "cart", "zoo", "basket"), *walk("2", "cart", "address")])
    assert [stop.page for stop in funnel.stops] == [*STATES, "basket", "zoo"]


def test_ways_are_listed_by_the_number_of_runs_and_then_by_the_page() -> None:
    """The way that most took comes first."""
    runs = [
        *walk("1", "cart", "done"),
        *walk("2", "cart", "done"),
        *walk("3", "cart", "payment"),
        *walk("4", "cart", "address"),
    ]
    assert list(of_page(counted(runs), "cart").to) == ["done", "address", "payment"]


def test_a_funnel_without_runs_has_all_pages() -> None:
    """Nothing was reached, left, or timed."""
    assert counted([]) == Funnel("shop", 0, tuple(Stop(page, 0, 0, {}, None) for page in STATES))


def naive(states: tuple[str, ...], entries: list[LogEntry]) -> Funnel:
    """The same by asking each run about each page."""
    runs = [list(run) for _, run in groupby(entries, lambda one: one.flow)]
    ends = {page for one in entries for page in (one.source, one.target)}
    stops = []
    for page in [*states, *sorted(ends - set(states))]:
        reached = [
            any(
                page in (one.source, one.target) or (one.rev == 1 and page == states[0])
                for one in run
            )
            for run in runs
        ]
        to = {
            target: sum(any((o.source, o.target) == (page, target) for o in run) for run in runs)
            for target in ends
        }
        stays = [o.stayed for o in entries if o.source == page and o.stayed is not None]
        stops.append(
            Stop(
                page,
                sum(reached),
                sum(any(one.source == page for one in run) for run in runs),
                {target: number for target, number in to.items() if number},
                statistics.median(stays) if stays else None,
            )
        )
    return Funnel("shop", len(runs), tuple(stops))


pages = st.sampled_from([*STATES, "basket", "zoo"])
stays = st.none() | st.integers(0, 5) | st.integers(0, 10**9)


@st.composite
def histories(draw: st.DrawFn) -> list[LogEntry]:
    """Entries of up to eight runs, some of which began before."""
    entries = []
    for flow in range(draw(st.integers(0, 8))):
        steps = draw(st.lists(st.tuples(pages, pages, stays), min_size=1, max_size=8))
        first = draw(st.integers(1, 3))
        for rev, (source, target, stayed) in enumerate(steps, first):
            entries.append(entry(str(flow), rev, source, target, stayed))
    return entries


@given(histories())
def test_a_funnel_is_what_a_plain_count_says(entries: list[LogEntry]) -> None:
    """One pass over random histories finds what asking each run about each page finds."""
    assert counted(iter(entries)) == naive(STATES, entries)


@given(st.lists(st.integers(-5, 5) | st.integers(), min_size=1, max_size=30))
def test_a_median_is_that_of_the_numbers_one_by_one(numbers: list[int]) -> None:
    """The median of counted numbers is the one of the standard library."""
    times = {number: numbers.count(number) for number in numbers}
    assert median_of(times) == pytest.approx(statistics.median(numbers))


def test_nothing_has_no_median() -> None:
    """Neither no numbers nor numbers that never came."""
    assert median_of({}) is None
    assert median_of({7: 0}) is None


def test_memory_does_not_grow_with_the_number_of_runs() -> None:
    """Ten times the runs take no more memory, apart from what Python itself varies by."""

    def runs(number: int) -> Iterator[LogEntry]:
        for flow in range(number):
            yield from walk(str(flow), "cart", "address", "payment", stayed=flow % 100)

    def peak(number: int) -> int:
        tracemalloc.start()
        try:
            counted(runs(number))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    few, many = peak(1_000), peak(10_000)
    assert many < few + 20_000, (few, many)


def test_a_way_that_a_database_counted_as_none_is_left_out() -> None:
    """Entries may be removed while a database counts."""
    funnel = arrange("m", ["a", "b"], 1, {"a": 1}, {"a": 1}, {("a", "b"): 0, ("a", "a"): 1}, {})
    assert funnel.stops[0] == Stop("a", 1, 1, {"a": 1}, None)


# -- words and numbers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (0, "0 s"),
        (2.5, "2.5 s"),
        (59, "59 s"),
        (59.5, "1 min"),
        (60, "1 min"),
        (80, "1 min 20 s"),
        (3_599.4, "59 min 59 s"),
        (3_599.5, "1 h"),
        (3_600, "1 h"),
        (7_500, "2 h 5 min"),
        (86_399, "1 d"),
        (86_400, "1 d"),
        (100_000, "1 d 4 h"),
        (86_400 * 2_000, "2,000 d"),
    ],
)
def test_times_are_told_as_people_say_them(seconds: float, text: str) -> None:
    """At most two units, and none of them full."""
    assert human_time(seconds) == text


# -- showing --------------------------------------------------------------------------------

SHOP = [
    *(step for flow in range(1_000) for step in walk(f"a{flow}", "cart", "address", stayed=80)),
    *(step for flow in range(500) for step in walk(f"b{flow}", "cart", "address", "payment")),
    *walk("c", "cart", "address", "done"),
]


def test_a_table_has_aligned_columns() -> None:
    """One line for each way, numbers to the right."""
    assert as_table(counted(SHOP)) == (
        "shop: 1,501 runs\n"
        "\n"
        "page     reached         left            median  went to\n"
        "cart       1,501  100%  1,501  100%  1 min 20 s  address  1,501\n"
        "address    1,501  100%    501   33%        10 s  payment    500\n"
        "                                                 done         1\n"
        "payment      500   33%      0    0%           -  -\n"
        "done           1   <1%      0    0%           -  -"
    )


def test_a_table_is_aligned_for_wide_letters_and_shows_no_control_characters() -> None:
    """A name can't move the cursor, and Chinese letters take two columns."""
    lines = as_table(counted(walk("1", "购物车", HOSTILE), ("购物车", HOSTILE))).splitlines()
    assert len(lines) == 5
    assert not any(letter in "\x00\x1b\u202e\ud800" for line in lines for letter in line)
    # Each of the three takes two columns.
    assert lines[3].index("1  100%") == lines[4].index("1  100%") - 3


def test_a_table_of_one_run_and_of_none() -> None:
    """Numbers of runs are told in words that fit them."""
    assert as_table(counted(walk("1", "cart", "done"))).startswith("shop: 1 run\n")
    assert as_table(counted([])).startswith("shop: no runs\n")


def test_json_has_the_names_of_the_fields() -> None:
    """What a program reads is the funnel."""
    funnel = counted(SHOP)
    read = json.loads(as_json(funnel))
    assert read.keys() == {"machine", "runs", "stops"}
    assert read["stops"][1] == {
        "page": "address",
        "reached": 1501,
        "left": 501,
        "to": {"payment": 500, "done": 1},
        "median": 10.0,
    }
    stops = tuple(Stop(**stop) for stop in read["stops"])
    assert Funnel(read["machine"], read["runs"], stops) == funnel


def bars(svg: ElementTree.Element, kind: str) -> list[float]:
    """The lengths of the bars of a kind; that of the legend is the first."""
    return [
        float(bar.attrib["width"]) for bar in svg.iter(f"{SVG}rect") if bar.get("class") == kind
    ]


def test_a_chart_draws_bars_to_scale() -> None:
    """A page that half of the runs reached has half a bar, and the left are within the reached."""
    runs = [*walk("1", "cart", "address"), *walk("2", "cart", "address", "payment", "done")]
    svg = ElementTree.fromstring(as_svg(counted(runs)))
    (whole,) = set(bars(svg, "all"))
    assert bars(svg, "reached")[1:] == [whole, whole, whole / 2, whole / 2]
    assert bars(svg, "left")[1:] == [whole, whole / 2, whole / 2]


def test_a_chart_says_in_words_what_it_shows() -> None:
    """Who can't see it hears the same, under a title."""
    svg = ElementTree.fromstring(as_svg(counted(SHOP)))
    title, desc = svg.find(f"{SVG}title"), svg.find(f"{SVG}desc")
    assert title is not None and desc is not None  # noqa: PT018
    assert svg.attrib["role"] == "img"
    assert svg.attrib["aria-labelledby"] == title.attrib["id"]
    assert svg.attrib["aria-describedby"] == desc.attrib["id"]
    assert title.text == "Funnel of shop"
    assert desc.text == (
        "1,501 runs. cart: 1,501 reached it (100%), 1,501 left it (100%), median 1 min 20 s. "
        "They went: 1,501 to address. "
        "address: 1,501 reached it (100%), 501 left it (33%), 1,000 stayed, median 10 s. "
        "They went: 500 to payment, 1 to done. "
        "payment: 500 reached it (33%), 500 stayed. done: 1 reached it (<1%), 1 stayed."
    )


def test_a_chart_needs_nothing_from_elsewhere() -> None:
    """It runs no script, loads nothing, and has colours for the dark."""
    text = as_svg(counted(SHOP))
    assert text.count("http") == text.count('xmlns="http://www.w3.org/2000/svg"') == 1
    assert "url(" not in text
    assert "href" not in text
    assert "@import" not in text
    assert "prefers-color-scheme: dark" in text


@settings(max_examples=50)
@given(st.lists(st.text(min_size=1) | st.just(HOSTILE), min_size=1, max_size=6, unique=True))
def test_any_name_stays_text_in_a_chart(names: list[str]) -> None:
    """Whatever the states are called, the chart is well-formed and has no other elements."""
    funnel = counted(walk("1", *names, *names), tuple(names))
    svg = ElementTree.fromstring(as_svg(funnel._replace(machine=names[0])))
    allowed = {SVG + name for name in ("svg", "title", "desc", "style", "rect", "text")}
    assert {element.tag for element in svg.iter()} <= allowed
    for show in (as_table, as_json):
        show(funnel).encode()


@pytest.mark.parametrize("runs", [0, 1, 3])
@pytest.mark.parametrize("pages", [2, 20, 200])
def test_a_chart_holds_all_that_it_draws(pages: int, runs: int) -> None:
    """Nothing lies outside of the frame, however many pages there are."""
    names = tuple(f"a page with a name that is longer than usual, number {n}" for n in range(pages))
    entries = [step for flow in range(runs) for step in walk(str(flow), *names)]
    svg = ElementTree.fromstring(as_svg(counted(entries, names)))
    height = float(svg.attrib["height"])
    assert svg.attrib["viewBox"] == f"0 0 720 {svg.attrib['height']}"
    for element in svg:
        if "y" in element.attrib:
            bottom = float(element.attrib["y"]) + float(element.get("height", 0))
            assert 0 < bottom <= height
            assert float(element.attrib["x"]) + float(element.get("width", 0)) <= 720
