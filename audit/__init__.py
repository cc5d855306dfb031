"""The images themselves: duplicates, leaks between splits and wrong labels, and what they do to the answers.

It can be called: ``backbench.audit(...)`` is ``backbench.api.audit``.
"""

from backbench import make_callable

make_callable(__name__)
