"""What every room stands on: no models, no imports from the rooms above."""
