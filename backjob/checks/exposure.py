"""Findings of a check about modes and owners of files that other users of this host can read or change.

Reads file modes and changes nothing. A key file that others can read or change is refused elsewhere: see keyring.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from .report import Finding


def find_exposures(database: Path | None, key: Path | None) -> Iterator[Finding]:
    """Yield findings about the modes of the SQLite file and its WAL, and about the folders of both files and above."""
    if database is not None:
        yield from _check_database(database)
    folders = [file.absolute().parent for file in (database, key) if file is not None]
    above = [parent for folder in folders for parent in folder.parents]
    for folder in dict.fromkeys(folders + above):
        with contextlib.suppress(OSError):
            found = folder.stat()
            # In a sticky folder, other users can create files, but not rename or delete those of others.
            if folder in folders or not found.st_mode & stat.S_ISVTX:
                yield from _check_folder(folder, found)


def _check_database(database: Path) -> Iterator[Finding]:
    for file in (database, database.with_name(f"{database.name}-wal")):
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(file.stat().st_mode)
            if mode & 0o077:
                text = f"The SQLite file {file} has mode {mode:04o}: other users can read or change the jobs in it"
                yield Finding("file-mode", text, f"Run chmod 600 {database}*, unless that is intended")
                return


def _check_folder(folder: Path, found: os.stat_result) -> Iterator[Finding]:
    reason = f"belongs to user {found.st_uid}" if found.st_uid not in (0, os.geteuid()) else ""
    mode = stat.S_IMODE(found.st_mode)
    if mode & stat.S_IWOTH or (mode & stat.S_IWGRP and not _is_own_group(found)):
        reason = f"has mode {mode:04o}"
    if reason:
        text = f"The folder {folder} {reason}: other users can replace the files in it"
        remedy = "Give the SQLite file and the key file a folder that only the server's user can write to"
        yield Finding("shared-folder", text, remedy)


def _is_own_group(found: os.stat_result) -> bool:
    """Return whether the group is the owner's own: same name, no other members. Most Linux systems make one."""
    try:
        user, group = pwd.getpwuid(found.st_uid), grp.getgrgid(found.st_gid)
    except KeyError:
        return False
    return group.gr_name == user.pw_name and not set(group.gr_mem) - {user.pw_name}
