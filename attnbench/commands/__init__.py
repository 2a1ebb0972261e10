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

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command and what it was given, no option twice unless it may be."""
        name, command, rest = super().resolve_command(context, args)
        if command is not None:
            _refuse_repeated(command, rest)
        return name, command, rest


def _refuse_repeated(command: click.Command, words: list[str]) -> None:
    """Of an option that is given twice click takes the last, without a word.

    Raises:
        click.UsageError: there is one.
    """
    options = {opt: p for p in command.params if isinstance(p, click.Option) for opt in p.opts}
    seen: set[str | None] = set()
    rest = iter(words)
    for word in rest:
        if word == "--" or (not word.startswith("-") and not command.allow_interspersed_args):
            return  # what follows is another command's
        given, equals, _ = word.partition("=")
        option = options.get(given)
        if option is None or option.is_flag or option.multiple:
            continue
        if option.name in seen:
            several = option.metavar == "A,B"
            how = "put all its values into one, separated by commas" if several else "give it once"
            raise click.UsageError(f"{given} is given twice; {how}")
        seen.add(option.name)
        for _ in range(option.nargs - bool(equals)):
            next(rest, None)  # its value, whatever that looks like
