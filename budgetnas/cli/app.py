"""The command line: runs a command, and turns errors into a message and an exit code.

Every command parses its arguments, calls a function and prints the result.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from budgetnas import __version__
from budgetnas.cli import (
    bench,
    cancel,
    compare,
    count,
    dashboard,
    delete,
    doctor,
    export,
    finish,
    fit,
    predict,
    rename,
    replay,
    report,
    search,
    show,
    space,
    studies,
    worker,
)
from budgetnas.cli.usage import USAGE_ERROR, usage_problem
from budgetnas.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_RESTART,
    BudgetnasError,
    Interrupted,
    hide_passwords,
    out_of_space,
)

app = typer.Typer(
    name="budgetnas",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("count")(count.count_command)
app.command("space")(space.space_command)
app.command("fit")(fit.fit_command)
app.command("search")(search.search_command)
app.command("worker")(worker.worker_command)
app.command("finish")(finish.finish_command)
app.command("export")(export.export_command)
app.command("predict")(predict.predict_command)
app.command("replay")(replay.replay_command)
app.command("compare")(compare.compare_command)
app.command("bench")(bench.bench_command)
app.command("doctor")(doctor.doctor_command)
app.command("studies")(studies.studies_command)
app.command("cancel")(cancel.cancel_command)
app.command("rename")(rename.rename_command)
app.command("delete")(delete.delete_command)
app.command("show")(show.show_command)
app.command("report")(report.report_command)
app.command("dashboard")(dashboard.dashboard_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"budgetnas {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Find and train the best residual network within a hard limit on parameters.

    Begin with a small search, without a download: budgetnas search digits-demo
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default that of this process; return its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    _open_missing_streams()
    _replace_unprintable()
    if not _working_directory_exists():
        return _fail("the working directory was deleted; change to another folder", EXIT_BAD_INPUT)
    try:
        code = app(arguments, standalone_mode=False, prog_name="budgetnas")
        sys.stdout.flush()
    except BudgetnasError as error:
        return _fail(str(error), error.exit_code)
    except USAGE_ERROR as error:
        problem = usage_problem(error)
        hint = f"see budgetnas {_command(arguments)}--help"
        return _fail(f"{problem}; {hint}", EXIT_BAD_INPUT) if problem else EXIT_BAD_INPUT
    except UnicodeEncodeError as error:
        return _fail(
            f"{error.object!r}: is not UTF-8, as every name in a storage is; see budgetnas studies", EXIT_BAD_INPUT
        )
    except Interrupted as error:
        return _fail(error.reason, error.exit_code) if error.reason else error.exit_code
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        _drop_output()
        return EXIT_FAILED
    except OSError as error:
        if not out_of_space(error):
            raise
        _drop_output()
        return _fail(f"no space is left for {error.filename or 'the output'}; free some, and run it again", EXIT_FAILED)
    except Exception as error:
        if type(error).__name__ == "AcceleratorError":  # PyTorch's; importing it here would slow every command down
            reason = str(error).partition("\n")[0]
            return _fail(f"the GPU failed ({reason}); run the command again", EXIT_RESTART)
        if not type(error).__module__.startswith("sqlalchemy."):
            raise
        from budgetnas.storage.engine import storage_failed

        return _fail(storage_failed(error), EXIT_FAILED)
    return code if isinstance(code, int) else 0


def _working_directory_exists() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _open_missing_streams() -> None:
    """Discard output where a program was started with its streams closed: a database could get their numbers."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _replace_unprintable() -> None:
    """Print a question mark for characters that the terminal's encoding lacks, instead of failing after a training."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):  # a stream that cannot be changed
                stream.reconfigure(errors="replace")


def _drop_output() -> None:
    """Discard the buffered output: writing it at exit would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> int:
    print(f"budgetnas: {hide_passwords(' '.join(message.split()))}", file=sys.stderr)
    return code


def _command(arguments: Sequence[str]) -> str:
    names = {command.name for command in app.registered_commands}
    return next((f"{word} " for word in arguments[:1] if word in names), "")
