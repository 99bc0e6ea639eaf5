"""The command ``completion``, and the answer to a shell that asks what comes next."""

import argparse
from itertools import chain
from typing import Any

from laion_fmri.base.bids import FILTERS
from laion_fmri.commands.output import DONE, add_command
from laion_fmri.commands.parser import find_commands

#: For each shell, how to try its script, and how to keep it.
SHELLS = {
    "bash": (
        'eval "$(laion-fmri completion bash)"',
        "add that line to ~/.bashrc, or save this as\n"
        "# ~/.local/share/bash-completion/completions/laion-fmri if you have bash-completion",
    ),
    "zsh": (
        'eval "$(laion-fmri completion zsh)"',
        "add that line to ~/.zshrc, below 'autoload -U compinit; compinit', or save this as\n"
        "# _laion-fmri in a folder of your $fpath",
    ),
    "fish": (
        "laion-fmri completion fish | source",
        "save this as ~/.config/fish/completions/laion-fmri.fish",
    ),
}


def add(commands: Any) -> None:
    """Add the command to the parsers `commands`."""
    text = "print the script that makes a shell complete"
    epilog = (
        'example: eval "$(laion-fmri completion bash)". Subjects, sessions and the values of all '
        "filters are completed as the last listing had them: 'laion-fmri entities' makes one."
    )
    completion = add_command(commands, "completion", _run_completion, text, epilog)
    completion.hint = "SHELL"  # type: ignore[attr-defined]
    completion.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def _run_completion(arguments: argparse.Namespace) -> int:
    from argcomplete.shell_integration import shellcode

    script = shellcode(["laion-fmri"], shell=arguments.shell).strip()
    now, always = SHELLS[arguments.shell]
    comment = f"# Tab completion of laion-fmri. To try it: {now}\n# To keep it: {always}."
    first, _, rest = script.partition("\n")
    # The mark that tells zsh what a file of its $fpath completes has to be the first line of it.
    lines = [first, comment, rest] if first.startswith("#compdef") else [comment, first, rest]
    print("\n".join(lines))
    return DONE


def answer_shell(parser: argparse.ArgumentParser) -> None:
    """Tell the shell that has called us what can come next, and end the process."""
    import argcomplete
    from argcomplete.completers import ChoicesCompleter

    commands = find_commands(parser)
    for action in chain.from_iterable(command._actions for command in commands.values()):
        if action.dest in ("subject", "scope", *FILTERS):
            action.completer = _offer_values
        elif action.type not in (None, str):  # a number
            action.completer = ChoicesCompleter({})
    argcomplete.autocomplete(parser)


def _offer_values(
    *, prefix: str, action: argparse.Action, parsed_args: argparse.Namespace, **_: object
) -> list[str]:
    from laion_fmri.bucket.listing import Bucket
    from laion_fmri.errors import ConfigError
    from laion_fmri.selection.completion import recall_listing, suggest_values

    try:
        known = recall_listing(Bucket.from_settings())
    except ConfigError:  # the command itself will say so
        known = {}
    scopes = getattr(parsed_args, "scope", None) or ()
    subjects = getattr(parsed_args, "subject", None) or ()
    given = getattr(parsed_args, action.dest, None) or ()
    return suggest_values(action.dest, prefix, known, scopes=scopes, subjects=subjects, given=given)
