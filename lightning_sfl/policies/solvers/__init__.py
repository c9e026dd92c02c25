"""Solvers of the problems that policies pose: functions of arrays, which know no policy."""
