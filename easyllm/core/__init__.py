"""What every stage stands on: recipes, coded errors, artifacts, progress, launching. Imports no stage."""
