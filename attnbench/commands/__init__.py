"""The commands, one file each: the file's name is the command's, and its ``command`` is what click runs."""

import importlib
import pkgutil

import click


class Commands(click.Group):
    """A group that finds its commands by listing this folder, and imports one when it is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Names of the commands, in alphabetical order."""
        return sorted(
            module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")
        )

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of a file, or ``None`` if there is no such file."""
        if name not in self.list_commands(context):
            return None
        found: click.Command = importlib.import_module(f"{__name__}.{name}").command
        return found
