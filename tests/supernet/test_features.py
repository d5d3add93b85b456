"""What the rest of diffusers and torch does with a UNet, done with an evolved one."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from nas import EvolvedUNet, SearchSpace, Supernet, Workload
from nas.unet import example_inputs, share_structure


@pytest.fixture
def evolved(tiny_unet, tiny_space) -> EvolvedUNet:
    architecture = tiny_space.full.duplicate("down.1.resnet.0").duplicate("up.1.attention.1")
    for place in ("down.0.resnet.0", "up.1.resnet.0", "down.1.attention.0"):
        architecture = architecture.remove(place)
    return Supernet(tiny_unet, tiny_space, duplicate_init="plain").extract(architecture)


@pytest.fixture
def inputs(tiny_space) -> dict:
    return example_inputs(tiny_space, Workload.of(tiny_space))


@torch.no_grad()
def run(network, inputs: dict) -> torch.Tensor:
    return network(**inputs)[0]


def draw(pipe, **kwargs) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipe("a cat", num_inference_steps=2, output_type="latent", generator=generator, **kwargs).images


# Pipelines.


def test_a_stock_pipeline_runs_it_saves_it_and_loads_it(tiny_pipeline, tmp_path):
    full = draw(tiny_pipeline)
    supernet = Supernet(tiny_pipeline.unet)
    architecture = supernet.space.full.remove("mid.attention.0").duplicate("up.1.resnet.0")
    tiny_pipeline.unet = supernet.extract(architecture)
    evolved = draw(tiny_pipeline)
    assert not torch.equal(evolved, full)
    tiny_pipeline.save_pretrained(tmp_path)
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.unet) is EvolvedUNet
    assert loaded.unet.architecture == architecture
    assert torch.equal(draw(loaded), evolved)


def test_it_is_given_to_a_pipeline_as_unet(tiny_pipeline, tiny_pipeline_dir):
    supernet = Supernet(tiny_pipeline.unet)
    tiny_pipeline.unet = candidate = supernet.candidate(supernet.space.empty)
    other = StableDiffusionPipeline.from_pretrained(tiny_pipeline_dir, unet=candidate, local_files_only=True)
    other.set_progress_bar_config(disable=True)
    assert torch.equal(draw(other), draw(tiny_pipeline))


# LoRA.


def lora(**changes):
    peft = pytest.importorskip("peft")
    options = {"r": 2, "lora_alpha": 2, "target_modules": ["to_q", "to_v"], "init_lora_weights": True}
    return peft.LoraConfig(**{**options, **changes})


def test_an_adapter_is_added_and_trained(evolved, inputs):
    before = run(evolved, inputs)
    evolved.requires_grad_(False)
    evolved.add_adapter(lora())
    assert torch.equal(run(evolved, inputs), before), "an adapter starts as nothing"
    trained = {name for name, parameter in evolved.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora" in name for name in trained)
    evolved.train()(**inputs)[0].square().sum().backward()
    assert all(evolved.get_parameter(name).grad is not None for name in trained)


def test_an_adapter_of_the_full_unet_can_be_loaded(tiny_unet, tiny_space, evolved, inputs):
    peft_utils = pytest.importorskip("peft.utils")
    adapted = share_structure(tiny_unet)
    adapted.add_adapter(lora(init_lora_weights=False))
    kept = [block.place for block in tiny_space.blocks if evolved.architecture[block] == "1"]
    architecture = tiny_space.empty
    for place in kept:
        architecture = architecture.with_choice(place, "1")
    network = Supernet(tiny_unet, tiny_space).extract(architecture)
    before = run(network, inputs)
    network.load_lora_adapter(peft_utils.get_peft_model_state_dict(adapted), prefix=None)
    assert not torch.equal(run(network, inputs), before)
    # Adapted first and evolved then, or evolved first and adapted then: the same network.
    expected = run(Supernet(adapted, tiny_space).candidate(architecture), inputs)
    torch.testing.assert_close(run(network, inputs), expected)


def test_an_adapter_of_the_full_unet_reaches_blocks_with_copies(tiny_unet, tiny_space):
    peft_utils = pytest.importorskip("peft.utils")
    adapted = share_structure(tiny_unet)
    adapted.add_adapter(lora(init_lora_weights=False))
    network = Supernet(tiny_unet, tiny_space).extract(tiny_space.full.duplicate("mid.attention.0"))
    network.load_lora_adapter(peft_utils.get_peft_model_state_dict(adapted), prefix=None)
    weights = dict(network.named_parameters())
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.default_0.weight"
    expected = adapted.get_parameter(name.replace("default_0", "default"))
    assert torch.equal(weights[name], expected)


# Switches.


def test_attention_processors_can_be_set(evolved, inputs):
    before = run(evolved, inputs)
    evolved.set_attn_processor(AttnProcessor())
    assert all(type(processor) is AttnProcessor for processor in evolved.attn_processors.values())
    # 11 blocks of attention, one skipped, one twice; self- and cross-attention each.
    assert len(evolved.attn_processors) == 2 * (11 - 1 + 1)
    torch.testing.assert_close(run(evolved, inputs), before, rtol=1e-4, atol=1e-5)


def test_gradient_checkpointing_gives_the_same_gradients(evolved, inputs):
    def gradients() -> list[torch.Tensor]:
        evolved.zero_grad()
        evolved.train()(**inputs)[0].square().sum().backward()
        return [parameter.grad.clone() for parameter in evolved.parameters()]

    plain = gradients()
    evolved.enable_gradient_checkpointing()
    assert evolved.is_gradient_checkpointing
    for expected, recomputed in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(recomputed, expected)


# Compilers. They take seconds for each block, so the network is the smallest that has every kind of replacement.


@pytest.fixture(scope="module")
def smallest() -> tuple[EvolvedUNet, dict, torch.Tensor]:
    config = {
        "sample_size": 4,
        "block_out_channels": (4,),
        "down_block_types": ("DownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
        "layers_per_block": 1,
        "cross_attention_dim": 4,
        "attention_head_dim": 1,
        "norm_num_groups": 2,
    }
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**config)
    space = SearchSpace.from_unet(unet, context_length=2)
    architecture = space.empty.with_choice("up.0.attention.0", "2").with_choice("mid.resnet.0", "2")
    evolved = Supernet(unet, space, duplicate_init="plain").extract(architecture)
    inputs = example_inputs(space, Workload.of(space, batch_size=1))
    return evolved, inputs, run(evolved, inputs)


def test_torch_compile_takes_it(smallest):
    evolved, inputs, expected = smallest
    compiled = torch.compile(evolved, backend="eager", fullgraph=True)
    assert torch.equal(run(compiled, inputs), expected)
    torch.compiler.reset()


def test_torch_export_takes_it(smallest):
    evolved, inputs, expected = smallest
    with torch.no_grad():
        exported = torch.export.export(evolved, (), inputs, strict=False)
    torch.testing.assert_close(run(exported.module(), inputs), expected)
