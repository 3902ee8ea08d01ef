"""The version of this package, and whether it is installed once."""

from hios_tvm.errors import UsageError

__version__ = "0.1.0"


def check_one_installation() -> None:
    """Raise `UsageError` where hios-tvm and hios-tvm-runtime are both installed.

    They install the same files, and pip does not notice: who removes one breaks the other.
    """
    from importlib import metadata  # slow to import, and needed by commands only

    names = ("hios-tvm", "hios-tvm-runtime")
    if all(any(metadata.distributions(name=name)) for name in names):
        raise UsageError(
            "hios-tvm and hios-tvm-runtime are both installed, and own the same files: run pip "
            "uninstall hios-tvm hios-tvm-runtime, then install one of them (hios-tvm contains the "
            "runtime)"
        )
