"""Configs of models that extend one of diffusers'."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from diffusers import ModelMixin


def with_parameters_of(parent: type[ModelMixin]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Declare the parameters that the `**config` of a child's `__init__` stands for: those of its parent.

    diffusers reads the keys that a config may have off the signature. Goes below `register_to_config`.
    """
    inherited = list(inspect.signature(parent.__init__).parameters.values())[1:]

    def declare(init: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(init).parameters.values() if p.kind is not p.VAR_KEYWORD]
        keyword_only = [p.replace(kind=p.KEYWORD_ONLY) for p in inherited]
        init.__signature__ = inspect.Signature([*own, *keyword_only])
        return init

    return declare
