"""A composition, with which most tests begin, in four fifths of the time: Hydra's files are parsed in C."""

from typing import Any

import omegaconf._utils
import yaml
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver


def parse_in_c() -> None:
    """Have OmegaConf read files by PyYAML's parser in C, where it is, which gives what its parser in Python gives."""
    if not yaml.__with_libyaml__:
        return
    base: Any = omegaconf._utils.get_yaml_loader()

    class Loader(yaml.cyaml.CParser, base):  # type: ignore[misc]
        def __init__(self, stream: Any) -> None:
            yaml.cyaml.CParser.__init__(self, stream)
            SafeConstructor.__init__(self)
            Resolver.__init__(self)

    omegaconf._utils.get_yaml_loader = lambda: Loader
