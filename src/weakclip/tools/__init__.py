"""Tools around a run: init, tag, check, annotate, export, submit."""
