from tests.server.conftest import model_path, server

__all__ = ["model_path", "server"]
