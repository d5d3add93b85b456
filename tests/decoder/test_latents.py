from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas import NasError
from nas.decoder import GivenLatents, SampledLatents
from nas.errors import ModelError

COUNT = 6
LATENTS = torch.arange(COUNT * 4 * 5 * 7, dtype=torch.float32).view(COUNT, 4, 5, 7)


def sampled(pipe, **options) -> SampledLatents:
    return SampledLatents(pipe, ["a", "b"], **{"steps": 2, "pool_size": 3, "pool_steps": 2, **options})


def draw(source, step: int, *, batch_size: int = 2, seed: int = 0) -> torch.Tensor:
    return source.draw(step, batch_size=batch_size, seed=seed)


@given(step=st.integers(0, 10**6), seed=st.integers(0, 100), batch_size=st.integers(1, 9))
def test_a_step_always_has_the_same_latents(step: int, seed: int, batch_size: int):
    options = {"batch_size": batch_size, "seed": seed}
    drawn = GivenLatents(LATENTS).draw(step, **options)
    assert torch.equal(drawn, GivenLatents(LATENTS).draw(step, **options))
    numbers = drawn[:, 0, 0, 0] / LATENTS[0].numel()
    assert set(numbers.tolist()) <= set(range(COUNT))
    assert len(drawn) == batch_size
    assert len(set(numbers.tolist())) == batch_size or batch_size > COUNT, "none twice where there are enough"


def test_steps_and_seeds_differ():
    source = GivenLatents(LATENTS)
    batches = [draw(source, step, batch_size=4, seed=seed) for step in range(4) for seed in range(2)]
    assert not any(torch.equal(one, other) for i, one in enumerate(batches) for other in batches[:i])


@given(crop=st.integers(1, 5), step=st.integers(0, 1000))
def test_a_piece_is_a_neighbourhood(crop: int, step: int):
    # Every value is another one, and tells where it is from.
    for piece in draw(GivenLatents(LATENTS, crop=crop), step):
        assert piece.shape == (4, crop, crop)
        first = int(piece[0, 0, 0])
        number, place = divmod(first, LATENTS[0].numel())
        top, left = divmod(place, 7)
        assert torch.equal(piece, LATENTS[number, :, top : top + crop, left : left + crop])


def test_every_place_can_be_a_piece():
    source = GivenLatents(LATENTS[:1], crop=4)
    places = {int(piece[0, 0, 0]) for step in range(60) for piece in draw(source, step)}
    assert places == {7 * top + left for top in range(2) for left in range(4)}


def test_noise_has_the_size_that_is_asked_for():
    latents = torch.ones(200, 4, 5, 7)
    noise = draw(GivenLatents(latents, noise=0.25), 0, batch_size=200) - 1
    assert noise.std().item() == pytest.approx(0.25, rel=0.02)
    assert abs(noise.mean().item()) < 0.01


@pytest.mark.parametrize(
    ("latents", "options", "message"),
    [
        (LATENTS[:0], {}, "latents"),
        (LATENTS[0], {}, "latents"),
        (LATENTS / 0, {}, "not finite"),
        (LATENTS, {"crop": 6}, "crop is 6"),
        (LATENTS, {"crop": 0}, "crop is 0"),
        (LATENTS, {"noise": -1.0}, "noise is -1.0"),
        (LATENTS, {"noise": math.nan}, "noise is nan"),
    ],
)
def test_latents_that_make_no_sense_are_refused(latents: torch.Tensor, options: dict, message: str):
    with pytest.raises(NasError, match=message):
        GivenLatents(latents, **options)


def test_identities_tell_latents_apart():
    sources = [GivenLatents(LATENTS), GivenLatents(LATENTS + 1), GivenLatents(LATENTS, crop=2)]
    sources += [GivenLatents(LATENTS, noise=0.1)]
    assert len({source.identity() for source in sources}) == len(sources)
    assert GivenLatents(LATENTS.clone()).identity() == sources[0].identity()


def test_what_is_sampled_serves_for_some_steps(tiny_pipeline):
    runs: list[int] = []
    tiny_pipeline.unet.register_forward_hook(lambda module, args, output: runs.append(1))
    source = sampled(tiny_pipeline)
    batches = [draw(source, step, batch_size=3) for step in range(4)]
    assert len(runs) == 2 * 2, "two pools of two DDIM steps"
    pools = [{float(latent[0, 0, 0]) for latent in batch} for batch in batches]
    assert pools[0] == pools[1]
    assert pools[2] == pools[3]
    assert not pools[0] & pools[2]
    # Another process that goes on in the middle.
    assert torch.equal(draw(sampled(tiny_pipeline), 3, batch_size=3), batches[3])
    assert torch.equal(draw(source, 0, batch_size=3), batches[0])
    assert not torch.equal(draw(source, 0, batch_size=3, seed=1), batches[0])


def test_identities_of_samplers(tiny_pipeline, shared_pipeline):
    known = sampled(tiny_pipeline).identity()
    assert sampled(shared_pipeline).identity() == known
    assert sampled(tiny_pipeline, guidance_scale=2.0).identity() != known
    with torch.no_grad():
        tiny_pipeline.unet.conv_out.bias += 1
    assert sampled(tiny_pipeline).identity() != known


def test_what_cannot_sample_is_refused(tiny_pipeline):
    with pytest.raises(NasError, match="pool_size"):
        sampled(tiny_pipeline, pool_size=0)
    with pytest.raises(NasError, match="prompts"):
        SampledLatents(tiny_pipeline, [])
    tiny_pipeline.unet = None
    with pytest.raises(ModelError, match="unet"):
        sampled(tiny_pipeline)


def test_what_draws_latents_is_known_so_that_it_is_moved(tiny_pipeline):
    assert sampled(tiny_pipeline).networks == [tiny_pipeline.unet, tiny_pipeline.text_encoder]
    assert GivenLatents(LATENTS).networks == []


def test_as_many_prompts_at_a_time_as_are_asked_for(tiny_pipeline):
    seen = []
    tiny_pipeline.unet.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    source = sampled(tiny_pipeline, batch_size=1)
    assert draw(source, 0, batch_size=2).shape[0] == 2
    assert set(seen) == {2}, "guided, one prompt is two samples"
