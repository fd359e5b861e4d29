"""The `relo` program: a group of verbs, each imported only when it is used."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from relo import __version__
from relo.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, ReloError

# Verb -> one-line help. In the order of the work, which is how `relo --help` lists them.
VERBS = {
    "plan": "Exposure times for a wanted blur extent.",
    "simulate": "A simulated session: real DNG files plus truth.h5.",
    "ingest": "Two camera folders to a session: pairs by name, time or CSV.",
    "check": "What is in a session, what is missing, what is inconsistent.",
    "calibrate": "Colour correction from the lightbox frames.",
    "process": "The main job: a session to shards and a report.",
    "masks": "Blur masks for shards or a folder in the ReLoBlur layout; to edit, and back.",
    "short": "Synthetic short exposures for shards or a folder in the ReLoBlur layout.",
    "import": "Public datasets (reloblur, gopro, realblur, pairs) to shards.",
    "export": "Shards to a public layout (reloblur, pairs, webdataset).",
    "inspect": "Contents and statistics of shards.",
    "shards": "Merge, split, thin out or repack datasets without reprocessing.",
    "report": "The HTML quality report of a dataset.",
    "train": "Train a model on shards.",
    "evaluate": "Score a checkpoint by the papers' metrics.",
    "deblur": "Restore whole photographs.",
    "export-model": "A checkpoint as an ONNX file.",
    "models": "What models there are.",
    "doctor": "Versions, traps, disk, GPU: to paste into an issue.",
    "demo": "Simulate, process, train briefly, evaluate: a few minutes, no downloads.",
}

# Verbs whose module is called otherwise: no Python module can be called "import" or have a hyphen.
_MODULES = {"import": "import_", "export-model": "export_model"}


class LazyGroup(click.Group):
    """A group that knows its verbs by name and imports `relo.cli.<verb>` on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Verbs in the order of the work."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the module of a verb and return its command."""
        if cmd_name not in VERBS:
            return None
        return importlib.import_module(f"relo.cli.{_MODULES.get(cmd_name, cmd_name)}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest verb where one is mistyped."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, n=1)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean '{near[0]}'?", ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the verbs without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start with:  relo demo     Then:  relo process RAW_DIR",
)
@click.version_option(__version__, prog_name="relo")
def cli() -> None:
    """RAW pairs of a beam-splitter rig in, trained local-motion-deblurring model out."""


def main(args: list[str] | None = None) -> Any:
    """Run the program; user errors become one line and exit code 2."""
    try:
        code = cli.main(args=args, prog_name="relo", standalone_mode=False)
    except click.exceptions.Exit as leave:
        code = leave.exit_code
    except click.Abort:
        code = _interrupted()
    except click.ClickException as error:
        error.show()
        code = EXIT_USAGE
    except ReloError as error:
        click.echo(f"Error: {error}", err=True)
        code = EXIT_USAGE
    except KeyboardInterrupt:
        code = _interrupted()
    except SystemExit:
        # So click answers when the reader of our output (head, less) has left: that is no error of ours.
        code = EXIT_OK
    sys.exit(code if isinstance(code, int) else 0)


def _interrupted() -> int:
    click.echo(
        "Interrupted. What was finished is kept; the same command continues (train: with --resume).", err=True
    )
    return EXIT_INTERRUPTED
