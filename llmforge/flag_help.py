"""What ``--help`` shows of many flags."""

from __future__ import annotations

import argparse
import enum

#: What stands for a value, by its type.
_VALUES = {int: "N", float: "X"}


class FlagHelp(argparse.ArgumentDefaultsHelpFormatter):
    """One spelling of each flag, a short word for its value, ``[no_]`` where it is a switch, and defaults that say something."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.dest == "help":
            return super()._format_action_invocation(action)
        flag = next(option for option in action.option_strings if option.startswith("--"))
        if action.nargs == 0:
            return flag
        if action.const is True:  # a switch, to which true or false may be given, too
            return f"--[no_]{flag.removeprefix('--')}"
        return f"{flag} {self._format_args(action, self._get_default_metavar_for_optional(action))}"

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return _VALUES.get(action.type, "TEXT") if isinstance(action.type, type) else "TEXT"

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default.value if isinstance(action.default, enum.Enum) else action.default
        if default in (None, argparse.SUPPRESS) or default in ([], {}, "") or default is False:
            return action.help
        return super()._get_help_string(action)

    def _expand_help(self, action: argparse.Action) -> str:
        # argparse formats help texts with %; a bare % in one must not crash --help.
        try:
            return super()._expand_help(action)
        except (ValueError, TypeError, KeyError):
            return action.help or ""
