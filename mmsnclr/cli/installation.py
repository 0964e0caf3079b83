"""Whether it works here."""

import sys

from ..console import say
from .group import main


@main.command(short_help='Tell what is installed, and what to mend.')
def doctor() -> None:
    """Tell what is installed, and what to mend.

    Libraries, device, compiled operators, disk and shared memory. Where
    something is amiss, what to do stands beside it, and the exit code is 1.
    It belongs into every report of a bug.
    """
    from ..api.doctor import doctor

    found = doctor()
    for finding in found:
        say(f'{"!" if finding.fix else " "} {finding.name:17}{finding.state}')
        if finding.fix:
            say(f'{"":19}-> {finding.fix}')
    amiss = sum(finding.fix is not None for finding in found)
    say(f'{amiss} to mend' if amiss else 'All is well.')
    sys.exit(bool(amiss))
