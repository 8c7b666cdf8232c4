"""`python -m dsmoe`."""

import sys

from dsmoe.cli import program

sys.exit(program())
