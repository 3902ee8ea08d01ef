"""``python -m hios_tvm``: the command line."""

from hios_tvm.cli import main

if __name__ == "__main__":
    main(prog_name="python -m hios_tvm")
