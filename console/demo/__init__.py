"""`postroom demo`: the main job, live, on a private Redis and simulated agents, within a minute.

scene     what runs, and how an act watches it: the events streams, no guessing by time
acts      one function for each thing to see; every message says beforehand how it is to end
account   everything that was published, against how each ended
show      how it looks
"""
