"""How sure a figure is: intervals, corrections for many tests, matchings and null distributions."""
