from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from conftest_pipeline import make_scheduler
from diffusers import DDPMScheduler

from nas import NasError, Supernet
from nas.errors import ModelError, SearchError
from nas.supernet import ramp, sandwich
from nas.training import Batches, TrainingData, robust_train
from nas.unet import fold_guidance

SCHEDULER = make_scheduler()


def weights(network):
    return [parameter.detach().clone() for parameter in network.parameters()]


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def train(network, teacher, data, **options):
    return robust_train(network, teacher, data, **{"scheduler": SCHEDULER, "steps": 3, "batch_size": 2, **options})


def test_is_a_plain_adamw_loop(small_unet, teacher, training_data):
    twin = copy.deepcopy(small_unet)
    log = train(small_unet, teacher, training_data, data_weight=0.5, learning_rate=1e-3)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-3, weight_decay=0.01)
    batches = Batches(training_data, SCHEDULER, batch_size=2, seed=0)
    for step, known in enumerate(log.losses):
        batch = batches.draw(step, twin)
        output = twin(batch.noisy, batch.timesteps, batch.contexts).sample
        with torch.no_grad():
            said = teacher(batch.noisy, batch.timesteps, batch.contexts).sample
        loss = (output - said).square().sum() / said.square().sum()
        loss = loss + 0.5 * (output - batch.target).square().mean()
        assert loss.item() == pytest.approx(known, rel=1e-5)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.step()
    for mine, plain in zip(small_unet.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=2e-6)


def test_the_loss_falls(small_unet, teacher, training_data):
    losses = train(small_unet, teacher, training_data, steps=16, batch_size=4, learning_rate=2e-3).losses
    assert sum(losses[-4:]) < 0.6 * sum(losses[:4])


def test_with_skip_probability_zero_it_is_plain_training(small_unet, small_space, teacher, training_data):
    twin = copy.deepcopy(small_unet)
    plain = train(small_unet, teacher, training_data)
    robust = train(Supernet(twin, small_space, skip_probability=0.0), teacher, training_data)
    assert plain.losses == robust.losses
    assert same(weights(small_unet), weights(twin))


def test_skipping_trains_other_paths_and_keeps_modes(supernet, teacher, training_data):
    supernet.eval()
    twin = copy.deepcopy(supernet)
    twin.skip_schedule = lambda step: 0.0
    skipping, plain = train(supernet, teacher, training_data).losses, train(twin, teacher, training_data).losses
    assert skipping != plain
    assert supernet.step == 3
    assert not any(part.training for part in supernet.modules())
    assert all(parameter.grad is None for parameter in supernet.parameters())


# From ten steps on a supernet's count of them has a digit more than at the start.
@pytest.mark.parametrize(("ema_decay", "done"), [(None, 3), (0.8, 3), (None, 11)])
def test_resuming_is_exact(supernet, teacher, training_data, tmp_path, ema_decay, done):
    options = {"ema_decay": ema_decay, "learning_rate": 1e-3}
    whole, halves, final, once_more = (copy.deepcopy(supernet) for _ in range(4))
    steps, path = 2 * done, tmp_path / "run.pt"
    expected = train(whole, teacher, training_data, steps=steps, **options)
    train(halves, teacher, training_data, steps=done, checkpoint=path, every=2, **options)
    # A new process starts from the original weights.
    log = train(final, teacher, training_data, steps=steps, checkpoint=path, every=2, **options)
    assert log.losses == expected.losses
    assert same(weights(final), weights(whole))
    assert final.step == whole.step == steps
    # A run that is over is read, not trained again.
    assert train(once_more, teacher, training_data, steps=steps, checkpoint=path, **options).losses == expected.losses
    assert same(weights(once_more), weights(whole))


def test_resuming_after_a_crash_between_checkpoints(supernet, teacher, training_data, tmp_path, monkeypatch):
    options = {"steps": 5, "every": 3, "checkpoint": tmp_path / "run.pt"}
    whole, again = copy.deepcopy(supernet), copy.deepcopy(supernet)
    expected = train(whole, teacher, training_data, steps=5)
    sample = Batches.sample

    def failing(self, step):
        if step == 4:
            raise KeyboardInterrupt
        return sample(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "sample", failing)
        with pytest.raises(KeyboardInterrupt):
            train(supernet, teacher, training_data, **options)
    assert train(again, teacher, training_data, **options).losses == expected.losses
    assert same(weights(again), weights(whole))


def test_the_average_is_the_closed_form(small_unet, teacher, training_data):
    twin = copy.deepcopy(small_unet)
    start = weights(twin)
    train(small_unet, teacher, training_data, steps=1, ema_decay=0.75)
    train(twin, teacher, training_data, steps=1)
    for before, after, average in zip(start, twin.parameters(), small_unet.parameters(), strict=True):
        torch.testing.assert_close(average, 0.75 * before + 0.25 * after)


def test_no_steps_do_nothing(small_unet, teacher, training_data, tmp_path):
    before = weights(small_unet)
    assert train(small_unet, teacher, training_data, steps=0, checkpoint=tmp_path / "run.pt").losses == []
    assert same(before, weights(small_unet))
    assert not list(tmp_path.iterdir())


def test_frozen_parameters_stay(small_unet, teacher, training_data):
    small_unet.down_blocks.requires_grad_(False)
    before = weights(small_unet.down_blocks)
    train(small_unet, teacher, training_data, steps=1)
    assert same(before, weights(small_unet.down_blocks))


def test_without_a_teacher_it_learns_from_the_data(small_unet, training_data):
    scheduler = DDPMScheduler()
    batch = Batches(training_data, scheduler, batch_size=2).draw(0, small_unet)
    with torch.no_grad():
        output = small_unet(batch.noisy, batch.timesteps, batch.contexts).sample
    log = train(small_unet, None, training_data, steps=1, scheduler=scheduler)
    assert log.losses == pytest.approx([(output - batch.target).square().mean().item()], rel=1e-5)


def test_an_accelerator_gives_the_same_weights(small_unet, teacher, training_data):
    twin = copy.deepcopy(small_unet)
    plain = train(small_unet, teacher, training_data)
    accelerated = train(twin, teacher, training_data, accelerator=Accelerator(cpu=True))
    assert plain.losses == accelerated.losses
    assert same(weights(small_unet), weights(twin))


def test_a_teacher_that_shares_weights_is_refused(small_unet, supernet, training_data):
    with pytest.raises(NasError, match="shares weights"):
        train(supernet, small_unet, training_data)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"steps": -1}, "steps is -1"),
        ({"steps": 1.5}, r"steps is 1\.5"),
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"gradient_clip": float("nan")}, "gradient_clip is nan"),
        ({"ema_decay": 1.0}, r"ema_decay is 1\.0"),
        ({"data_weight": -1.0}, r"data_weight is -1\.0"),
        ({"feature_weight": "much"}, "feature_weight is 'much'"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"every": 0}, "every is 0"),
        ({"empty_context_share": 2}, "empty_context_share is 2"),
    ],
)
def test_bad_numbers(small_unet, teacher, training_data, changes, sentence):
    with pytest.raises(NasError, match=sentence):
        train(small_unet, teacher, training_data, **changes)


def test_data_of_the_wrong_shape(small_unet, teacher):
    data = TrainingData(torch.zeros(2, 3, 8, 8), torch.zeros(2, 5, 12), torch.zeros(1, 5, 12))
    with pytest.raises(NasError, match="3 channels"):
        train(small_unet, teacher, data)


def test_checkpoints_of_other_runs_are_refused(small_unet, teacher, training_data, tmp_path):
    path = tmp_path / "run.pt"
    train(copy.deepcopy(small_unet), teacher, training_data, steps=1, checkpoint=path)
    written = path.read_bytes()
    with pytest.raises(SearchError, match="seed = 0, this one has 1"):
        train(small_unet, teacher, training_data, checkpoint=path, seed=1)
    with pytest.raises(SearchError, match="data"):
        train(small_unet, teacher, replace(training_data, latents=2 * training_data.latents), checkpoint=path)
    other = copy.deepcopy(small_unet)
    other.conv_out = torch.nn.Conv2d(8, 4, 1)
    with pytest.raises(ModelError, match="of another network"):
        train(other, teacher, training_data, checkpoint=path)
    assert path.read_bytes() == written
    path.write_bytes(written[:1000])
    with pytest.raises(ModelError, match="corrupt"):
        train(small_unet, teacher, training_data, checkpoint=path)


@pytest.mark.parametrize("change", [{"skip_probability": 0.5}, {"seed": 1}, {"skip_probability": ramp(0.2, 9)}])
def test_checkpoints_of_other_paths_are_refused(small_unet, small_space, teacher, training_data, tmp_path, change):
    options = {"steps": 1, "checkpoint": tmp_path / "run.pt"}
    train(Supernet(copy.deepcopy(small_unet), small_space, skip_probability=0.2), teacher, training_data, **options)
    other = Supernet(copy.deepcopy(small_unet), small_space, **{"skip_probability": 0.2, **change})
    with pytest.raises(SearchError, match="paths"):
        train(other, teacher, training_data, **options)


def test_a_teacher_in_another_precision(small_unet, teacher, training_data):
    exact = train(copy.deepcopy(small_unet), teacher, training_data, steps=1).losses
    assert train(small_unet, teacher.bfloat16(), training_data, steps=1).losses == pytest.approx(exact, rel=0.1)


def test_a_step_of_several_paths_is_their_mean_on_one_batch(supernet, teacher, training_data):
    twin, calls = copy.deepcopy(supernet), []
    teacher.conv_in.register_forward_hook(lambda part, given, said: calls.append(len(given[0])))
    supernet.skip_schedule = sandwich(0.5, draws=2)
    log = train(supernet, teacher, training_data, steps=1)
    assert calls == [2]
    batch = Batches(training_data, SCHEDULER, batch_size=2).draw(0, twin)
    twin.skip_schedule = sandwich(0.5, draws=2)
    with torch.no_grad():
        said = teacher(batch.noisy, batch.timesteps, batch.contexts).sample
        outputs = [
            twin(batch.noisy, batch.timesteps, batch.contexts, architecture=path).sample for path in twin.draw_paths()
        ]
    assert len(outputs) == 4
    losses = [((output - said).square().sum() / said.square().sum()).item() for output in outputs]
    assert log.losses == pytest.approx([sum(losses) / 4], rel=1e-5)


def test_all_losses_are_logged(supernet, teacher, training_data):
    log = train(supernet, teacher, training_data, data_weight=0.5, feature_weight=0.25)
    assert set(log.parts) == {"output", "data", "features"}
    parts = zip(*(log.parts[name] for name in ("output", "data", "features")), strict=True)
    assert log.losses == pytest.approx([output + 0.5 * data + 0.25 * features for output, data, features in parts])
    plain = train(supernet, None, training_data)
    assert plain.parts == {"data": plain.losses}


@pytest.mark.parametrize("who", [0, 1], ids=["student", "teacher"])
def test_who_is_told_the_guidance_is_refused(small_unet, teacher, training_data, who):
    """Nobody tells it here: it would be run as if it were told something that it never is."""
    fold_guidance([small_unet, teacher][who], width=8)
    with pytest.raises(ModelError, match="told the guidance"):
        train(small_unet, teacher, training_data)
