"""The networks, by name. `Segmenter` wraps any of them with its preprocessing."""

from collections.abc import Callable

from torch import nn

from contorno.config import NetworkConfig
from contorno.errors import ConfigError
from contorno.models.encoder import EncoderUNet
from contorno.models.milesial import MilesialUNet
from contorno.models.segmenter import Segmenter
from contorno.models.unet import UNet

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "UNet": UNet,
    "MilesialUNet": MilesialUNet,
}

__all__ = ["ARCHITECTURES", "EncoderUNet", "MilesialUNet", "Segmenter", "UNet", "build_network"]


def build_network(config: NetworkConfig) -> nn.Module:
    """The network that a configuration names.

    Raises:
        ConfigError: an unknown architecture or encoder, or an argument that is another's.
        MissingExtra: a library that it needs is not installed.
    """
    arguments = config.model_dump()
    name = arguments.pop("architecture")
    if name not in ARCHITECTURES:
        raise ConfigError(f"architecture {name!r} is unknown; choose {', '.join(ARCHITECTURES)}")
    if name != "UNet":
        if arguments.pop("patch") != 1:
            raise ConfigError(f"patch is for architecture UNet, not {name}; leave it 1")
        if config.encoder is not None:
            raise ConfigError(f"encoder is for architecture UNet, not {name}; leave it out")
    if config.encoder is not None:
        return EncoderUNet(**arguments)
    del arguments["encoder"]
    return ARCHITECTURES[name](**arguments)
