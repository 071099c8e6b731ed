"""Whom an address of many means: by tags and name, by team and role; and under which teams' rates an agent counts."""

import fnmatch
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.address import SelectorAddress
from schemas.agent import Agent
from schemas.team import Member, Team
from tests.support.builders import agent
from tests.support.ledger import agent_id
from workers.directory.selection import Selection, members, select, teams_of

PREFIX = "CANARY-"


def by_id(*agents: Agent) -> dict[str, Agent]:
    return {one.id: one for one in agents}


def chosen(agents: list[Agent], **selector: object) -> list[str]:
    return [one.name for one in selected(agents, **selector).agents]


def selected(agents: list[Agent], **selector: object) -> Selection:
    return select(agents, SelectorAddress.model_validate(selector), canary_prefix=PREFIX)


TOWN = [
    agent(1, "support-anna", "role:support", "env:prod"),
    agent(2, "support-bert", "role:support", "env:test"),
    agent(3, "sales-cleo", "role:sales", "env:prod"),
    agent(4, "Support-dora", "role:Support"),
]


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ({"tags": ["role:support"]}, ["support-anna", "support-bert"]),
        ({"tags": ["role:support", "env:prod"]}, ["support-anna"]),
        ({"tags": ["role:supp"]}, []),
        ({"tags": ["role:support", "env:none"]}, []),
        ({"name": "support-*"}, ["support-anna", "support-bert"]),
        ({"name": "s*-?le?"}, ["sales-cleo"]),
        ({"name": "support"}, []),
        ({"name": "*-*", "tags": ["env:prod"]}, ["sales-cleo", "support-anna"]),
    ],
)
def test_all_of_the_tags_and_the_name_have_to_fit(selector: dict[str, object], names: list[str]) -> None:
    assert chosen(TOWN, **selector) == names


def test_agents_of_one_name_come_in_the_order_of_their_ids() -> None:
    twins = [agent(2, "twin"), agent(3, "alma"), agent(1, "twin")]

    assert [one.id for one in selected(twins, name="*").agents] == [agent_id(3), agent_id(1), agent_id(2)]


def test_canary_copies_are_left_out_and_named_unless_they_are_asked_for() -> None:
    town = [agent(1, "anna", "x"), agent(2, "CANARY-anna", "x"), agent(3, "CANARY-bert"), agent(4, "canary-carl", "x")]

    found = selected(town, tags=["x"])
    assert [one.name for one in found.agents] == ["anna", "canary-carl"]
    assert [one.name for one in found.canaries] == ["CANARY-anna"]
    asked = selected(town, tags=["x"], canaries=True)
    assert [one.name for one in asked.agents] == ["CANARY-anna", "anna", "canary-carl"]
    assert asked.canaries == ()


def test_without_a_prefix_nobody_is_a_canary() -> None:
    found = select(TOWN, SelectorAddress(name="*"), canary_prefix="")

    assert (len(found.agents), found.canaries) == (4, ())


def test_an_imported_copy_is_noticed_and_not_left_out() -> None:
    town = [agent(1, "anna", "x"), agent(2, "anna_copy", "x"), agent(3, "anna_copy_copy", "x"), agent(4, "bert_copy")]

    found = selected(town, tags=["x"])
    assert [one.name for one in found.agents] == ["anna", "anna_copy", "anna_copy_copy"]
    assert [(copy.name, original.name) for copy, original in found.copies] == [
        ("anna_copy", "anna"),
        ("anna_copy_copy", "anna"),
    ]


def test_a_copy_is_noticed_where_only_the_copy_is_selected() -> None:
    found = selected([agent(1, "anna"), agent(2, "anna_copy_copy", "x")], tags=["x"])

    assert [(copy.name, original.name) for copy, original in found.copies] == [("anna_copy_copy", "anna")]


def test_a_copy_between_stands_in_for_an_original_that_is_gone() -> None:
    found = selected([agent(1, "anna_copy"), agent(2, "anna_copy_copy")], name="*")

    assert [(copy.name, original.name) for copy, original in found.copies] == [("anna_copy_copy", "anna_copy")]


def test_a_name_that_is_all_suffix_ends() -> None:
    assert selected([agent(1, "_copy"), agent(2, "_copy_copy")], name="*").copies != ()


LISTED = Team(
    name="editorial",
    members=(
        Member(agent=agent_id(2), name="bert", role="editor"),
        Member(agent=agent_id(9), name="gone", role="editor"),
        Member(agent=agent_id(1), name="anna"),
    ),
)


def test_a_team_that_lists_its_members_has_them_in_that_order_and_the_deleted_ones_too() -> None:
    assert members(LISTED, "editorial", by_id(*TOWN), None) == (agent_id(2), agent_id(9), agent_id(1))


def test_a_listed_role_counts_and_else_the_agents_tag() -> None:
    town = by_id(agent(1, "anna", "role:editor"), agent(2, "bert", "role:writer"))

    assert members(LISTED, "editorial", town, "editor") == (agent_id(2), agent_id(9), agent_id(1))
    assert members(LISTED, "editorial", town, "writer") == ()


def test_a_team_by_tags_has_who_carries_all_of_them() -> None:
    team = Team(name="support", tags=("role:support", "env:prod"))

    assert members(team, "support", by_id(*TOWN), None) == (agent_id(1),)
    assert members(team, "support", by_id(*TOWN), "support") == (agent_id(1),)
    assert members(team, "support", by_id(*TOWN), "lead") == ()


def test_an_unregistered_name_means_the_agents_tag() -> None:
    town = by_id(
        agent(2, "bert", "team:press", "role:lead"), agent(1, "anna", "team:press"), agent(3, "c", "team:pres")
    )

    assert members(None, "press", town, None) == (agent_id(1), agent_id(2))
    assert members(None, "press", town, "lead") == (agent_id(2),)
    assert members(None, "nobody", town, None) == ()


def test_a_registered_name_means_the_register_alone() -> None:
    town = by_id(agent(7, "greta", "team:editorial"))

    assert agent_id(7) not in members(LISTED, "editorial", town, None)


def test_an_agent_counts_under_each_of_its_teams_once() -> None:
    teams = {
        "editorial": LISTED,
        "prod": Team(name="prod", tags=("env:prod",)),
        "press": Team(name="press", members=(Member(agent=agent_id(1), name="anna"),)),
        "empty": Team(name="empty"),
    }
    anna = agent(1, "anna", "team:press", "team:a,b", "env:prod")

    assert teams_of(anna, teams) == ("press", "a b", "editorial", "prod")
    assert teams_of(agent(5, "emil"), teams) == ()


def test_thousands_of_agents_in_many_teams_are_a_matter_of_milliseconds() -> None:
    """Generous: the machine may be busy. A scan of every list would take a hundred times as long."""
    agents = [agent(number, f"agent-{number}", "env:prod", "role:support") for number in range(5_000)]
    teams = {
        f"team-{number}": Team(
            name=f"team-{number}",
            members=tuple(Member(agent=agent_id(number * 50 + one), name="x") for one in range(50)),
        )
        for number in range(20)
    }
    began = time.process_time()
    counted = sum(len(teams_of(one, teams)) for one in agents)

    assert counted == 1_000
    assert time.process_time() - began < 0.5


letters = st.text(alphabet="ab-*?", min_size=1, max_size=4)
tags = st.lists(st.sampled_from(["role:x", "env:y", "user:1", "team:t", "team:u"]), max_size=4).map(tuple)
names = st.builds(
    lambda prefix, name, copies: prefix + name + "_copy" * copies,
    st.sampled_from(["", PREFIX]),
    letters,
    st.integers(0, 2),
)
towns = st.lists(st.tuples(names, tags), max_size=12).map(
    lambda rows: [agent(number, name, *tags) for number, (name, tags) in enumerate(rows, 1)]
)


@given(town=towns, wanted=tags, pattern=st.none() | letters, canaries=st.booleans())
def test_a_selection_is_those_that_fit_each_in_exactly_one_place(
    *, town: list[Agent], wanted: tuple[str, ...], pattern: str | None, canaries: bool
) -> None:
    if not wanted and pattern is None:
        pattern = "*"
    found = selected(town, tags=wanted, name=pattern, canaries=canaries)

    fitting = {one.id for one in town if set(wanted) <= set(one.tags) and fnmatch.fnmatchcase(one.name, pattern or "*")}
    placed = [one.id for one in (*found.agents, *found.canaries)]
    assert sorted(placed) == sorted(fitting)
    assert all(one.name.startswith(PREFIX) and not canaries for one in found.canaries)
    assert canaries or not any(one.name.startswith(PREFIX) for one in found.agents)
    for copy, original in found.copies:
        assert copy in found.agents
        assert copy.id != original.id
        assert copy.name.startswith(original.name + "_copy")


@given(town=towns)
def test_who_is_in_a_team_counts_under_it(town: list[Agent]) -> None:
    agents = by_id(*town)
    teams = {"t2": Team(name="t2", tags=("role:x", "env:y")), "l": Team(name="l", members=LISTED.members)}
    for name in ("t", "u", "t2", "l"):
        inside = set(members(teams.get(name), name, agents, None)) & set(agents)
        assert inside == {one.id for one in town if name in teams_of(one, teams)}


def test_a_canary_copy_is_in_no_team_by_tags() -> None:
    """It carries its original's tags; whoever lists it by hand means it."""
    copy = Agent(id=agent_id(8), name="CANARY-a", tags=("tenant:acme", "team:press"))
    town = by_id(*TOWN, copy)
    assert agent_id(8) in members(None, "press", town, None)
    assert agent_id(8) not in members(None, "press", town, None, canary_prefix="CANARY-")
    listed = Team(name="t", members=(Member(agent=agent_id(8), name="CANARY-a"),))
    assert members(listed, "t", town, None, canary_prefix="CANARY-") == (agent_id(8),)
