"""Alembic's and Flask-Migrate's autogenerate beside the tables of jobs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, inspect

from backjob.integrations.alembic import exclude_tables, include_object
from backjob.storage.sql.schema import build_table


def find_changes(url: str, hook: Any) -> list[tuple[str, str]]:
    """Return what autogenerate proposes to an application that has the model of one new table."""
    models = MetaData()
    Table("bill", models, Column("id", Integer, primary_key=True))
    engine = create_engine(url)
    with engine.connect() as connection:
        options = {"include_object": hook}
        found = compare_metadata(MigrationContext.configure(connection, opts=options), models)
    engine.dispose()
    return sorted((kind, str(item.name)) for kind, item, *_ in found)


def make_tables(url: str, table_name: str) -> set[str]:
    """Make the tables of jobs, and an old one of the application's own. Return the names of the former."""
    engine = create_engine(url)
    metadata = build_table(table_name).metadata
    Table("old_bill", metadata, Column("id", Integer, primary_key=True))
    metadata.create_all(engine)
    made = set(inspect(engine).get_table_names()) - {"old_bill"}
    engine.dispose()
    return made


@pytest.mark.parametrize("table_name", ["background_job", "own_jobs"])
def test_autogenerate_leaves_the_tables_of_jobs_alone(tmp_path: Path, table_name: str) -> None:
    url = f"sqlite:///{tmp_path}/site.sqlite3"
    names = make_tables(url, table_name)
    assert names == {table_name, f"{table_name}_process"}
    assert {name for kind, name in find_changes(url, None) if kind == "remove_table"} == {*names, "old_bill"}
    hook = include_object if table_name == "background_job" else exclude_tables(table_name)
    assert find_changes(url, hook) == [("add_table", "bill"), ("remove_table", "old_bill")]


def test_a_hook_of_the_application_s_own_decides_about_its_tables(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/site.sqlite3"
    make_tables(url, "background_job")

    def leave_old_ones(item: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
        assert "background_job" not in str(name)
        return not reflected

    hook = exclude_tables(include_object=leave_old_ones)
    assert find_changes(url, hook) == [("add_table", "bill")]


@pytest.mark.live
def test_flask_migrate(tmp_path: Path) -> None:
    """As docs/databases.md shows it, with its own commands."""
    url = f"sqlite:///{tmp_path}/site.sqlite3"
    make_tables(url, "background_job")
    (tmp_path / "shop.py").write_text(
        "from flask import Flask\nfrom flask_migrate import Migrate\nfrom flask_sqlalchemy import SQLAlchemy\n"
        "from backjob.integrations.alembic import include_object\n"
        f"app = Flask(__name__)\napp.config['SQLALCHEMY_DATABASE_URI'] = {url!r}\n"
        "db = SQLAlchemy(app)\nmigrate = Migrate(app, db, include_object=include_object)\n"
        "class Bill(db.Model):\n    id = db.Column(db.Integer, primary_key=True)\n"
    )
    for command in ("init", "migrate"):
        subprocess.run(
            [sys.executable, "-m", "flask", "--app", "shop", "db", command],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            env=os.environ | {"PYTHONDEVMODE": ""},
        )
    (written,) = (tmp_path / "migrations" / "versions").glob("*.py")
    text = written.read_text()
    assert "op.create_table('bill'" in text
    assert "op.drop_table('old_bill')" in text
    assert "background_job" not in text
