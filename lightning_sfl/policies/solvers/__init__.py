"""Solvers: functions of arrays, which know no policy."""
