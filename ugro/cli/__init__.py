"""The user layer: the `ugro` command."""
