"""The command line: a table of commands, and one line for whatever goes wrong.

A command is a typed function in `reeltok.cli`; typer turns its signature and docstring into
options and help. Only the module of the command that runs is imported, so `reeltok --help` is
quick. Every command takes --json (one object for programs instead of text) and --debug.
"""

import atexit
import gc
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from reeltok.allocator import suit_commands
from reeltok.cli import process
from reeltok.cli.examples import EXAMPLES
from reeltok.files.atomic import naming
from reeltok.files.text import nearest, printable
from reeltok.wording import as_options, explain

if TYPE_CHECKING:
    from reeltok.cli.report import Report

# name: (module of reeltok.cli, function, what it does)
COMMANDS = {
    "encode": ("encode", "encode", "Encode videos as .reel files of tokens."),
    "decode": ("decode", "decode", "Decode .reel files to videos."),
    "reconstruct": (
        "reconstruct",
        "reconstruct",
        "Encode and decode a video, and compare the two.",
    ),
    "demo": ("demo", "demo", "Encode and decode a short clip, and show the result."),
    "models": ("models", "models", "List the tokenizers that can be used by name."),
    "info": ("info", "info", "Describe a .reel file, a video or a model."),
    "download": ("models", "download", "Download the published weights of a preset."),
    "convert": ("convert", "convert", "Convert a public checkpoint to a model folder, or back."),
    "export": ("export", "export", "Write a tokenizer as graphs of torch.export or ONNX."),
    "statistics": (
        "models",
        "statistics",
        "Measure the mean and deviation of latents, and save them.",
    ),
    "train": ("training", "train", "Train a tokenizer or a generator from a recipe."),
    "runs": ("training", "runs", "Plot the curves of a training run."),
    "generate": ("generate", "generate", "Generate videos."),
    "evaluate": ("evaluate", "evaluate", "Evaluate a tokenizer on videos, under a protocol."),
    "compare": ("compare", "compare", "Compare tokenizers and codecs, and write a report."),
    "fvd": ("fvd", "fvd", "Measure the distance of generated videos from real ones."),
    "probe": ("probe", "probe", "Train a linear classifier on tokens, and print its accuracy."),
    "bair": ("bair", "bair", "Evaluate a prior's predictions under the BAIR protocol."),
    "push": ("push", "push", "Evaluate a tokenizer or a prior on simulated robot pushing."),
    "push sets": ("push_sets", "push_sets", "Compare generated and real pushing as two sets."),
    "view": ("view", "view", "Open a web page to try tokenizers on."),
    "drive": ("drive", "drive", "Open a web page to drive a world that a prior predicts."),
    "corpus build": ("corpus", "build", "Encode a data set as shards of tokens."),
    "corpus info": (
        "corpus_checks",
        "corpus_info",
        "Describe a corpus: clips, hours, tokens, sizes.",
    ),
    "corpus plan": (
        "corpus_checks",
        "plan",
        "Estimate how long a corpus takes to build, and how large it becomes.",
    ),
    "corpus verify": (
        "corpus_checks",
        "corpus_verify",
        "Check the files of a corpus, and a sample.",
    ),
    "corpus finish": ("corpus", "finish", "Make the index of a corpus whose shards are done."),
    "corpus export": ("corpus_export", "corpus_export", "Write a corpus as a trainer reads it."),
    "data check": (
        "training",
        "check_data",
        "Decode all clips to the end, and list the intact ones.",
    ),
    "data bair": ("bair_clips", "unpack_bair", "Unpack BAIR's TFRecords into clips and actions."),
    "data push": ("push_clips", "make_push", "Simulate robot pushing: clips, actions, positions."),
}
EPILOG = (
    "Every command also takes --json (print one JSON object instead of text) and --debug (show the "
    "traceback of an error, and what this machine lacks for the fast ways)."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 after an error, 130 after Ctrl-C.

    128 + its number after another signal, 141 where the reader of a pipe has gone.
    """
    gc.set_threshold(200_000)  # the usual 700 makes loading torch a tenth slower
    words = list(sys.argv[1:] if argv is None else argv)
    as_json, debug = take_flag(words, "--json"), take_flag(words, "--debug")
    process.fill_descriptors()
    ending = process.Ending()
    try:
        if argv is None:  # the process is ours
            atexit.register(gc.freeze)  # else the last collection looks at all of torch: 0.4 s
            suit_commands()
        with process.ended_by_signals() as ending, notes_on_stderr(words):
            report = run(words)
            if report is None:  # help, which is printed
                process.require_output()
                return 0
            return show(report, as_json=as_json)
    except (Exception, KeyboardInterrupt) as error:
        if ending.number is not None or isinstance(error, KeyboardInterrupt):
            return complain(ending.said, code=ending.code)
        return fail(error, words, debug=debug)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    finally:
        if debug:
            say_fallbacks()
        process.drop_unsaid()


def fail(error: Exception, words: Sequence[str], *, debug: bool) -> int:
    """The exit code of what an error ended, said in a sentence; one that has none is raised on."""
    if isinstance(error, BrokenPipeError):  # the reader has gone, as with `| head`: end quietly
        return 141
    options = options_of(words)
    known = isinstance(error, ValueError | OSError | ImportError | MemoryError | RuntimeError)
    sentence = explain(error, options) if known else None
    if debug or sentence is None:
        raise error
    return complain(as_options(sentence, options))


def say_fallbacks() -> None:
    """Say on standard error what is done in slower or other ways here, a line each."""
    from reeltok.cli.fallbacks import fallbacks

    for line in fallbacks():
        process.print_error(f"reeltok: debug: {line}")


def take_flag(words: list[str], flag: str) -> bool:
    """Remove `flag` from the words before "--"; whether it was there."""
    end = words.index("--") if "--" in words else len(words)
    if flag not in words[:end]:
        return False
    words.remove(flag)
    return True


def run(words: Sequence[str]) -> "Report | None":
    """What the command that `words` begin with reports; None where they asked for help."""
    if not words or words[0] in ("--help", "-h", "help"):
        process.print_out(overview())
        return None
    if words[0] == "--version":
        from reeltok.version import __version__

        process.print_out(f"reeltok {__version__}")
        return None
    name = find_command(words)
    return call(name, words[len(name.split()) :])


def overview() -> str:
    """The help that lists all commands."""
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {what}" for name, (_, _, what) in COMMANDS.items()]
    return "\n".join(
        [
            "Usage: reeltok COMMAND [ARGUMENTS] [OPTIONS]",
            "",
            "  Video to tokens and tokens to video.",
            "",
            "Commands:",
            *rows,
            "",
            "`reeltok COMMAND --help` explains a command, `reeltok --version` prints the version.",
            EPILOG,
        ]
    )


def find_command(words: Sequence[str]) -> str:
    """The command that `words` begin with. ValueError that names the nearest for any other."""
    for name in (" ".join(words[:2]), words[0]):
        if name in COMMANDS:
            return name
    inner = [name for name in COMMANDS if name.startswith(f"{words[0]} ")]
    if inner:
        raise ValueError(f"`reeltok {words[0]}` is incomplete: give `reeltok {inner[0]}`")
    near = nearest(words[0], COMMANDS)
    hint = f"did you mean {near}?" if near else "`reeltok --help` lists them"
    raise ValueError(f"there is no command {words[0]!r}: {hint}")


def command_of(name: str) -> Any:
    """The click command of a name: its module is imported, nothing is run."""
    import typer
    from typer.main import get_command

    module, function, _ = COMMANDS[name]
    names = {"help_option_names": ["--help", "-h"]}
    app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
    epilog = f"{EPILOG}\n\nExample: {EXAMPLES[name]}"
    make = app.command(name, epilog=epilog, context_settings=names)
    make(getattr(import_module(f"reeltok.cli.{module}"), function))
    return get_command(app)


def call(name: str, words: Sequence[str]) -> "Report | None":
    """Parse `words` by the command's signature and call it; None where they asked for help."""
    import typer

    command = command_of(name)
    misused: Any = typer.BadParameter.__base__  # UsageError, wherever this typer keeps it
    try:
        with naming("standard output"):  # help is printed here
            context = command.make_context(f"reeltok {name}", list(words))
        with context:
            return command.invoke(context)
    except typer.Exit:
        return None
    except misused as error:
        said = error.format_message().rstrip(".")
        said = said[:1].lower() + said[1:]
        if type(error).__name__ == "MissingParameter":  # which word it is remains a guess
            usage = " ".join(error.ctx.get_usage().split()).removeprefix("Usage: ")
            usage = usage.translate({ord("{"): None, ord("}"): None})
            said = f"{said} of `{usage}`"
        raise ValueError(f"{said}; `reeltok {name} --help` says what it takes") from error


def show(report: "Report", *, as_json: bool) -> int:
    """Print a report; the exit code. It goes to standard error where the output is a pipe."""
    if as_json:
        import json

        from reeltok.files.parsing import finite

        text = json.dumps(finite(report.data), default=str, allow_nan=False)
        process.print_out(text, to_error=report.piped)
    elif report.text:
        lines = map(printable, report.text.split("\n"))  # names of files may hold anything
        process.print_out("\n".join(lines), to_error=report.piped)
    return 0 if report.failed is None else complain(report.failed)


def complain(sentence: str, code: int = 2) -> int:
    """Say on standard error, in one line, what went wrong."""
    process.print_error(f"reeltok: {printable(sentence)}")
    return code


def options_of(words: Sequence[str]) -> dict[str, str]:
    """The options of a command, such as --max-broken, by the names that arguments of the library
    have: those of the command's function, and the options' own. None where there is no command.
    """
    try:
        command = command_of(find_command(words))
    except (ValueError, IndexError):
        return {}
    found: dict[str, str] = {}
    for parameter in command.params:
        flag = next((each for each in parameter.opts if each.startswith("--")), None)
        if flag is not None:
            found |= dict.fromkeys((parameter.name, flag[2:].replace("-", "_")), flag)
    return found


@contextmanager
def notes_on_stderr(words: Sequence[str]) -> Iterator[None]:
    """Inside, what the library warns of is one line on standard error, said once.

    Arguments that it names are said as the options of the command that `words` begin with.
    """
    said = set()

    def say(message: Warning | str, *where: Any, **more: Any) -> None:
        text = printable(" ".join(str(message).split()))
        text = as_options(text, options_of(words)) if "`" in text else text
        if text not in said:
            said.add(text)
            process.print_error(f"reeltok: note: {text}")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.filterwarnings("ignore", module=r"PIL\.")  # of damaged tags, which are left out
        warnings.showwarning = say
        yield
