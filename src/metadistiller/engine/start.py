"""What a run begins from: initial weights that are not drawn."""

from typing import Any

from ..config import Config
from ..methods import Method
from ..nn import file_weights, load_initial, published_weights
from ..records import file_sha256


def load_start(method: Method, config: Config) -> dict[str, Any] | None:
    """Put the weights that the Config names into the network that ships; nothing where it names none.

    Returns: for the record: source, sha256 of a file, and `fresh`, keys that keep weights of their own because the
        classes differ.
    Raises: ConfigError, DataError.
    """
    network = method.deployable()
    if config.pretrained:
        source, state, sha256 = f"published weights of {config.model.name}", published_weights(config.model), None
    elif config.weights is not None:
        source, state = config.weights, file_weights(config.weights)
        sha256 = file_sha256(config.weights)
    else:
        return None
    fresh = load_initial(network.plain, state, network.num_classes, source=source)
    return {"source": source, "sha256": sha256, "fresh": fresh}
