"""How a command line reports osai's errors (kept with the core, for all three programs)."""

from osai.core.reporting import CommandFailure, ReportingGroup, reporting_errors

__all__ = ["CommandFailure", "ReportingGroup", "reporting_errors"]
