"""A network of its own: to the rest of diffusers a `UNet2DConditionModel` like any other."""

from __future__ import annotations

from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import register_to_config

from nas._config import with_parameters_of
from nas.architecture import Architecture
from nas.errors import ArchitectureError
from nas.search_space import SearchSpace
from nas.unet import apply_architecture


class EvolvedUNet(UNet2DConditionModel):
    """A `UNet2DConditionModel` of which some blocks are skipped and some are copied.

    `save_pretrained` writes the architecture into `config.json` and only the weights that are used;
    `from_pretrained` reads both back. Skipped blocks hold no weights and do no work. Usually made by
    `Supernet.extract` rather than by hand.

    Args:
        architecture: text of an `Architecture`; every block once when not given.
        space_name: name of the search space that it came from.
        **unet_config: the config of the full UNet, see `UNet2DConditionModel`.

    Raises:
        ArchitectureError: the text cannot be read, or it is not an architecture of this UNet.
    """

    # Written into the `model_index.json` of pipelines, so it has to be a name that stays.
    __module__ = "nas.supernet"

    @register_to_config
    @with_parameters_of(UNet2DConditionModel)
    def __init__(self, *, architecture: str | None = None, space_name: str | None = None, **unet_config: Any) -> None:
        # Read first, so that bad text is refused before anything large is built.
        parsed = None if architecture is None else _parse(architecture)
        super().__init__(**unet_config)
        if parsed is not None:
            apply_architecture(self, _space_of(parsed, space_name, unet_config), parsed)

    @property
    def architecture(self) -> Architecture:
        """Which blocks the network has."""
        text = self.config.architecture
        return SearchSpace.from_config(_stock(self.config)).full if text is None else Architecture.parse(text)


def _parse(text: Any) -> Architecture:
    if not isinstance(text, str):
        raise ArchitectureError(f"the config's architecture is {text!r}; expected text like 'down.0.resnet=1,0'")
    return Architecture.parse(text)


def _space_of(architecture: Architecture, name: str | None, config: dict[str, Any]) -> SearchSpace:
    # The space's own limit on copies was for the search; what was found is allowed as it is.
    most = max((architecture.runs(place) for place in architecture.places), default=1)
    return SearchSpace.from_config(config, name=name, max_copies=max(most - 1, 0))


def _stock(config: Any) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in ("architecture", "space_name")}


def as_evolved(network: EvolvedUNet, architecture: Architecture, space: SearchSpace) -> EvolvedUNet:
    """Write into a network's config what it is."""
    network.register_to_config(architecture=str(architecture), space_name=space.name)
    return network.eval()
