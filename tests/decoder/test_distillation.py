from __future__ import annotations

import copy

import pytest
import torch
from autoencoders import KINDS, make_autoencoder, make_latents, pictures_of

from nas import NasError
from nas.decoder import GivenLatents, SampledLatents, compare_decoders, distil_decoder, picture_loss, prune_decoder
from nas.errors import ModelError, SearchError

LATENTS = make_latents(6)


def distil(student, teacher, latents=LATENTS, **options):
    return distil_decoder(student, teacher, latents, **{"steps": 3, "batch_size": 2, **options})


def state_of(module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def teacher_and_student(kind: str = "attention"):
    teacher = make_autoencoder(kind)
    return teacher, prune_decoder(teacher)


@pytest.mark.parametrize("kind", KINDS)
def test_is_a_plain_adamw_loop_on_the_pictures(kind: str):
    teacher, student = teacher_and_student(kind)
    twin = copy.deepcopy(student)
    log = distil(student, teacher, learning_rate=1e-3, ema_decay=None)
    optimizer = torch.optim.AdamW(twin.decoder.parameters(), lr=1e-3, weight_decay=0.0)
    for step, known in enumerate(log.losses):
        latents = GivenLatents(LATENTS).draw(step, batch_size=2, seed=0) / twin.config.scaling_factor
        loss = (twin.decode(latents).sample - pictures_of(teacher, latents)).square().mean()
        assert loss.item() == pytest.approx(known, rel=1e-5)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.decoder.parameters(), 1.0)
        optimizer.step()
    for name, mine in student.decoder.named_parameters():
        # A softmax does not see the keys' bias: its gradient is rounding, which Adam makes as large as any other.
        if not name.endswith("to_k.bias"):
            torch.testing.assert_close(mine, twin.decoder.get_parameter(name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_come_closer_and_only_the_decoder_changes(kind: str):
    teacher, student = teacher_and_student(kind)
    teacher_before, before = state_of(teacher), state_of(student)
    worse = compare_decoders(student, teacher, LATENTS).mean_psnr_db
    losses = distil(student, teacher, steps=60, batch_size=6, learning_rate=5e-3, ema_decay=0.8).losses
    assert losses[-1] < 0.7 * losses[0]
    assert compare_decoders(student, teacher, LATENTS).mean_psnr_db > worse
    assert same(teacher_before, teacher.state_dict())
    changed = {name for name, tensor in student.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith("decoder.") for name in changed)
    assert not any(module.training for module in student.modules())


def test_the_same_decoder_has_nothing_to_learn():
    teacher = make_autoencoder("attention")
    student = prune_decoder(teacher, 1)
    assert distil(student, teacher, steps=1).losses == pytest.approx([0.0], abs=1e-10)


def test_resuming_is_exact(tmp_path):
    teacher, student = teacher_and_student()
    whole, again = copy.deepcopy(student), copy.deepcopy(student)
    expected = distil(whole, teacher, steps=5)
    path = tmp_path / "run.pt"
    distil(student, teacher, steps=3, checkpoint=path, every=2)
    log = distil(again, teacher, steps=5, checkpoint=path, every=2)
    assert log.losses == expected.losses
    assert same(again.state_dict(), whole.state_dict())
    with pytest.raises(SearchError, match="latents"):
        distil(again, teacher, LATENTS + 1, steps=5, checkpoint=path)
    with pytest.raises(SearchError, match="teacher"):
        distil(again, make_autoencoder("attention", seed=1), steps=5, checkpoint=path)


def test_latents_can_be_sampled_on_the_fly(tiny_pipeline):
    student = prune_decoder(tiny_pipeline.vae)
    source = SampledLatents(tiny_pipeline, ["a"], steps=1, pool_size=2, pool_steps=2)
    log = distil(student, tiny_pipeline.vae, source)
    latents = source.draw(0, batch_size=2, seed=0) / 0.5
    with torch.no_grad():
        pictures = prune_decoder(tiny_pipeline.vae).decode(latents).sample
    assert log.losses[0] == pytest.approx(picture_loss(pictures, pictures_of(tiny_pipeline.vae, latents)).item())


@pytest.mark.parametrize("options", [{"accumulate": 2}, {"gradient_checkpointing": True}, {"keep_mb": 0}])
@pytest.mark.parametrize("kind", ["attention", "tiny"])
def test_ways_to_save_memory_change_nothing(options: dict, kind: str):
    teacher, student = teacher_and_student(kind)
    expected = distil(copy.deepcopy(student), teacher).losses
    assert distil(student, teacher, **options).losses == pytest.approx(expected, rel=1e-5)
    assert not student.is_gradient_checkpointing


@pytest.mark.parametrize(("room", "decoded"), [(6, {5}), (0, {10}), (1, {9, 10})])
def test_the_teacher_decodes_once_what_there_is_room_for(room: int, decoded: set[int]):
    teacher, student = teacher_and_student()
    picture_mb = 3 * 12 * 16 * 4 / 2**20
    runs: list[int] = []
    teacher.decoder.register_forward_hook(lambda module, args, output: runs.append(len(output)))
    distil(student, teacher, LATENTS[:5], steps=2, batch_size=5, keep_mb=room * picture_mb)
    # With room for one, the last picture of a step may be the first of the next.
    assert sum(runs) in decoded


def test_what_cannot_be_distilled_is_refused():
    teacher, student = teacher_and_student()
    with pytest.raises(ModelError, match="channels"):
        distil(student, teacher, torch.zeros(1, 3, 2, 2))
    with pytest.raises(NasError, match="shares weights"):
        distil(student, student)
    with pytest.raises(NasError, match="learning_rate"):
        distil(student, teacher, learning_rate=0.0)
