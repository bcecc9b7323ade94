"""Names of the prompt protocols in results, command lines, configs and tables; a module that imports fast."""

from typing import NamedTuple

TEXT, VISUAL_GENERIC, VISUAL_INTERACTIVE = 'text', 'visual-generic', 'visual-interactive'


class ProtocolNames(NamedTuple):
    """Names of a protocol.

    Attributes:
        type: Its name in configs, a class of :mod:`dinor1.evaluation.prompt_protocols`.
        title: Its name in tables.
    """

    type: str
    title: str


# In the order of tables. Visual-I offers only classes that the image shows, which is easier: it is never averaged with
# the others.
PROTOCOLS = {
    TEXT: ProtocolNames('TextPrompts', 'Text'),
    VISUAL_GENERIC: ProtocolNames('VisualGeneric', 'Visual-G'),
    VISUAL_INTERACTIVE: ProtocolNames('VisualInteractive', 'Visual-I'),
}
