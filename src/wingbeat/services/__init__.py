"""What a dialect needs beside the engine."""
