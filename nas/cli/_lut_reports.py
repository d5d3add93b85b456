"""What `nas lut` prints of a table's parts, of its validation and of two tables' difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nas.cli._report import columns

if TYPE_CHECKING:
    from nas.latency import Difference, LatencyTable, Part, RowDifference, Validation

_VALIDATION = ("mean_error", "worst_error", "within_5", "within_10", "spearman")


def breakdown_text(lut: LatencyTable, parts: Sequence[Part]) -> str:
    """Latency, share, weights and multiply-accumulates by stage and kind, and their sum."""
    header = ("where the time goes", "blocks", "ms", "share", "params M", "GMACs")
    rows = [_part(_name(part), part.blocks or "", part) for part in parts]
    whole = [sum(getattr(part, name) for part in parts) for name in ("latency_ms", "share", "parameters", "macs")]
    rows.append(("the full network", sum(part.blocks for part in parts), *_figures(*whole)))
    note = (
        "Blocks are counted with their shortcuts; the base is everything else. With every block skipped that may be, "
        f"which leaves the shortcuts, the network takes {lut.base_ms:.2f} ms."
    )
    return f"{columns(rows, header=header)}\n\n{note}"


def _name(part: Part) -> str:
    return part.stage if part.stage == part.kind else f"{part.stage} {part.kind}"


def _part(name: str, blocks: object, part: Part) -> tuple[object, ...]:
    return name, blocks, *_figures(part.latency_ms, part.share, part.parameters, part.macs)


def _figures(latency_ms: float, share: float, parameters: float, macs: float) -> tuple[str, ...]:
    return f"{latency_ms:.3f}", f"{share:.1%}", f"{parameters / 1e6:.2f}", _giga(macs)


def _giga(macs: float) -> str:
    # One decimal, as such tables have it; more for networks whose blocks have less than a tenth of it.
    return f"{macs / 1e9:.1f}" if macs >= 1e8 else f"{macs / 1e9:.4f}"


def difference_document(a: str, b: str, found: Difference) -> dict[str, Any]:
    """Plain data of a difference."""
    (base_a, base_b), (full_a, full_b) = found.base_ms, found.full_ms
    return {
        "a": a,
        "b": b,
        "conditions": {name: {"a": one, "b": other} for name, (one, other) in found.conditions.items()},
        "base": {"a_ms": base_a, "b_ms": base_b, "ratio": base_b / base_a},
        "full": {"a_ms": full_a, "b_ms": full_b, "ratio": found.full_ratio},
        "rows": [{**vars(row), "ratio": row.ratio} for row in found.rows],
        "dearer_on_b": [row.signature for row in found.dearer],
    }


def difference_text(a: str, b: str, found: Difference) -> str:
    """The same for people."""
    rows = [_row(row) for row in found.rows]
    for name, (a_ms, b_ms) in (("base", found.base_ms), ("the full network", found.full_ms)):
        ratio = b_ms / a_ms
        rows.append((name, 1, f"{a_ms:.3f}", f"{b_ms:.3f}", f"{ratio:.3f}", f"{ratio / found.full_ratio:.3f}"))
    conditions = [(name, one, other) for name, (one, other) in found.conditions.items()]
    parts = [
        f"A: {a}\nB: {b}",
        columns(conditions, header=("differs in", "A", "B")) if conditions else "measured under the same conditions",
        columns(rows, header=("ms in the full network", "blocks", "A", "B", "B / A", "relative")),
        _verdict(found),
    ]
    return "\n\n".join(parts)


def _row(row: RowDifference) -> tuple[object, ...]:
    return row.signature, row.blocks, f"{row.a_ms:.3f}", f"{row.b_ms:.3f}", f"{row.ratio:.3f}", f"{row.relative:.3f}"


def _verdict(found: Difference) -> str:
    start = f"The full network takes {found.full_ratio:.2f} times as long on B."
    if not found.dearer:
        return f"{start} No block is relatively dearer there."
    names = "; ".join(f"{row.signature} ({row.relative - 1:+.0%})" for row in found.dearer[:3])
    return f"{start} Relatively dearer there are {len(found.dearer)} kinds of blocks, foremost {names}."


def validation_document(validation: Validation) -> dict[str, Any]:
    """Its figures, by name."""
    return {name: getattr(validation, name) for name in _VALIDATION}


def validation_text(validation: Validation) -> str:
    """The same as a sentence."""
    return (
        f"whole networks: mean error {validation.mean_error:.1%}, worst {validation.worst_error:.1%}; "
        f"{validation.within_5:.0%} within ±5 %, {validation.within_10:.0%} within ±10 %; "
        f"rank correlation {validation.spearman:.3f}"
    )
