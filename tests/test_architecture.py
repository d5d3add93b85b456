from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.architecture import Architecture, network_order
from nas.errors import ArchitectureError

choices = st.one_of(st.integers(0, 4).map(str), st.sampled_from(["linear", "conv-1x1"]))
groups = st.sampled_from(
    [f"{s}.{k}" for s in ("down.0", "down.1", "mid", "up.0", "up.10") for k in ("resnet", "attention")]
)


@st.composite
def architectures(draw, choice=choices) -> Architecture:
    sizes = draw(st.dictionaries(groups, st.integers(1, 12), min_size=1))
    places = sorted((f"{g}.{i}" for g, n in sizes.items() for i in range(n)), key=network_order)
    return Architecture(tuple((place, draw(choice)) for place in places))


@given(architectures())
def test_text_round_trip(architecture):
    assert Architecture.parse(str(architecture)) == architecture
    assert hash(Architecture.parse(str(architecture))) == hash(architecture)


@given(architectures(st.integers(1, 3).map(str)), st.data())
def test_remove_undoes_duplicate(architecture, data):
    place = data.draw(st.sampled_from(architecture.places))
    bigger = architecture.duplicate(place)
    assert bigger.runs(place) == architecture.runs(place) + 1
    assert bigger.remove(place) == architecture
    assert [p for p in architecture.places if bigger[p] != architecture[p]] == [place]


@given(architectures(st.integers(0, 3).map(str)))
def test_counts_removed_and_added_agree(architecture):
    total = sum(architecture.counts().values())
    assert total == len(architecture.places) - len(architecture.removed) + len(architecture.added)


@given(st.lists(architectures(), min_size=2))
def test_order_is_total(many):
    assert sorted(sorted(many, reverse=True)) == sorted(many)


def test_places_are_in_the_order_in_which_a_unet_runs_them():
    architecture = Architecture.parse(
        "up.0.resnet=1,1 mid.attention=1 mid.resnet=1,1 down.0.attention=0 down.0.resnet=2"
    )
    assert architecture.places == (
        "down.0.resnet.0",
        "down.0.attention.0",
        "mid.resnet.0",
        "mid.attention.0",
        "mid.resnet.1",
        "up.0.resnet.0",
        "up.0.resnet.1",
    )
    assert architecture.removed == ("down.0.attention.0",)
    assert architecture.added == ("down.0.resnet.0",)


@pytest.mark.parametrize("text", ["", "  ", "down.0.resnet", "down.0.resnet=", "down.0.resnet=1,,1", "down.0.conv=1",
                                  "down.0.resnet=-1", "down.0.resnet=1 down.0.resnet=1", "mid.resnet=1.5"])  # fmt: skip
def test_bad_text_is_refused(text):
    with pytest.raises(ArchitectureError):
        Architecture.parse(text)


def test_impossible_actions_are_refused():
    architecture = Architecture.parse("mid.resnet=1,0")
    with pytest.raises(ArchitectureError, match="already removed"):
        architecture.remove("mid.resnet.1")
    with pytest.raises(ArchitectureError, match="cannot be duplicated"):
        architecture.duplicate("mid.resnet.1")
    with pytest.raises(ArchitectureError, match="no place"):
        architecture.remove("mid.resnet.2")
