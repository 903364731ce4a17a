"""The proof that a converted network is the source's: ``verify``, the sweep over all networks, exported models."""
