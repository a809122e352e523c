"""The HTTP face and the command line. Knows no torch; of models it reads the catalogue alone."""
