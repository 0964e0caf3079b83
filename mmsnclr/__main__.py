"""`python -m mmsnclr`."""

from .cli import main

main(prog_name='mmsnclr')
