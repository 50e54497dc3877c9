"""`MODULE ARGUMENTS...` in another folder: what a forked process runs whose command has relative paths."""

import os
import runpy
import sys


def main() -> None:
    """Run argv[2] as `python -m` does, in folder argv[1]."""
    folder, module, *arguments = sys.argv[1:]
    os.chdir(folder)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
