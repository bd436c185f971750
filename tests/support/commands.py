"""Are the commands of a console block real? Programs, options, targets and extras are; nothing is started.

A line is a command. Where one begins with ``$ ``, only such lines are, and the others are what they print.
"""

from __future__ import annotations

import configparser
import functools
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from gunicorn.config import Config as GunicornConfig
from packaging.requirements import Requirement

from backjob.cli.commands import backjob

from . import needs
from .pages import ROOT

_SETTING = re.compile(r"[A-Z_]+=")
_OPERATORS = ("&&", "||", ";", "|")
_GROUPS = ("flask", "celery")
"""Programs whose first word is a command with options of its own."""
_COMPILED = ("uwsgi", "mod_wsgi-express")
"""Programs that tests/machine/install compiles into this environment. The docs mean these: a distribution's package of
the same name may take other options, as Debian's uWSGI does, whose Python is a plugin."""


def read_commands(text: str) -> list[list[str]]:
    """The commands of a block, as words; what ``&&`` and the like join is several."""
    lines = text.replace("\\\n", " ").splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    commands: list[list[str]] = []
    for line in lines:
        commands.append([])
        for word in shlex.split(line, comments=True):
            if word in _OPERATORS:
                commands.append([])
            else:
                commands[-1].append(word)
    return [command for command in commands if command]


def check_command(words: list[str]) -> None:
    """Fail for one that can't be."""
    while _SETTING.match(words[0]) or words[0] == "sudo":
        words = words[1:]
    name, arguments = Path(words[0]).name, words[1:]
    _RULES.get(name, functools.partial(check_options, name))(arguments)


def check_options(program: str, arguments: list[str]) -> None:
    """Each option is one that the program tells of itself."""
    command = [arguments[0]] if program in _GROUPS else []
    known = read_help(program, *command)
    for option in (word.partition("=")[0] for word in arguments if word.startswith("-")):
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", known), f"{program} has no {option}"


@functools.lru_cache
def read_help(program: str, *command: str) -> str:
    """Return what ``--help`` prints. Programs of this environment come first, then those of the machine."""
    own = Path(sys.executable).with_name(program)
    if own.exists() or program in _COMPILED:
        path = needs.script(program)
    else:
        path = shutil.which(program) or needs.program(program)
    told = subprocess.run([path, *command, "--help"], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
    return told.stdout + told.stderr


def _check_cd(arguments: list[str]) -> None:
    assert arguments[0].startswith("/srv/") or (ROOT / arguments[0]).is_dir(), f"there is no folder {arguments[0]}"


def _check_make(arguments: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in (word for word in arguments if "=" not in word):
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"there is no make {target}"


def _check_pip(arguments: list[str]) -> None:
    assert arguments[0] == "install", arguments
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = settings["options.extras_require"]
    words = [word for word in arguments[1:] if not word.startswith("-")]
    is_checkout = any(word.startswith(".") for word in words)
    for requirement in (Requirement(re.sub(r"^\.", "backjob", word)) for word in words):
        if requirement.name == "backjob":
            assert requirement.extras <= set(extras), f"there are no such extras: {requirement}"
            assert is_checkout, "backjob is on no index: install it from a checkout"
        else:
            assert requirement.name.lower() in str(dict(extras)).lower(), f"{requirement.name} is nowhere in setup.cfg"


def _check_python(arguments: list[str]) -> None:
    if arguments[0] == "-c":
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    elif arguments[0] == "-m":
        assert importlib.util.find_spec(arguments[1]), f"there is no module {arguments[1]}"
    else:
        assert arguments[0] == "manage.py" or (ROOT / arguments[0]).is_file(), f"there is no {arguments[0]}"


def _check_backjob(arguments: list[str]) -> None:
    if arguments[0] in ("-A", "--app"):
        arguments = arguments[2:]
    name, *rest = arguments
    backjob.commands[name].make_context(name, rest)  # raises what click says of a wrong one


def _check_gunicorn(arguments: list[str]) -> None:
    config = GunicornConfig()
    options = vars(config.parser().parse_args(arguments))
    (served,) = options.pop("args")
    assert re.fullmatch(r"[\w.]+:\w+(\(\))?", served), served
    for name, value in options.items():
        if value is not None:
            config.set(name, value)


_RULES: dict[str, Callable[[list[str]], None]] = {
    "backjob": _check_backjob,
    "cd": _check_cd,
    "make": _check_make,
    "pip": _check_pip,
    "python": _check_python,
    "python3": _check_python,
    "gunicorn": _check_gunicorn,
}
