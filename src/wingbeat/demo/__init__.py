"""The model that comes with wingbeat."""

from pathlib import Path

DEMO = "demo"
"""The name under which it is asked for."""


def demo_model_path() -> Path:
    """The bundled model's file. Raises FileNotFoundError when this installation carries none."""
    folder = Path(__file__).parent
    for path in sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.pth")):
        return path
    raise FileNotFoundError(f"no demo model in {folder}: name a model's file")
