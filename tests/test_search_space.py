from __future__ import annotations

import random
from collections import Counter

import pytest
from diffusers import UNet2DConditionModel

from nas import Architecture, SearchSpace, Workload
from nas.errors import ArchitectureError, SearchSpaceError

# Method notes §1: parameters in millions of the blocks of a stage of SD-v1.5, (attention, resnet).
SD15_MILLIONS = {
    "down.0": (5.09, 4.51),
    "down.1": (18.38, 14.75),
    "down.2": (69.52, 55.72),
    "middle": (34.76, 272.05),
    "up.1": (104.28, 139.30),
    "up.2": (27.57, 40.16),
    "up.3": (7.64, 11.17),
}
# Table 3 of the paper (arXiv 2306.00980): blocks SnapFusion keeps, (attention, resnet); "middle": down-4, mid, up-4.
TABLE_3 = {
    "down.0": (0, 2),
    "down.1": (2, 2),
    "down.2": (2, 1),
    "middle": (1, 4),
    "up.1": (6, 2),
    "up.2": (3, 3),
    "up.3": (0, 3),
}


def paper_stage(stage: str) -> str:
    return "middle" if stage in ("down.3", "mid", "up.0") else stage


def test_sd15_has_the_published_blocks_and_parameters():
    space = SearchSpace.load("sd15")
    assert space.parameters == 859_520_964
    assert Counter(block.kind for block in space.blocks) == {"attention": 16, "resnet": 22}
    for stage, millions in SD15_MILLIONS.items():
        for kind, expected in zip(("attention", "resnet"), millions, strict=True):
            blocks = [b for b in space.blocks if paper_stage(b.stage) == stage and b.kind == kind]
            assert sum(block.parameters for block in blocks) / 1e6 == pytest.approx(expected, abs=0.005)


def test_sd15_has_about_twenty_signatures():
    space = SearchSpace.load("sd15")
    assert len({block.signature(Workload.of(space)) for block in space.blocks}) == 18


def test_the_papers_table_3_is_an_architecture_of_sd15():
    space = SearchSpace.load("sd15")
    architecture = space.full
    for stage, targets in TABLE_3.items():
        for kind, target in zip(("attention", "resnet"), targets, strict=True):
            blocks = [b for b in space.blocks if paper_stage(b.stage) == stage and b.kind == kind]
            for block in blocks[target:]:
                architecture = architecture.remove(block)
            for block in blocks[: max(0, target - len(blocks))]:
                architecture = architecture.duplicate(block)
    space.check(architecture)
    totals: Counter = Counter()
    for (stage, kind), runs in architecture.counts().items():
        totals[paper_stage(stage), kind] += runs
    assert {stage: (totals[stage, "attention"], totals[stage, "resnet"]) for stage in TABLE_3} == TABLE_3


@pytest.mark.parametrize("name", ["sd21", "sdxl", "emoji"])
def test_bundled_spaces_are_what_their_configs_give(name):
    space = SearchSpace.load(name)
    derived = SearchSpace.from_config(space.config, name=name, context_length=space.context_length)
    assert derived == space


def test_sdxl_has_the_published_number_of_parameters():
    assert SearchSpace.load("sdxl").parameters == 2_567_463_684


def test_blocks_are_the_modules_of_the_unet(tiny_unet: UNet2DConditionModel):
    space = SearchSpace.from_unet(tiny_unet)
    names = dict(tiny_unet.named_modules())
    attentions = [name for name, m in names.items() if type(m).__name__ == "Transformer2DModel"]
    resnets = [name for name, m in names.items() if type(m).__name__ == "ResnetBlock2D"]
    assert len(space.blocks) == len(attentions) + len(resnets)
    for block in space.blocks:
        stage = {"down": "down_blocks", "up": "up_blocks"}.get(block.stage.split(".")[0], "mid_block")
        number = "." + block.stage.split(".")[1] if "." in block.stage else ""
        module = names[f"{stage}{number}.{block.kind}s.{block.index}"]
        assert block.parameters == sum(p.numel() for p in module.parameters())
        assert block.has_shortcut == (getattr(module, "conv_shortcut", None) is not None)


def test_file_round_trip(tiny_space: SearchSpace, tmp_path):
    tiny_space.save(tmp_path / "space.yaml")
    assert SearchSpace.load(tmp_path / "space.yaml") == tiny_space


def test_sample_respects_fixed_places_and_the_seed(tiny_config):
    space = SearchSpace.from_config(tiny_config, fixed=frozenset({"mid.resnet.0"}))
    sampled = [space.sample(random.Random(seed)) for seed in range(50)]
    assert sampled == [space.sample(random.Random(seed)) for seed in range(50)]
    assert all(architecture.runs("mid.resnet.0") == 1 for architecture in sampled)
    assert len(set(sampled)) == 50
    assert space.empty.removed == tuple(p for p in space.full.places if p != "mid.resnet.0")
    assert "mid.resnet.0" not in {block.place for block in space.removable(space.full)}


def test_an_architecture_of_another_space_is_refused(tiny_space: SearchSpace):
    with pytest.raises(ArchitectureError, match="not of the search space 'tiny'"):
        tiny_space.check(SearchSpace.load("sd15").full)
    with pytest.raises(ArchitectureError, match="allows 1"):
        tiny_space.check(tiny_space.full.duplicate("mid.resnet.0").duplicate("mid.resnet.0"))
    with pytest.raises(ArchitectureError):
        tiny_space.check(Architecture(tiny_space.full.choices[:-1]))


@pytest.mark.parametrize(
    "change",
    [
        {"block_out_channels": (8, 16)},
        {"nonsense": 1},
        {"down_block_types": ("KDownBlock2D",) * 3},
        {"norm_num_groups": 5},
    ],
)
def test_bad_configs_are_refused(tiny_config, change):
    with pytest.raises(SearchSpaceError):
        SearchSpace.from_config({**tiny_config, **change})


def broken(kind: str, change):
    def damage(data):
        change(next(block for block in data["blocks"] if block["kind"] == kind))
        return data

    return damage


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (broken("resnet", lambda block: block["options"].pop("temb_channels")), "no option temb_channels"),
        (broken("attention", lambda block: block["options"].pop("heads")), "no option heads"),
        (broken("resnet", lambda block: block.update(downsample=0)), "downsample of down.0.resnet.0 is 0"),
        (broken("attention", lambda block: block.update(parameters="x")), "parameters of .* is 'x'"),
        (broken("resnet", lambda block: block.update(kind="conv")), "of kind 'conv'"),
    ],
)
def test_damaged_blocks_are_refused(tiny_space: SearchSpace, damage, word):
    with pytest.raises(SearchSpaceError, match=word):
        SearchSpace.from_dict(damage(tiny_space.to_dict()))


def test_damaged_files_are_refused(tiny_space: SearchSpace, tmp_path):
    with pytest.raises(SearchSpaceError, match="no search space 'nowhere'"):
        SearchSpace.load("nowhere")
    path = tmp_path / "space.yaml"
    for text in ("[", "42", "name: x", "blocks: []"):
        path.write_text(text)
        with pytest.raises(SearchSpaceError, match=str(path)):
            SearchSpace.load(path)
