"""Operators of the older kind (acl) that graphs for Ascend may use, each with the reason.

Every other one fails the audit: most have a counterpart of the newer kind (aclnn), whose launch takes less time.
"""

from __future__ import annotations

ACL_OPERATORS = {
    "AddN": "sums of gradients; the framework's differentiation inserts it",
    "Assign": "once a step and parameter, in the optimizer; a copy within the device",
    "AssignAdd": "once a micro-batch and parameter, into the accumulated gradient",
}
