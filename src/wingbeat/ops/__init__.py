"""The op table, the recorder and the backends that execute a program."""
