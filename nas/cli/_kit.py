"""`nas lut export`, `measure` and `import`: a table for a device that is elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.cli._lut_reports import validation_document, validation_text
from nas.cli._options import add_command, add_networks, add_workload
from nas.cli._report import Report

# As in `nas.latency.devices` and `nas.unet`, written again because importing those takes longer than parsing.
TARGETS = ("iOS17", "iOS18")
ATTENTIONS = ("original", "split-einsum", "split-einsum-chunks")
UNITS = ("cpu", "gpu", "ne", "all")
PHONES = ("iphone", "ipad")


def add_to(actions: Any) -> None:
    """Add the three to the subcommands of `nas lut`."""
    _add_export(actions)
    measure = add_command(
        actions,
        "measure",
        _measure,
        "Time a kit's packages on this Mac or a device connected to it; goes on where it was interrupted, and measures "
        "anew what was measured already.",
        resumes=True,
    )
    _add_kit(measure)
    measure.add_argument("--unit", choices=UNITS, default="ne", help="compute unit (default: ne, the Neural Engine)")
    measure.add_argument("--on", choices=PHONES, help="a device connected to this Mac")
    measure.add_argument("--team", default="", help="development team that signs the app on the device")
    bring = add_command(actions, "import", _import, "Make the table of a kit that was measured.")
    _add_kit(bring)
    bring.add_argument("--results", metavar="NAME", help="which results, such as ne, if there are several")
    bring.add_argument("--out", required=True, type=Path, metavar="FILE", help="the YAML file to write")


def _add_export(actions: Any) -> None:
    export = add_command(
        actions, "export", _export, "Convert what a table needs for a device that is elsewhere, and a script beside it."
    )
    export.add_argument("--device", default="coreml", choices=("coreml",), help="what it is for (default: coreml)")
    export.add_argument("--space", required=True, help="sd15, sd21, sdxl, emoji, or a search space's YAML file")
    add_workload(export, precision="fp16")
    export.set_defaults(precision="fp16")
    export.add_argument("--target", choices=TARGETS, default="iOS17", help="oldest system (default: iOS17)")
    export.add_argument("--attention", choices=ATTENTIONS, default="original", help="default: original")
    add_networks(export, whole_networks=1)
    export.add_argument("--out", required=True, type=Path, metavar="KIT", help="the folder to write")


def _add_kit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kit", type=Path, metavar="KIT", help="folder that nas lut export wrote")


def _export(options: argparse.Namespace) -> Report:
    from nas.latency.devices._coreml_converter import CoreMLConverter
    from nas.latency.kit import export_kit
    from nas.search_space import SearchSpace
    from nas.workload import Workload

    space = SearchSpace.load(options.space)
    size = {"height": options.height, "width": options.width}
    workload = Workload.of(space, batch_size=options.batch_size, precision=options.precision, **size)
    converter = CoreMLConverter(target=options.target, attention=options.attention)
    networks = {"whole_networks": options.whole_networks, "held_out": options.held_out, "seed": options.seed}
    manifest = export_kit(space, options.out, converter=converter, workload=workload, **networks)
    size_mb = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file()) / 2**20
    document = {"kit": options.out, "packages": len(manifest.packages), "size_mb": size_mb, "seal": manifest.seal}
    text = (
        f"{len(manifest.packages)} packages, {size_mb:.0f} MB, written to {options.out}. Bring the folder to the Mac "
        f"and run there: python measure.py --unit ne. Bring it back, then: nas lut import {options.out} --out FILE"
    )
    return Report(document, text)


def _measure(options: argparse.Namespace) -> Report:
    from nas.latency.kit import measure_kit, runtime_of

    path = measure_kit(options.kit, options.unit, runtime=runtime_of(options.on or "", options.team))
    return Report({"kit": options.kit, "results": path}, f"written to {path}")


def _import(options: argparse.Namespace) -> Report:
    from nas._files import require_writable
    from nas.latency.kit import import_kit

    require_writable(options.out)
    lut = import_kit(options.kit, results=options.results)
    lut.save(options.out)
    document = {"file": options.out, "device": lut.device, "full_ms": lut.latency_ms(lut.space.full)}
    document["validation"] = lut.validation and validation_document(lut.validation)
    text = f"{lut.name}: full network {document['full_ms']:.2f} ms; written to {options.out}"
    return Report(document, f"{text}\n{validation_text(lut.validation)}" if lut.validation else text)
