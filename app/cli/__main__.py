"""`python -m app.cli`: the same as `darkroom`, for the children that the command line starts."""

from app.cli import main

main()
