"""What the image's budget leaves for the UNet, against sums by hand."""

from __future__ import annotations

import pytest

from nas import ImageLatency
from nas.compression import image_of, unet_budget_ms
from nas.errors import BudgetError, TableError

# As the original was measured: 50 guided steps of one run with two samples.
PARTS = ImageLatency.from_components(
    text_encoder_ms=3.0, unet_ms=20.0, decoder_ms=40.0, steps=50, step_overhead_ms=0.5, constant_ms=1.0
)
LIMITS = {"smallest_ms": 1.0, "full_ms": 20.0}


def test_two_samples_a_run() -> None:
    aim = image_of(PARTS, steps=8, unet_ms=20.0, unet_batch_size=2, decoder_ms=10.0)
    # Two texts, eight times what lies between, the slim decoder, the constant; the rest is eight runs.
    assert unet_budget_ms(aim, 121.0, **LIMITS) == pytest.approx((121.0 - 6.0 - 4.0 - 10.0 - 1.0) / 8)
    assert aim.with_unet_ms(12.5).total_ms == pytest.approx(121.0)


def test_one_sample_a_run_is_two_runs_a_step() -> None:
    aim = image_of(PARTS, steps=8, unet_ms=20.0, unet_batch_size=1, decoder_ms=10.0)
    assert aim.unet_runs == 16
    assert unet_budget_ms(aim, 121.0, **LIMITS) == pytest.approx(6.25)


def test_folded_guidance_is_one_run_and_one_text() -> None:
    aim = image_of(PARTS, steps=8, unet_ms=20.0, unet_batch_size=1, decoder_ms=10.0, folded=True)
    assert (aim.text_encoder_runs, aim.unet_runs, aim.unet_batch_size) == (1, 8, 1)
    assert unet_budget_ms(aim, 121.0, **LIMITS) == pytest.approx((121.0 - 3.0 - 4.0 - 10.0 - 1.0) / 8)


def test_the_decoder_stays_unless_another_is_given() -> None:
    assert image_of(PARTS, steps=8, unet_ms=7.0, unet_batch_size=2).total_ms == pytest.approx(6 + 4 + 40 + 1 + 8 * 7)
    unguided = image_of(PARTS, steps=8, unet_ms=7.0, unet_batch_size=1, guided=False)
    assert unguided.total_ms == pytest.approx(3 + 4 + 40 + 1 + 8 * 7)


def test_a_batch_of_two_is_no_step_with_folded_guidance() -> None:
    with pytest.raises(TableError, match="unet_batch_size is 2"):
        image_of(PARTS, steps=8, unet_ms=20.0, unet_batch_size=2, folded=True)


@pytest.mark.parametrize(
    ("budget_ms", "words"),
    [
        (21.0, ["no UNet is fast enough", "21.00 ms"]),
        (
            45.0,
            ["leaves 3.00 ms for one run", "of which there are 8", "smallest takes 5.00 ms", "61.00 ms to 181.00 ms"],
        ),
        (0, ["budget is 0"]),
        (None, ["budget is None"]),
        (float("nan"), ["budget is nan"]),
    ],
)
def test_what_cannot_be_met_says_what_can(budget_ms: float, words: list[str]) -> None:
    aim = image_of(PARTS, steps=8, unet_ms=20.0, unet_batch_size=2, decoder_ms=10.0)
    with pytest.raises(BudgetError) as caught:
        unet_budget_ms(aim, budget_ms, smallest_ms=5.0, full_ms=20.0)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_budget_above_the_full_network_is_left_to_the_search() -> None:
    aim = image_of(PARTS, steps=8, unet_ms=20.0, unet_batch_size=2, decoder_ms=10.0)
    assert unet_budget_ms(aim, 21.0 + 8 * 30.0, **LIMITS) == pytest.approx(30.0)
