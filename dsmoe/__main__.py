"""`python -m dsmoe`."""

import sys

from dsmoe.cli import main

sys.exit(main())
