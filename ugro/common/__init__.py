"""Shared by every layer: records, configuration and errors. Imports nothing else of UGRO."""
