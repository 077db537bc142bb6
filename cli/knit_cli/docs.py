"""``python -m knit_cli.docs > docs/cli.md``: the help pages of all commands as one document."""

from __future__ import annotations

from collections.abc import Iterator

import click

from knit_cli.main import cli

HEAD = """# The command `knit`

Made from `--help` by `python -m knit_cli.docs > docs/cli.md`; a test compares the two.
"""
WIDTH = 100


def pages(
    command: click.Command = cli, parent: click.Context | None = None
) -> Iterator[tuple[str, str]]:
    """Name and help page of a command and of all below it.

    Parameters
    ----------
    command : click.Command
    parent : click.Context, optional

    Yields
    ------
    name, text : str
    """
    name = command.name if parent else "knit"
    with click.Context(
        command, parent, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH
    ) as ctx:
        ctx.help_option_names = ["-h", "--help"]
        yield ctx.command_path, command.get_help(ctx)
        if isinstance(command, click.Group):
            for below in command.list_commands(ctx):
                found = command.get_command(ctx, below)
                if found is not None:
                    yield from pages(found, ctx)


def document() -> str:
    """All help pages as Markdown.

    Returns
    -------
    str
    """
    parts = [HEAD]
    for name, text in pages():
        lines = "\n".join(line.rstrip() for line in text.splitlines())
        parts.append(f"## {name}\n\n```text\n{lines}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(document(), end="")
