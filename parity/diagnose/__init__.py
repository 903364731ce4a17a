"""Why two networks that should be the same are not: known mistakes of conversion, tried one after the other.

A diagnosis runs through these files from top to bottom::

    hypothesis   a network as data, and what a known mistake is: how to see it and how to undo it
    weights      the known mistakes in stored tensors        configs   those in pixels, layers, priors and detection rule
    evidence     which stored tensors differ, and which known mistakes explain it bit for bit
    sides        the suspect's file, and the side that is believed, with its answers
    judge        how far the suspect agrees with them, as a whole and at one layer
    search       ``diagnose``: from the first divergent layer to the mistake behind it, and on to the next one
    result       what came out, as data and for a terminal
"""
