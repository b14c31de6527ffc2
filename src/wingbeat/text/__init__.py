"""Bytes to tokens, tokens to text, messages to prompts."""
