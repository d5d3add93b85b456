"""`nas image show` on published figures and on a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nas import ImageLatency

Run = Callable[..., object]
NAME = "iphone-14-pro_snapfusion"


def test_published_figures_are_shown_as_published(nas_command: Run) -> None:
    text = nas_command("image", "show", NAME).out
    assert text.startswith("published")
    assert "https://arxiv.org/abs/2306.00980" in text
    assert "reported for the whole: 1960.00 ms; the sum is +0.2% off" in text


def test_a_budget_for_the_image_becomes_one_for_the_unet(nas_command: Run) -> None:
    document = nas_command("image", "show", NAME, "--budget-ms", "1000ms", "--json").document
    # Text encoder twice and decoder once, of the paper's table; eight steps.
    assert document["unet_budget_ms"] == pytest.approx((1000 - 2 * 4 - 116) / 8)
    assert document["total_ms"] == pytest.approx(1964)
    assert [part["component"] for part in document["parts"]][:2] == ["text encoder", "UNet"]
    assert "109.50 ms" in nas_command("image", "show", NAME, "--budget-ms", 1000).out


def test_a_file_is_shown(nas_command: Run, tmp_path: Path) -> None:
    image = ImageLatency.from_components(text_encoder_ms=1, unet_ms=2, decoder_ms=3, steps=4, unet_batch_size=1)
    image.save(tmp_path / "image.yaml")
    outcome = nas_command("image", "show", tmp_path / "image.yaml")
    assert "2 UNet runs of batch 1" in outcome.out
    assert "21.00" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "word"), [(("nowhere",), NAME), ((NAME, "--budget-ms", 100), "124.00 ms"), ((__file__,), "YAML")]
)
def test_what_cannot_be_shown_is_one_sentence(nas_command: Run, arguments: tuple, word: str) -> None:
    outcome = nas_command("image", "show", *arguments)
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert word in outcome.err
