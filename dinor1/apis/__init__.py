"""What a script or a notebook calls."""

from .checkpoint import check_checkpoint, load_model
from .cli import run_tool
from .config import load_config
from .inferencer import DINOR1Inferencer
from .visual_prompt import VisualPrompt

__all__ = ['DINOR1Inferencer', 'VisualPrompt', 'check_checkpoint', 'load_config', 'load_model', 'run_tool']
