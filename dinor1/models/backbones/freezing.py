"""The first layers of a network, in the order in which it registers them."""

from torch import nn


def layers_up_to(network: nn.Module, name: str) -> tuple[list[nn.Parameter], list[str]]:
    """Parameters and modules of a network up to and including one of its modules.

    The own parameters of a module, such as a class token, come before those of its children.

    Args:
        network: A network that registers its layers in the order of the forward pass.
        name: Name of a module in it.

    Returns:
        The parameters, and the names of the modules that lie completely within these layers.
    """
    names = [own for own, _ in network.named_modules()]
    # Find the position of the last module inside each module.
    last = {own: position for position, own in enumerate(names)}
    for position, own in enumerate(names):
        while own:
            own = own.rpartition('.')[0]
            last[own] = max(last[own], position)
    # Collect the parameters and the complete modules up to the end of the named module.
    end = last[name]
    parameters = [p for own in names[: end + 1] for p in network.get_submodule(own).parameters(recurse=False)]
    return parameters, [own for own in names[: end + 1] if last[own] <= end]
