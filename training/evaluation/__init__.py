"""How good a cascade that knows Vista is: measures on held-out scenes, with intervals, and a report."""
