"""An interruption of the command line while it imports its modules."""

import subprocess
import sys

import pytest

# Raise the exception of Ctrl-C when a module is imported, then run `dinor1 validate absent.json`.
CODE = """
import sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == {module!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
from dinor1.cli.start import main
main({arguments!r})
"""


@pytest.mark.parametrize(
    ('module', 'arguments'),
    [
        ('argcomplete', ['--help']),
        ('cv2', ['validate', 'absent.json']),
        ('mmengine', ['train', 'absent.py']),
        ('mmdet.models', ['train', 'absent.py']),
    ],
)
def test_interruption_of_imports_is_one_line(module, arguments):
    code = CODE.format(module=module, arguments=arguments)
    outcome = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120, check=False)
    assert (outcome.returncode, outcome.stderr) == (130, 'interrupted\n')
