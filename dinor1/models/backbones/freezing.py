"""The first layers of a network, in the order in which it registers them."""

from torch import nn


def layers_up_to(network: nn.Module, name: str) -> tuple[list[nn.Parameter], list[str]]:
    """Parameters and modules of a network up to one of its modules, this one included.

    Parameters that a module has itself, such as a class token, come before those of its children.

    Args:
        network: A network that registers its layers in the order of the forward pass.
        name: Name of a module in it.

    Returns:
        The parameters, and the names of the modules that lie as a whole among the first layers.
    """
    names = [own for own, _ in network.named_modules()]
    # Position of the last module inside each module.
    last = {own: position for position, own in enumerate(names)}
    for position, own in enumerate(names):
        while own:
            own = own.rpartition('.')[0]
            last[own] = max(last[own], position)
    end = last[name]
    parameters = [p for own in names[: end + 1] for p in network.get_submodule(own).parameters(recurse=False)]
    return parameters, [own for own in names[: end + 1] if last[own] <= end]
