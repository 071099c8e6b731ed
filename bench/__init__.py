"""`make bench`: what Postroom costs beside a Letta call, side by side with what one would use instead.

`trials/` has one file for each question, `child.py` runs what is measured in processes of their own, `arena.py` is
the private Redis they share, `measure.py` and `show.py` make the table. docs/performance.md says how to read it.
"""
