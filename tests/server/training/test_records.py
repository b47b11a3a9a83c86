"""Records of earlier releases are brought to the newest form, and keep what they hold."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, text

from carousel.server.training.database import FILE, MIGRATIONS, Database
from carousel.server.training.records import DatasetRecord

# As the first release wrote it.
DATASET = """
INSERT INTO datasets (id, home, state, format, file_name, size_bytes, sha256, received_bytes, rows,
                      columns, created)
VALUES ('fox', 'here', 'ready', 'text', 'fox.txt', 3, x'00', 3, 3, '[]', 1.0)
"""


def test_records_of_the_first_release_are_brought_up_to_date(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / FILE}")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(text(DATASET))
    engine.dispose()

    database = Database(tmp_path)
    with database.begin() as session:
        found = session.get_one(DatasetRecord, "fox")
    database.close()
    assert (found.rows, found.text) == (3, None)
