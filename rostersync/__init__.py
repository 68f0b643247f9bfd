"""An exact local replica of a school's ManageBac students."""

try:
    from rostersync._version import __version__
except ModuleNotFoundError:  # in a checkout that has never been installed or built
    __version__ = "0+unknown"

__all__ = ["__version__"]
