"""HTTP: the application, streaming, errors and the dialects."""
