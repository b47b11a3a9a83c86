"""The models that come with the package: a folder for each name, one in it for each version."""

from pathlib import Path


def shipped() -> dict[str, Path]:
    """The folder of every shipped model by name; its versions are the numbered folders in it."""
    here = Path(__file__).parent
    return {
        config.parts[-3]: config.parent.parent for config in sorted(here.glob("*/*/config.json"))
    }
