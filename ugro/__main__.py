"""`python -m ugro`: the same as the `ugro` command, for cron and for machines where it is not on PATH."""

from ugro.cli.main import main

if __name__ == "__main__":
    main()
