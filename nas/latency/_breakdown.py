"""Where a network's time goes: latency, weights and multiply-accumulates by stage and kind of block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.architecture import Block
    from nas.latency._table import LatencyTable

BASE = "base"


@dataclass(frozen=True)
class Part:
    """The blocks of one kind in one stage of the full network, or what is left of it without any.

    Attributes:
        stage: "down.0", "mid", "up.2", ..., or "base".
        kind: "attention", "resnet", or "base".
        blocks: how many.
        latency_ms: what they take in the full network, as the table predicts it.
        share: the same as a fraction of the full network's latency.
        parameters: how many weights they have.
        macs: multiply-accumulates of one execution at the table's workload, attention products included.
    """

    stage: str
    kind: str
    blocks: int
    latency_ms: float
    share: float
    parameters: int
    macs: int


def breakdown(table: LatencyTable) -> tuple[Part, ...]:
    """Split the full network of a table's space by stage and kind, as SnapFusion's bar figure does
    (https://arxiv.org/abs/2306.00980).

    Blocks count as wholes, with the shortcut that their skipping would leave, and the base is what is left then: the
    first and last convolution, down- and upsampling, the embeddings. So everything adds up to the full network. In a
    table that was fitted to whole networks the base has the shortcuts as well, and the blocks that are fixed.

    Args:
        table: a latency table; its workload is what multiply-accumulates are counted for.

    Returns:
        The parts in network order, attention before residual blocks in each stage, the base last.
    """
    from nas.unet import network_macs

    groups: dict[tuple[str, str], list[Block]] = {}
    for block in table.space.blocks:
        if table.is_fitted and block.place in table.space.fixed:
            continue
        groups.setdefault((block.stage, block.kind), []).append(block)
    stages = list(dict.fromkeys(block.stage for block in table.space.blocks))
    order = sorted(groups, key=lambda group: (stages.index(group[0]), group[1]))
    macs, full_ms = _macs_by_signature(table), table.latency_ms(table.space.full)
    parts = [_part(table, *group, groups[group], macs, full_ms) for group in order]
    base_ms = full_ms - sum(part.latency_ms for part in parts)
    base_parameters = table.space.parameters - sum(part.parameters for part in parts)
    base_macs = network_macs(table.space, table.workload) - sum(part.macs for part in parts)
    return (*parts, Part(BASE, BASE, 0, base_ms, base_ms / full_ms, base_parameters, base_macs))


def _part(
    table: LatencyTable, stage: str, kind: str, blocks: list[Block], macs: dict[str, int], full_ms: float
) -> Part:
    signatures = [block.signature(table.workload) for block in blocks]
    latency_ms = table.in_context * sum(table.rows[signature].latency_ms for signature in signatures)
    parameters = sum(block.parameters for block in blocks)
    all_macs = sum(macs[signature] for signature in signatures)
    return Part(stage, kind, len(blocks), latency_ms, latency_ms / full_ms, parameters, all_macs)


def _macs_by_signature(table: LatencyTable) -> dict[str, int]:
    from nas.unet import block_macs

    # Blocks of one signature are the same module on the same input.
    distinct = {block.signature(table.workload): block for block in table.space.blocks}
    return {signature: block_macs(block, table.workload) for signature, block in distinct.items()}
