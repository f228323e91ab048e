"""The command ``backmap-openmm``: exit codes and one clear line for everything that can go wrong."""

from __future__ import annotations

import sys
from collections.abc import Sequence

USAGE, FAILED, INTERRUPTED = 2, 1, 130


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code: 0, 1 (cannot be done), 2 (usage), 130 (Ctrl-C)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(arguments)
    except KeyboardInterrupt:
        code = _say("interrupted; no output was written", INTERRUPTED)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    import click

    from openmm_backmap.cli.app import app
    from openmm_backmap.errors import BackmapError

    try:
        result = app.main(args=arguments, prog_name="backmap-openmm", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return USAGE
    except click.ClickException as error:
        return _say(f"Error: {error.format_message()}", error.exit_code)
    except click.Abort:
        raise KeyboardInterrupt from None
    except (BackmapError, OSError) as error:
        return _fail(error, arguments)
    except MemoryError:
        return _say("Error: out of memory; use fewer samples, a smaller system or another device", FAILED)
    except Exception as error:
        # A click.Abort or Ctrl-C inside a library may come out wrapped; the cause tells.
        if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        return _fail(error, arguments, f"{type(error).__name__}: ", " (unexpected; run with -v for the traceback)")


def _fail(error: Exception, arguments: list[str], before: str = "", after: str = "") -> int:
    if {"-v", "--verbose"} & set(arguments):
        import traceback

        traceback.print_exception(error)
    return _say(f"Error: {before}{' '.join(str(error).split())}{after}", FAILED)


def _say(line: str, code: int) -> int:
    sys.stderr.write(f"{line}\n")
    return code
