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
    "EncoderUNet": EncoderUNet,
    "MilesialUNet": MilesialUNet,
}

__all__ = ["ARCHITECTURES", "EncoderUNet", "MilesialUNet", "Segmenter", "UNet", "build_network"]


def build_network(config: NetworkConfig) -> nn.Module:
    """The network that a configuration names.

    Raises:
        ConfigError: an unknown architecture, or an argument that is another's.
        MissingExtra: a library that it needs is not installed.
    """
    arguments = config.model_dump()
    name = arguments.pop("architecture")
    if name not in ARCHITECTURES:
        raise ConfigError(f"architecture {name!r} is unknown; choose {', '.join(ARCHITECTURES)}")
    if name == "MilesialUNet" and arguments.pop("patch") != 1:
        raise ConfigError(f"patch is for other architectures than {name}; leave it 1")
    if name != "EncoderUNet" and arguments.pop("encoder") is not None:
        raise ConfigError(f"encoder is for architecture EncoderUNet, not {name}; leave it out")
    if name == "EncoderUNet" and arguments["encoder"] is None:
        raise ConfigError("architecture EncoderUNet needs an encoder, such as timm/resnet34")
    return ARCHITECTURES[name](**arguments)
