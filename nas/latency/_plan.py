"""What there is to measure for a table: every distinct signature once, the base, and whole networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from nas.architecture import Architecture, Block
from nas.errors import DeviceError
from nas.latency._amounts import bundle_size_of, is_built_as_a_whole
from nas.latency._bundles import Subject, bundle, row_of_bundle
from nas.latency._random_networks import distinct_architectures, random_network, require_count
from nas.latency._row import Row
from nas.search_space import SearchSpace
from nas.unet import block_inputs, make_block, make_shortcut
from nas.workload import Workload

T = TypeVar("T")

BASE = "base"
_SEED_OF_WHOLES = 20_231


@dataclass(frozen=True)
class Plan:
    """What there is to measure for a table, by name.

    Attributes:
        subjects: what makes each module with its inputs; the base and the whole networks first, then the rows, whose
            names are their signatures, with the held-out networks evenly among them.
        wholes: the whole networks' architectures, by the same names.
        held_out: those of networks that the table is to be held against and otherwise knows nothing of.
        bundles: how many blocks are in the bundle beside a row, by the row's name; see `_bundles`.
    """

    subjects: dict[str, Callable[[], Subject]]
    wholes: dict[str, Architecture]
    held_out: dict[str, Architecture]
    bundles: dict[str, int]

    @classmethod
    def of(
        cls,
        space: SearchSpace,
        workload: Workload,
        *,
        home: str,
        copies: bool,
        whole_networks: int,
        held_out: int = 0,
        seed: int = 0,
        bundle_mb: float = 0.0,
    ) -> Plan:
        """All distinct signatures of a space, its base, and a few whole networks unless they are too large.

        Args:
            space: the space.
            workload: the workload.
            home: torch device on which modules are made.
            copies: also what copies of blocks cost.
            whole_networks: how many are measured end to end, the full one first; none of models above 4 GiB.
            held_out: how many others, of models of any size.
            seed: of those.
            bundle_mb: see `Device.bundle_mb`.

        Raises:
            TableError: a number of networks is none.
        """
        require_count("held_out", held_out)
        wholes = _by_name(_wholes(space, workload, whole_networks))
        others = _by_name(distinct_architectures(space, held_out, seed, besides=wholes.values()))

        def networks(named: Mapping[str, Architecture]) -> dict[str, Callable[[], Subject]]:
            return {name: partial(random_network, space, found, workload, home) for name, found in named.items()}

        rows = dict(_rows(space, workload, copies=copies))
        bundles = {name: _bundle_size(make, workload, bundle_mb) for name, make in rows.items()} if bundle_mb else {}
        bundles = {name: size for name, size in bundles.items() if size > 1}
        together = {_together(name): partial(bundle, rows[name], size) for name, size in bundles.items()}
        first = networks({BASE: space.empty, **wholes})
        among = evenly_among(networks(others), {**rows, **together})
        return cls({**first, **among}, wholes, others, bundles)

    @property
    def networks(self) -> set[str]:
        """Base, wholes and held-out run alone, as they do in a pipeline: one instance, its weights where they are."""
        return {*self.twice, *self.held_out}

    @property
    def twice(self) -> set[str]:
        """Base and wholes are measured twice as often as all else: every prediction depends on them."""
        return {BASE, *self.wholes}


@dataclass(frozen=True)
class Built:
    """What was measured.

    Attributes:
        rows: signature -> row.
        base: the network with every removable block skipped.
        wholes: networks measured end to end, by architecture; none where they are too large to be built as a whole.
        held_out: likewise, those that the table is to be held against.
    """

    rows: dict[str, Row]
    base: Row
    wholes: dict[Architecture, Row]
    held_out: dict[Architecture, Row]

    @classmethod
    def of(
        cls,
        measured: Mapping[str, Row],
        *,
        wholes: Mapping[str, Architecture],
        held_out: Mapping[str, Architecture],
        bundles: Mapping[str, int],
    ) -> Built:
        """From what was measured by the names of a plan, and that plan's `wholes`, `held_out` and `bundles`."""
        others = {BASE, *wholes, *held_out, *map(_together, bundles)}
        rows = {name: row for name, row in measured.items() if name not in others}
        for name, size in bundles.items():
            rows[name] = row_of_bundle(rows[name], measured[_together(name)], size)

        def networks(named: Mapping[str, Architecture]) -> dict[Architecture, Row]:
            return {architecture: measured[name] for name, architecture in named.items()}

        return cls(rows, measured[BASE], networks(wholes), networks(held_out))


def evenly_among(few: Mapping[str, T], many: Mapping[str, T]) -> dict[str, T]:
    """Both, each in its order, in one in which they are spread alike."""
    places = [((number + 0.5) / len(named), name) for named in (few, many) for number, name in enumerate(named)]
    both = {**few, **many}
    return {name: both[name] for _, name in sorted(places, key=lambda place: place[0])}


def made(make: Callable[[], Subject], workload: Workload) -> Subject:
    """A module with its inputs.

    Raises:
        DeviceError: there is no room for it.
    """
    try:
        return make()
    except (RuntimeError, MemoryError) as error:  # torch's own of sizes that nothing has room for
        raise DeviceError(f"there is no room for {workload.describe()}: {error}") from error


def _by_name(networks: Iterable[Architecture]) -> dict[str, Architecture]:
    return {str(network): network for network in networks}


def _together(name: str) -> str:
    return f"bundle of {name}"


def _bundle_size(make: Callable[[], Subject], workload: Workload, bundle_mb: float) -> int:
    return bundle_size_of(made(make, workload), workload, bundle_mb=bundle_mb)


def _wholes(space: SearchSpace, workload: Workload, count: int) -> list[Architecture]:
    require_count("whole_networks", count)
    if count == 0 or not is_built_as_a_whole(space, workload):
        return []
    return [space.full, *distinct_architectures(space, count - 1, _SEED_OF_WHOLES)]


def _rows(space: SearchSpace, workload: Workload, *, copies: bool) -> Iterator[tuple[str, Callable[[], Subject]]]:
    for block in space.blocks:
        yield block.signature(workload), partial(_block, block, workload)
        if shortcut := block.shortcut_signature(workload):
            yield shortcut, partial(_shortcut, block, workload)
        if copies:
            yield block.signature(workload, copy=True), partial(_block, block, workload, copy=True)


def _block(block: Block, workload: Workload, *, copy: bool = False) -> Subject:
    return make_block(block, copy=copy), *block_inputs(block, workload, copy=copy)


def _shortcut(block: Block, workload: Workload) -> Subject:
    (hidden_states, *_), _ = block_inputs(block, workload)
    return make_shortcut(block), (hidden_states,), {}
