"""The verbs of the ``ssdconv`` command: one small file per verb, heavy imports inside ``run`` only."""
