"""``python -m knit_cli``, for when the command `knit` is not on the path."""

from knit_cli.main import main

if __name__ == "__main__":
    main()
