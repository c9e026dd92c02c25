"""A privacy audit: attacks that read exactly what crossed between clients and server.

An attack states what it may see and know (its threat model) and is handed nothing else.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attacks.privacy_audit import PrivacyAudit

__all__ = ["PrivacyAudit"]


def __getattr__(name: str) -> Any:
    """The callback, imported when it is asked for: attacks themselves do without Lightning."""
    if name == "PrivacyAudit":
        from attacks.privacy_audit import PrivacyAudit

        return PrivacyAudit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
