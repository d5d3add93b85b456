"""Surgery on a diffusers `UNet2DConditionModel`: skipping, copying and building single blocks and whole networks.

Blocks are replaced in the `ModuleList`s of their stage; no forward is patched, so diffusers' features keep working.
"""

from nas.unet._attention import (
    ATTENTIONS,
    ChunkedSplitEinsumAttnProcessor,
    SplitEinsumAttnProcessor,
    check_attention,
    with_attention,
)
from nas.unet._build import COPY_INITS, make_block, make_copy, make_shortcut
from nas.unet._guidance import FOLDED_WIDTH, fold_guidance, folded_width, guidance_embedding
from nas.unet._inputs import block_inputs, example_inputs, torch_dtype
from nas.unet._macs import block_macs, network_macs
from nas.unet._modules import AttentionChain, ResnetChain, SkippedAttention, SkippedResnet, chain_blocks
from nas.unet._network import make_network
from nas.unet._places import block_of, check_unet, require_unet, set_block, slot_of
from nas.unet._surgery import apply_architecture, module_for, own_structure, share_structure

__all__ = [
    "ATTENTIONS",
    "COPY_INITS",
    "FOLDED_WIDTH",
    "AttentionChain",
    "ChunkedSplitEinsumAttnProcessor",
    "ResnetChain",
    "SkippedAttention",
    "SkippedResnet",
    "SplitEinsumAttnProcessor",
    "apply_architecture",
    "block_inputs",
    "block_macs",
    "block_of",
    "chain_blocks",
    "check_attention",
    "check_unet",
    "example_inputs",
    "fold_guidance",
    "folded_width",
    "guidance_embedding",
    "make_block",
    "make_copy",
    "make_network",
    "make_shortcut",
    "module_for",
    "network_macs",
    "own_structure",
    "require_unet",
    "set_block",
    "share_structure",
    "slot_of",
    "torch_dtype",
    "with_attention",
]
