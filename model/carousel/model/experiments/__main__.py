"""python -m carousel.model.experiments [name ...] [--quick] [--out FOLDER] [--seed N]."""

import sys

from carousel.model.experiments.command import main

sys.exit(main())
