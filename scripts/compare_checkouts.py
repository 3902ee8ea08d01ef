"""Compile the zoo's networks with two checkouts of this project, and run both in turn.

Tells whether a change of the code changed how fast artifacts are or how long compiling takes.
Each checkout is a folder with this repository in it; the Python that runs this script runs both.

    git worktree add ../before HEAD~1
    python scripts/compare_checkouts.py ../before . --networks squeezenet1_1,resnet50
"""

from __future__ import annotations
