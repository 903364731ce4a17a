"""The reference SSD: configs, layers, prior boxes, what comes before and behind the network, checkpoints, named networks."""
