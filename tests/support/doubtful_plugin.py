"""The unhurried plugin server, which doubts for long that an older policy than it knows is meant.

python -m support.doubtful_plugin --socket PATH ...
"""

from __future__ import annotations

from canary_plugin.deciders import policies

from support.unhurried_plugin import run

NAME = "support.doubtful_plugin"
BELIEVED_AFTER_S = 600.0

if __name__ == "__main__":
    policies.BELIEVED_AFTER_S = BELIEVED_AFTER_S
    run(NAME)
