"""A training step on tensors without values, to see how many bytes of them are alive at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def most_alive(run: Callable[[], Any], networks: Sequence[nn.Module], device: torch.device) -> int:
    """The most bytes that are alive at once of the tensors that `run` makes on a device; nothing is allocated for them.

    Every operation is run for its shapes alone: `run` may go backward, gradients included, but may not look at a value.
    What libraries take inside an operation (workspaces of convolutions) and what an allocator wastes is not seen.

    Args:
        run: calls the networks.
        networks: all that it calls; while it runs their weights, which do not count, are stand-ins without values.
        device: where tensors count.
    """
    alive = _Alive(device)
    # Numbers that networks hold besides weights are real.
    with FakeTensorMode(allow_non_fake_inputs=True), _stand_ins(networks), alive:
        run()
    return alive.most


@contextmanager
def _stand_ins(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Give the networks weights and buffers without values, and their own back.

    Backward passes belong inside, where checkpoints run the networks again. A module may be in several networks, as a
    decoder is in its autoencoder, and a weight in several modules.
    """
    modules = {id(module): module for network in networks for module in network.modules()}.values()
    places = [
        (held, name, tensor)
        for module in modules
        for held in (module._parameters, module._buffers)
        for name, tensor in held.items()
        if tensor is not None
    ]
    made = {id(tensor): _stand_in(tensor) for _, _, tensor in places}
    try:
        for held, name, tensor in places:
            held[name] = made[id(tensor)]
        yield
    finally:
        for held, name, tensor in places:
            held[name] = tensor


def _stand_in(tensor: Tensor) -> Tensor:
    made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return made.requires_grad_(tensor.requires_grad)


class _Alive(TorchDispatchMode):
    """Counts the bytes of what operations make, for as long as it lives."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.bytes, self.most = device, 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf.untyped_storage() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = func(*args, **(kwargs or {}))
        known = {storage._cdata for storage in given}
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.device == self.device:
                storage = tensor.untyped_storage()
                # Views and results in place are not new; those of weights must not count.
                if storage._cdata not in known:
                    self._count(storage)
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.bytes += size
        self.most = max(self.most, self.bytes)
        weakref.finalize(storage, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size
