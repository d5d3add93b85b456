"""How well do UNet iterations a second predict the end-to-end latency of an image, on devices nobody here measured?

The rows are those in the README of https://github.com/apple/ml-stable-diffusion (MIT licence): end-to-end seconds
of an image and UNet iterations a second, 20 steps under guidance, on iPhones, iPads and Macs. Rows with `reduce_memory`
are left out: models are loaded anew inside the loop. Text encoder, decoder and what lies between are not listed; they
are one constant, fitted to the other rows only (leave one out):

    python benchmarks/image_latency.py --data apple_sd_benchmarks.json --json image_latency.json

The file given by --data is a list of mappings with device, model, steps, iters_per_s, end_to_end_s and reduce_memory.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from nas import ImageLatency
from nas._files import write_text_atomically


@dataclass(frozen=True)
class Published:
    """One row: an image whose parts but for the UNet are not known, and its end-to-end latency."""

    device: str
    model: str
    image: ImageLatency

    @property
    def total_ms(self) -> float:
        return self.image.reported_total_ms

    @property
    def rest_ms(self) -> float:
        """What the UNet leaves of the image."""
        return self.total_ms - self.image.total_ms


# From the rows that may be seen and the one to predict: its end-to-end latency in ms.
Model: TypeAlias = Callable[[Sequence[Published], Published], float]


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        rows = read(arguments.data)
    except (OSError, ValueError, KeyError) as error:
        print(f"cannot read {arguments.data}: {error}; give the file with --data", file=sys.stderr)
        return 1
    predicted = {name: predictions(model, rows) for name, model in MODELS.items()}
    report = {name: summary(rows, values) for name, values in predicted.items()}
    print(text(rows, predicted, report))
    if arguments.json is not None:
        document = {"command": " ".join(["python", *sys.argv]), "rows": lines(rows, predicted), "errors": report}
        write_text_atomically(arguments.json, json.dumps(document, indent=2) + "\n")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the published rows, as JSON")
    parser.add_argument("--json", type=Path, help="file for all figures")
    return parser.parse_args(argv)


def read(path: Path) -> list[Published]:
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [Published(row["device"], row["model"], image_of(row)) for row in rows if not row["reduce_memory"]]


def image_of(row: dict[str, Any]) -> ImageLatency:
    """An iteration is a whole step; whether it is one execution of the UNet or two is not listed."""
    return ImageLatency(
        text_encoder_ms=0.0,
        unet_ms=1000 / row["iters_per_s"],
        decoder_ms=0.0,
        steps=row["steps"],
        unet_batch_size=None,
        origin="published",
        reported_total_ms=1000 * row["end_to_end_s"],
    )


# Ways to say what lies beside the UNet.


def nothing(seen: Sequence[Published], row: Published) -> float:
    return row.image.total_ms


def one_constant(seen: Sequence[Published], row: Published) -> float:
    return row.image.total_ms + constant_ms(seen)


def constant_of_model(seen: Sequence[Published], row: Published) -> float:
    return row.image.total_ms + constant_ms(of_model(seen, row))


def steps_of_model(seen: Sequence[Published], row: Published) -> float:
    """As many UNet steps as on other devices: a decoder, too, is slower where the UNet is."""
    own = of_model(seen, row)
    weights = np.array([other.image.unet_ms / other.total_ms for other in own])
    wanted = np.array([other.rest_ms / other.total_ms for other in own])
    return row.image.total_ms + float(weights @ wanted / (weights @ weights)) * row.image.unet_ms


MODELS: dict[str, Model] = {
    "nothing": nothing,
    "a constant": one_constant,
    "a constant a model": constant_of_model,
    "some steps a model": steps_of_model,
}


def of_model(seen: Sequence[Published], row: Published) -> list[Published]:
    return [other for other in seen if other.model == row.model]


def constant_ms(rows: Sequence[Published]) -> float:
    """What the rows' UNets leave, by least squares of the relative errors of the whole."""
    weights = np.array([row.total_ms for row in rows]) ** -2.0
    return float(np.average([row.rest_ms for row in rows], weights=weights))


def predictions(model: Model, rows: Sequence[Published]) -> list[float]:
    """Each row's latency in ms, predicted from all others."""
    return [model([*rows[:index], *rows[index + 1 :]], row) for index, row in enumerate(rows)]


def errors(rows: Sequence[Published], predicted_ms: Sequence[float]) -> np.ndarray:
    return np.array(predicted_ms) / np.array([row.total_ms for row in rows]) - 1


def summary(rows: Sequence[Published], predicted_ms: Sequence[float]) -> dict[str, float]:
    sizes = np.abs(errors(rows, predicted_ms))
    return {
        "rows": len(rows),
        "mean_error": float(sizes.mean()),
        "worst_error": float(sizes.max()),
        "within_10": float((sizes <= 0.1).mean()),
    }


def lines(rows: Sequence[Published], predicted: dict[str, list[float]]) -> list[dict[str, Any]]:
    return [
        {
            "device": row.device,
            "model": row.model,
            "end_to_end_ms": row.total_ms,
            "predicted_ms": {name: values[index] for name, values in predicted.items()},
        }
        for index, row in enumerate(rows)
    ]


def text(rows: Sequence[Published], predicted: dict[str, list[float]], report: dict[str, dict[str, float]]) -> str:
    wide = max(len(row.device) for row in rows)
    found = {name: errors(rows, values) for name, values in predicted.items()}
    table = [f"{'device':<{wide}}  {'seconds':>7}  " + "  ".join(f"{name:>18}" for name in predicted)]
    table += [
        f"{row.device:<{wide}}  {row.total_ms / 1000:>7.1f}  "
        + "  ".join(f"{values[index]:>+18.1%}" for values in found.values())
        for index, row in enumerate(rows)
    ]
    for key in ("mean_error", "worst_error", "within_10"):
        table.append(f"{key:<{wide}}  {'':>7}  " + "  ".join(f"{report[name][key]:>18.1%}" for name in predicted))
    return "\n".join(table)


if __name__ == "__main__":
    sys.exit(main())
