from __future__ import annotations

import pytest
import torch
from conftest_pipeline import make_scheduler

from nas import NasError
from nas.training import robust_train, stage_features
from nas.training.losses import feature_loss


def inputs(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(2, 4, 8, 8, generator=generator),
        torch.tensor([3, 700]),
        torch.randn(2, 5, 12, generator=generator),
    )


def count_hooks(network) -> int:
    return sum(len(part._forward_hooks) for part in network.modules())


def test_features_are_what_the_stages_say(small_unet):
    said = {}
    for name in ("down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1"):
        stage = small_unet.get_submodule(name)

        def keep(hidden_states, *arguments, name=name, run=stage.forward, **options):
            output = run(hidden_states, *arguments, **options)
            said[name] = output[0] if isinstance(output, tuple) else output
            return output

        stage.forward = keep
    before = count_hooks(small_unet)
    with torch.no_grad(), stage_features(small_unet) as features:
        output = small_unet(*inputs()).sample
        assert count_hooks(small_unet) == before + 5
    assert count_hooks(small_unet) == before
    assert [tuple(feature.shape) for feature in features] == [tuple(each.shape) for each in said.values()]
    assert all(torch.equal(feature, each) for feature, each in zip(features, said.values(), strict=True))
    with torch.no_grad():
        assert torch.equal(small_unet(*inputs()).sample, output)
    assert len(features) == 5


def test_hooks_are_removed_after_an_error(supernet):
    def fail():
        with stage_features(supernet):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert count_hooks(supernet) == 0


def test_features_are_part_of_the_loss(small_unet, teacher, training_data):
    options = {"scheduler": make_scheduler(), "steps": 1, "batch_size": 2}
    with torch.no_grad():
        teacher.mid_block.resnets[0].conv2.bias.add_(0.5)
        small_unet.conv_out.weight.copy_(teacher.conv_out.weight)
    log = robust_train(small_unet, teacher, training_data, feature_weight=0.5, learning_rate=1e-9, **options)
    [features], [output] = log.parts["features"], log.parts["output"]
    assert features > 0
    assert log.losses == pytest.approx([output + 0.5 * features])
    with pytest.raises(NasError, match="no teacher whose features"):
        robust_train(small_unet, None, training_data, feature_weight=0.5, **options)


def test_a_loss_of_features_alone_teaches_the_stages(small_unet, teacher, training_data):
    with torch.no_grad():
        for parameter in teacher.mid_block.parameters():
            parameter.mul_(1.3)

    def distance() -> float:
        with torch.no_grad(), stage_features(small_unet) as mine, stage_features(teacher) as wanted:
            small_unet(*inputs(1))
            teacher(*inputs(1))
        return feature_loss(mine, wanted).item()

    before = distance()
    options = {"scheduler": make_scheduler(), "steps": 15, "batch_size": 4, "learning_rate": 2e-3}
    robust_train(small_unet, teacher, training_data, feature_weight=100.0, **options)
    assert distance() < 0.7 * before
