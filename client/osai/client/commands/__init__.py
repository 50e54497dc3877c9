"""The `osai` command's groups, one module each."""
