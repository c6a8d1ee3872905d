"""The figures, one file each: ``PROGRAM`` computes the plotted numbers and draws them (see ``analysis.figure``)."""
