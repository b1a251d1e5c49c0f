"""What both fronts share: arguments, checks and steps; everything but waiting."""
