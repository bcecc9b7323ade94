"""Names of the prompt protocols: one table for results, command lines, configs and tables. It imports nothing heavy."""

from typing import NamedTuple

TEXT, VISUAL_GENERIC, VISUAL_INTERACTIVE = 'text', 'visual-generic', 'visual-interactive'


class ProtocolNames(NamedTuple):
    """What a protocol is called elsewhere.

    Attributes:
        type: In configs, a class of :mod:`dinor1.evaluation.prompt_protocols`.
        title: In tables.
    """

    type: str
    title: str


# In the order of tables. Visual-I is told the classes of each image and so is easier: it is never averaged with the
# others.
PROTOCOLS = {
    TEXT: ProtocolNames('TextPrompts', 'Text'),
    VISUAL_GENERIC: ProtocolNames('VisualGeneric', 'Visual-G'),
    VISUAL_INTERACTIVE: ProtocolNames('VisualInteractive', 'Visual-I'),
}
