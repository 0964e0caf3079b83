"""The group of all verbs."""

import click


class _Verbs(click.Group):
    """Lists the verbs in the order of their use, and shows errors without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, ImportError) as error:
            raise click.ClickException(str(error)) from error


@click.group(
    cls=_Verbs,
    subcommand_metavar='VERB [ARGS]...',
    context_settings=dict(help_option_names=['-h', '--help']),
)
@click.version_option(package_name='mmsnclr')
def main() -> None:
    """A folder of images in, a better detector out.

    \b
    mmsnclr pretrain photos/ --out run/
    mmsnclr pretrain --help
    """  # noqa: D301  click wants the backspace itself
