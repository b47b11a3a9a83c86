"""Writes every dashboard as JSON into deploy/grafana/dashboards, and removes what is none."""

from __future__ import annotations

import json
from pathlib import Path

from tools.dashboards import gates, host, overview, sessions, training
from tools.dashboards.board import Board

FOLDER = Path(__file__).parents[2] / "deploy/grafana/dashboards"
BOARDS = (overview.BOARD, sessions.BOARD, gates.BOARD, training.BOARD, host.BOARD)


def text(board: Board) -> str:
    """The file of a dashboard."""
    return json.dumps(board.to_json(), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    for old in FOLDER.glob("*.json"):
        old.unlink()
    for board in BOARDS:
        (FOLDER / f"{board.id}.json").write_text(text(board))


if __name__ == "__main__":
    main()
