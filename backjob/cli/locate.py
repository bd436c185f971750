"""Finds the application of a command by WHERE: a database URL, an ini file or a module's name.

Makes a BackJob of its own without a keeper, so that a command is not part of the deployment. Knows no command. Writes
nothing to the screen. Raises ConfigError.
"""

from __future__ import annotations

import configparser
import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from backjob import BackJob, BackJobError, ConfigError, Jobs
from backjob.runtime.interrupts import resume
from backjob.settings import load_object

FORMS = "a database URL (sqlite:///jobs.sqlite3), an ini file, or module:application"
_INSIDE = ("wsgi_app", "wsgi", "registry", "backjob", "application", "app", "__wrapped__")
"""Attributes with the inner app, in Flask, Bottle, Pyramid, our extensions, other middleware and functools."""
_DEEPEST = 20
_PREFIX = "backjob."
_MODULE = re.compile(r"[\w.]+:[\w.]+(\(\))?")
_EGG = re.compile(r"egg:backjob(#main)?")


def find_application(where: str, connect: str | None = None, *, makes_table: bool = True) -> BackJob:
    """Return the application that ``where`` names. ``connect`` replaces its own option.

    Without ``makes_table`` it uses only an existing table.
    """
    own: dict[str, Any] = {"keeper": False} | ({"connect": connect} if connect is not None else {})
    own |= {} if makes_table else {"create_table": False}
    if where.lower().startswith(("http://", "https://", "unix:/")):
        raise ConfigError(f"WHERE can't be the address of a server, which is for --connect. It is {FORMS}")
    if not is_app(where):
        return BackJob(_refuse, **{"database": where, **own})
    path, _, section = where.partition("#")
    if path.endswith(".ini") or Path(path).is_file():
        with _run_app_code():
            return BackJob.from_settings(_refuse, {**_read_ini(Path(path), section), **own}, prefix="")
    if _MODULE.fullmatch(where):
        application = _find_in_module(where)
        config = application.config
        options = {option.name: getattr(config, option.name) for option in dataclasses.fields(config)}
        return BackJob(application.app, **{**options, **own})
    raise ConfigError(f"WHERE must be {FORMS}")  # without the value: it may be a mistyped URL with a password


def is_app(where: str) -> bool:
    """Return whether it names an app with options of its own, and not only a database."""
    return "://" not in where


def _refuse(environ: dict[str, Any], start_response: Callable[..., Any]) -> NoReturn:
    """Replace the app, which an ini file or a database URL does not name. check() shows the error message."""
    raise BackJobError("the command knows the app's options, but not the app. Name it as -A module:application")


def _read_ini(path: Path, wanted: str) -> dict[str, str]:
    """Return the options in a PasteDeploy ini file, without a prefix."""
    place = {"here": str(path.absolute().parent), "__file__": str(path.absolute())}
    parser = configparser.ConfigParser({name: text.replace("%", "%%") for name, text in place.items()}, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        with path.open(encoding="utf-8") as file:
            parser.read_file(file)
        found = {name: dict(_find_options(parser, name)) for name in parser.sections()}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None
    except configparser.Error as error:
        # The message of configparser may quote the wrong line, which may contain a password.
        place_in_it = [str(getattr(error, name)) for name in ("section", "option", "lineno") if hasattr(error, name)]
        raise ConfigError(f"{path} can't be read: {type(error).__name__} {', '.join(place_in_it)}") from None
    found = {name: options for name, options in found.items() if options}
    if wanted:
        found = {name: options for name, options in found.items() if wanted in (name, name.partition(":")[2])}
    if not found:
        section = f"a section {wanted}" if wanted else "a section"
        raise ConfigError(f"{path} needs {section} with settings named {_PREFIX}…, or a [filter:backjob]")
    first, *others = found
    if any(found[name] != found[first] for name in others):
        raise ConfigError(f"{path} has several sections with settings. Name one: {path}#{first} or …#{others[0]}")
    return found[first]


def _find_options(parser: configparser.ConfigParser, section: str) -> Iterator[tuple[str, str]]:
    """Yield the options in a section: names with the prefix, or all names if the section is our filter."""
    kind, _, name = section.partition(":")
    use = parser.get(section, "use", raw=True, fallback="")
    is_filter = kind in ("filter", "filter-app") and (_EGG.fullmatch(use) or (name == "backjob" and not use))
    for option in parser.options(section):
        if option in parser.defaults() or option.startswith("set "):
            continue  # PasteDeploy does not pass these to the app either
        if is_filter and option.startswith("get "):
            yield option.removeprefix("get ").strip(), parser.get("DEFAULT", parser.get(section, option))
        elif is_filter and option not in ("use", "next", "paste.filter_app_factory"):
            yield option, parser.get(section, option)
        elif option.startswith(_PREFIX):
            yield option.removeprefix(_PREFIX), parser.get(section, option)


@contextlib.contextmanager
def _run_app_code() -> Iterator[None]:
    """Let modules be imported from the current directory, and write what they print to standard error."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        resume()


def _find_in_module(where: str) -> BackJob:
    """Return the BackJob that a module has, ``module:application`` or ``module:factory()``."""
    try:
        with _run_app_code():
            found = load_object(where)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    application = _find_owner(found, where) if isinstance(found, Jobs) else _find_backjob(found)
    if application is None:
        raise ConfigError(f"{where} is not a BackJob, and contains none (in one of {', '.join(_INSIDE)})")
    application.close()  # its keeper would make this process a part of the deployment
    return application


def _find_backjob(app: Any) -> BackJob | None:
    seen: list[Any] = []
    waiting = [app]
    while waiting and len(seen) < _DEEPEST:
        each = waiting.pop(0)
        if isinstance(each, BackJob):
            return each
        if not any(each is other for other in seen):
            seen.append(each)
            waiting += [inside for name in _INSIDE if (inside := _get(each, name)) is not None]
    return None


def _find_owner(jobs: Jobs, where: str) -> BackJob | None:
    """Return the BackJob in the same module whose ``jobs`` these are."""
    found = (_find_backjob(each) for each in list(vars(sys.modules[where.partition(":")[0]]).values()))
    return next((each for each in found if each is not None and each.jobs is jobs), None)


def _get(each: Any, name: str) -> Any:
    """Return an attribute, or None. A proxy, such as ``current_jobs``, may raise anything outside of a request."""
    try:
        return getattr(each, name, None)
    except Exception:  # noqa: BLE001 - the app's code
        return None
